package broker_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/broker"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
)

const adminPassword = "correct-horse-battery"

// server is a database server with a role that may read, for each test; its admin
// is no superuser.
type server struct {
	t     testing.TB
	super string // address
	admin string // address of the role that lends
	group string
}

func newServer(t testing.TB) *server {
	s := &server{t: t, super: pgtest.New(t)}
	id := strings.TrimPrefix(string(mayfly.NewLeaseID(time.Now())), "lease_")
	admin := "lender_" + id
	s.group = "reader_" + id
	s.must(s.super, `DO $$ BEGIN CREATE ROLE scram; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`)
	database := s.database()
	s.must(s.super, `CREATE ROLE `+s.group+` IN ROLE scram`, `CREATE ROLE `+admin+` LOGIN CREATEROLE PASSWORD '`+adminPassword+`'`,
		`GRANT `+s.group+` TO `+admin+` WITH ADMIN OPTION`, `ALTER DATABASE `+database+` OWNER TO `+admin,
		`CREATE TABLE orders (id INT)`, `INSERT INTO orders VALUES (1)`, `GRANT SELECT ON orders TO `+s.group,
		`GRANT CREATE ON SCHEMA public TO `+s.group, `GRANT CREATE ON SCHEMA public TO `+admin)
	u, err := url.Parse(s.super)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("user", admin)
	q.Set("password", adminPassword)
	u.RawQuery = q.Encode()
	s.admin = u.String()
	t.Cleanup(func() {
		s.must(s.super, `REASSIGN OWNED BY `+admin+` TO postgres`, `DROP OWNED BY `+admin, `DROP OWNED BY `+s.group, `DROP ROLE `+admin, `DROP ROLE `+s.group)
	})
	return s
}

func (s *server) database() string {
	config, err := pgx.ParseConfig(s.super)
	if err != nil {
		s.t.Fatal(err)
	}
	return config.Database
}

func (s *server) open(address string) (*pgx.Conn, error) {
	return pgx.Connect(context.Background(), address)
}

