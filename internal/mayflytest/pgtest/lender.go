package pgtest

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mayfly-id/mayfly"
)

// Lender is a database that lends roles: it has a table of orders, a role that may
// read it, and an admin that is no superuser.
type Lender struct {
	t     testing.TB
	Super string // address, as superuser
	Admin string // address, as the admin
	Group string // the role that may read; members must show a password
}

// AdminPassword is the admin's. Nobody but a target may ever say it.
const AdminPassword = "correct-horse-battery"

// NewLender makes one. All of it is gone when t ends.
func NewLender(t testing.TB) *Lender {
	t.Helper()
	l := &Lender{t: t, Super: New(t)}
	id := mayfly.NewLeaseID(time.Now()).Suffix()
	admin := "lender_" + id
	l.Group = "reader_" + id
	config, err := pgx.ParseConfig(l.Super)
	if err != nil {
		t.Fatal(err)
	}
	l.Must(l.Super, `DO $$ BEGIN CREATE ROLE scram; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`)
	l.Must(l.Super, `CREATE ROLE `+l.Group+` IN ROLE scram`, `CREATE ROLE `+admin+` LOGIN CREATEROLE PASSWORD '`+AdminPassword+`'`,
		`GRANT `+l.Group+` TO `+admin+` WITH ADMIN OPTION`, `ALTER DATABASE `+config.Database+` OWNER TO `+admin,
		`CREATE TABLE orders (id INT)`, `INSERT INTO orders VALUES (1)`, `GRANT SELECT ON orders TO `+l.Group,
		`GRANT CREATE ON SCHEMA public TO `+l.Group, `GRANT CREATE ON SCHEMA public TO `+admin)
	u, err := url.Parse(l.Super)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("user", admin)
	q.Set("password", AdminPassword)
	u.RawQuery = q.Encode()
	l.Admin = u.String()
	t.Cleanup(func() {
		l.Must(l.Super, `REASSIGN OWNED BY `+admin+` TO postgres`, `DROP OWNED BY `+admin, `DROP OWNED BY `+l.Group, `DROP ROLE `+admin, `DROP ROLE `+l.Group)
	})
	return l
}

// Must runs statements at an address.
func (l *Lender) Must(address string, statements ...string) {
	l.t.Helper()
	conn, err := pgx.Connect(context.Background(), address)
	if err != nil {
		l.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, one := range statements {
		if _, err := conn.Exec(context.Background(), one); err != nil {
			l.t.Fatalf("%s: %v", one, err)
		}
	}
}

// Count runs a query for one number, as superuser.
func (l *Lender) Count(query string, args ...any) (n int) {
	l.t.Helper()
	conn, err := pgx.Connect(context.Background(), l.Super)
	if err != nil {
		l.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		l.t.Fatal(err)
	}
	return n
}

// Lent is how many roles stand that are lent here, by the server's own word.
func (l *Lender) Lent() int {
	l.t.Helper()
	return l.Count(`SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member JOIN pg_roles g ON g.oid = m.roleid
		WHERE g.rolname = $1 AND r.rolname LIKE 'mf\_%'`, l.Group)
}

// Reads reports, as an error, whether the holder of a credential can read the
// orders.
func (l *Lender) Reads(values map[string]mayfly.Secret) error {
	conn, err := pgx.Connect(context.Background(), Address(values, ""))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(), `SELECT id FROM orders`)
	return err
}

// Address is what the holder of a credential connects to; an empty database is
// the credential's own.
func Address(values map[string]mayfly.Secret, database string) string {
	v := func(name string) string { return values[name].Reveal() }
	if database == "" {
		database = v("database")
	}
	q := url.Values{"host": {v("host")}, "port": {v("port")}, "user": {v("user")}, "password": {v("password")}, "sslmode": {"disable"}}
	return "postgres:///" + database + "?" + q.Encode()
}