func (s *server) must(address string, statements ...string) {
	s.t.Helper()
	conn, err := s.open(address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, one := range statements {
		if _, err := conn.Exec(context.Background(), one); err != nil {
			s.t.Fatalf("%s: %v", one, err)
		}
	}
}

func (s *server) count(query string, args ...any) (n int) {
	s.t.Helper()
	conn, err := s.open(s.super)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *server) target() broker.Target {
	s.t.Helper()
	t, err := broker.New(&mayfly.Target{Name: "db", Kind: "postgres", Postgres: &mayfly.Postgres{
		AdminDSN: mayfly.NewSecret(s.admin), Roles: map[string]mayfly.DatabaseRole{"reader": {Grant: []string{s.group}}},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	return t
}

// address is what the holder of a credential connects to.
func address(c broker.Credential, database string) string {
	v := func(name string) string { return c.Values[name].Reveal() }
	if database == "" {
		database = v("database")
	}
	q := url.Values{"host": {v("host")}, "port": {v("port")}, "user": {v("user")}, "password": {v("password")}, "sslmode": {"disable"}}
	return "postgres:///" + database + "?" + q.Encode()
}

func postgresKit(t *testing.T) kit {
	s := newServer(t)
	return kit{
		target: s.target(), role: "reader", secret: adminPassword,
		works: func(c broker.Credential) error {
			conn, err := s.open(address(c, ""))
			if err != nil {
				return err
			}
			defer conn.Close(context.Background())
			_, err = conn.Exec(context.Background(), `SELECT id FROM orders`)
			return err
		},
		stands: func(id mayfly.LeaseID) int {
			return s.count(`SELECT count(*) FROM pg_roles WHERE rolname = $1`, "mf_"+id.Suffix())
		},
	}
}

func (s *server) issue(target broker.Target) (broker.Loan, broker.Credential) {
	s.t.Helper()
	l := kit{role: "reader"}.loan()
	c, err := target.Issue(s.t.Context(), l)
	if err != nil {
		s.t.Fatal(err)
	}
	return l, c
}

func TestALentRoleIsOneThatMayLittle(t *testing.T) {
	s := newServer(t)
	target := s.target()
	l, c := s.issue(target)
	defer target.Revoke(t.Context(), l.Lease)
	if n := s.count(`SELECT count(*) FROM pg_authid WHERE rolname = $1 AND rolcanlogin AND rolinherit AND rolconnlimit = 5
		AND NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)
		AND rolpassword LIKE 'SCRAM-SHA-256$4096:%' AND rolvaliduntil = $2`, c.Principal, c.Until); n != 1 {
		t.Error("the role is not as it should be")
	}
	if n := s.count(`SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member JOIN pg_roles g ON g.oid = m.roleid
		WHERE r.rolname = $1 AND g.rolname <> $2`, c.Principal, s.group); n != 0 {
		t.Error("it is a member of more than was configured")
	}
	conn, err := s.open(s.super)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var note string
	err = conn.QueryRow(t.Context(), `SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1`, c.Principal).Scan(&note)
	if err != nil || !strings.Contains(note, string(l.Task)) || !strings.Contains(note, string(l.Lease)) {
		t.Errorf("the database says of it %q (%v)", note, err)
	}
	c.Values["password"] = mayfly.NewSecret("wrong")
	if conn, err := s.open(address(c, "")); err == nil {
		conn.Close(t.Context())
		t.Error("any password does")
	}
}

// S-69, and E2: sessions that are open end with the lease, those that have taken
// on another role too.
func TestS69SessionsEndWithTheLease(t *testing.T) {
	s := newServer(t)
	target := s.target()
	l, c := s.issue(target)
	var open []*pgx.Conn
	for i := range 3 {
		conn, err := s.open(address(c, ""))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		statement := []string{`SELECT 1`, `SET ROLE ` + s.group, `BEGIN`}[i]
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	busy, err := s.open(address(c, ""))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := busy.Exec(context.Background(), `SELECT pg_sleep(60)`)
		ended <- err
	}()
	begun := time.Now()
	if err := target.Revoke(t.Context(), l.Lease); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	for i, conn := range open {
		if _, err := conn.Exec(t.Context(), `SELECT 1`); err == nil {
			t.Errorf("session %d goes on", i)
		}
	}
	if err := <-ended; err == nil {
		t.Error("a statement went on")
	}
	if conn, err := s.open(address(c, "")); err == nil {
		conn.Close(t.Context())
		t.Error("it logs in again")
	}
}

// What the holder made stays, in whatever database, and is the admin's; what it
// was given, and what it gave, goes.
func TestWhatALentRoleOwnsIsHandedOver(t *testing.T) {
	s := newServer(t)
	target := s.target()
	other := s.database() + "_other"
	s.must(s.super, `CREATE DATABASE `+other)
	t.Cleanup(func() { s.must(s.super, `DROP DATABASE `+other+` WITH (FORCE)`) })
	super := strings.Replace(s.super, "///"+s.database(), "///"+other, 1)
	s.must(super, `GRANT CREATE ON SCHEMA public TO `+s.group)
	l, c := s.issue(target)
	made := []string{
		`CREATE TABLE made (n INT)`, `INSERT INTO made VALUES (1), (2)`, `GRANT SELECT ON made TO PUBLIC`,
		`ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC`, `CREATE FUNCTION one() RETURNS INT LANGUAGE SQL AS 'SELECT 1'`,
	}
	s.must(address(c, ""), made...)
	s.must(address(c, other), made...)
	// What a superuser gave, only a superuser can take: the error says what it is,
	// and nobody logs in meanwhile.
	s.must(s.super, `CREATE TABLE given (n INT)`, `GRANT ALL ON given TO `+c.Principal)
	if err := target.Revoke(t.Context(), l.Lease); mayfly.KindOf(err) != mayfly.BadUpstream || !strings.Contains(err.Error(), "privileges for table given") {
		t.Fatalf("with a right that a superuser gave: %v", err)
	}
	if conn, err := s.open(address(c, "")); err == nil {
		conn.Close(t.Context())
		t.Error("it logs in")
	}
	s.must(s.super, `REVOKE ALL ON given FROM `+c.Principal)
	if err := target.Revoke(t.Context(), l.Lease); err != nil {
		t.Fatal(err)
	}
	if n := s.count(`SELECT count(*) FROM made`); n != 2 {
		t.Errorf("%d rows are left", n)
	}
	if n := s.count(`SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.relname = 'made' AND r.rolname LIKE 'lender_%'`); n != 1 {
		t.Error("what it made is not the admin's")
	}
	if n := s.count(`SELECT count(*) FROM pg_roles WHERE rolname = $1`, c.Principal); n != 0 {
		t.Error("the role is there")
	}
}

func TestTheServerNeverHearsThePassword(t *testing.T) {
	s := newServer(t)
	s.admin = s.super + "&options=-c%20log_statement%3Dall"
	target := s.target()
	l, c := s.issue(target)
	if err := target.Revoke(t.Context(), l.Lease); err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(filepath.Join(c.Values["host"].Reveal(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	log := string(said)
	if !strings.Contains(log, `CREATE ROLE "`+c.Principal+`"`) || !strings.Contains(log, `DROP ROLE IF EXISTS "`+c.Principal+`"`) {
		t.Fatal("the server's log does not show the statements")
	}
	if strings.Contains(log, c.Values["password"].Reveal()) {
		t.Error("the server's log has the password")
	}
}

// S-68, and E1: a name that could be read as more than a name is refused before
// anything is asked.
func TestS68NamesAreNames(t *testing.T) {
	good := mayfly.NewSecret("postgres:///x?host=/nowhere")
	for name, p := range map[string]*mayfly.Postgres{
		"nothing":     nil,
		"no roles":    {AdminDSN: good},
		"no group":    {AdminDSN: good, Roles: map[string]mayfly.DatabaseRole{"r": {}}},
		"bad address": {AdminDSN: mayfly.NewSecret("postgres://u:" + adminPassword + "@host:port/x"), Roles: map[string]mayfly.DatabaseRole{"r": {Grant: []string{"g"}}}},
	} {
		if _, err := broker.New(&mayfly.Target{Kind: "postgres", Postgres: p}); mayfly.KindOf(err) != mayfly.Invalid || strings.Contains(fmt.Sprint(err), adminPassword) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, group := range []string{
		`x"; DROP ROLE x; --`, `a"b`, `$$`, "a\x00b", "a\xffb", strings.Repeat("a", 64), "", " ", "a b", "pg_read_all_data", "PG_monitor", "mf_x", "MF_x", "é", "a;b", "a'b", "1a",
	} {
		p := &mayfly.Postgres{AdminDSN: good, Roles: map[string]mayfly.DatabaseRole{"r": {Grant: []string{"fine", group}}}}
		if _, err := broker.New(&mayfly.Target{Kind: "postgres", Postgres: p}); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%+q: %v", group, err)
		}
	}
	for _, group := range []string{"reader", "Reader", "_a$1", strings.Repeat("a", 63)} {
		p := &mayfly.Postgres{AdminDSN: good, Roles: map[string]mayfly.DatabaseRole{"r": {Grant: []string{group}}}}
		if _, err := broker.New(&mayfly.Target{Kind: "postgres", Postgres: p}); err != nil {
			t.Errorf("%+q: %v", group, err)
		}
	}
}

func TestAServerThatIsNotThereIsForLater(t *testing.T) {
	target, err := broker.New(&mayfly.Target{Kind: "postgres", Postgres: &mayfly.Postgres{
		AdminDSN: mayfly.NewSecret("postgres://admin:" + adminPassword + "@127.0.0.1:1/x"), Roles: map[string]mayfly.DatabaseRole{"reader": {Grant: []string{"g"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	l := kit{role: "reader"}.loan()
	_, err1 := target.Issue(t.Context(), l)
	err2 := target.Revoke(t.Context(), l.Lease)
	_, err3 := target.Lent(t.Context())
	for i, err := range []error{err1, err2, err3} {
		if mayfly.KindOf(err) != mayfly.Unavailable || strings.Contains(err.Error(), adminPassword) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func BenchmarkALoan(b *testing.B) {
	s := newServer(b)
	target := s.target()
	for b.Loop() {
		l, _ := s.issue(target)
		if err := target.Revoke(b.Context(), l.Lease); err != nil {
			b.Fatal(err)
		}
	}
}
