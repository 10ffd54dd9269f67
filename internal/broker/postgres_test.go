package broker_test

import (
	"context"
	"fmt"
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

// server is a database that lends.
type server struct {
	*pgtest.Lender
	t testing.TB
}

func newServer(t testing.TB) *server { return &server{pgtest.NewLender(t), t} }

func (s *server) open(address string) (*pgx.Conn, error) {
	return pgx.Connect(context.Background(), address)
}

func (s *server) target() broker.Target {
	s.t.Helper()
	t, err := broker.New(&mayfly.Target{Name: "db", Kind: "postgres", Postgres: &mayfly.Postgres{
		AdminDSN: mayfly.NewSecret(s.Admin), Roles: map[string]mayfly.DatabaseRole{"reader": {Grant: []string{s.Group}}},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	return t
}

func address(c broker.Credential, database string) string { return pgtest.Address(c.Values, database) }

func postgresKit(t *testing.T) kit {
	s := newServer(t)
	return kit{
		target: s.target(), role: "reader", secret: pgtest.AdminPassword,
		works: func(c broker.Credential) error { return s.Reads(c.Values) },
		stands: func(id mayfly.LeaseID) int {
			return s.Count(`SELECT count(*) FROM pg_roles WHERE rolname = $1`, "mf_"+id.Suffix())
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
	if n := s.Count(`SELECT count(*) FROM pg_authid WHERE rolname = $1 AND rolcanlogin AND rolinherit AND rolconnlimit = 5
		AND NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)
		AND rolpassword LIKE 'SCRAM-SHA-256$4096:%' AND rolvaliduntil = $2`, c.Principal, c.Until); n != 1 {
		t.Error("the role is not as it should be")
	}
	if n := s.Count(`SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member JOIN pg_roles g ON g.oid = m.roleid
		WHERE r.rolname = $1 AND g.rolname <> $2`, c.Principal, s.Group); n != 0 {
		t.Error("it is a member of more than was configured")
	}
	conn, err := s.open(s.Super)
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
		statement := []string{`SELECT 1`, `SET ROLE ` + s.Group, `BEGIN`}[i]
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
	config, err := pgx.ParseConfig(s.Super)
	if err != nil {
		t.Fatal(err)
	}
	other := config.Database + "_other"
	s.Must(s.Super, `CREATE DATABASE `+other)
	t.Cleanup(func() { s.Must(s.Super, `DROP DATABASE `+other+` WITH (FORCE)`) })
	super := strings.Replace(s.Super, "///"+config.Database, "///"+other, 1)
	s.Must(super, `GRANT CREATE ON SCHEMA public TO `+s.Group)
	l, c := s.issue(target)
	made := []string{
		`CREATE TABLE made (n INT)`, `INSERT INTO made VALUES (1), (2)`, `GRANT SELECT ON made TO PUBLIC`,
		`ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC`, `CREATE FUNCTION one() RETURNS INT LANGUAGE SQL AS 'SELECT 1'`,
	}
	s.Must(address(c, ""), made...)
	s.Must(address(c, other), made...)
	// What a superuser gave, only a superuser can take: the error says what it is,
	// and nobody logs in meanwhile.
	s.Must(s.Super, `CREATE TABLE given (n INT)`, `GRANT ALL ON given TO `+c.Principal)
	if err := target.Revoke(t.Context(), l.Lease); mayfly.KindOf(err) != mayfly.BadUpstream || !strings.Contains(err.Error(), "privileges for table given") {
		t.Fatalf("with a right that a superuser gave: %v", err)
	}
	if conn, err := s.open(address(c, "")); err == nil {
		conn.Close(t.Context())
		t.Error("it logs in")
	}
	s.Must(s.Super, `REVOKE ALL ON given FROM `+c.Principal)
	if err := target.Revoke(t.Context(), l.Lease); err != nil {
		t.Fatal(err)
	}
	if n := s.Count(`SELECT count(*) FROM made`); n != 2 {
		t.Errorf("%d rows are left", n)
	}
	if n := s.Count(`SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.relname = 'made' AND r.rolname LIKE 'lender_%'`); n != 1 {
		t.Error("what it made is not the admin's")
	}
	if n := s.Count(`SELECT count(*) FROM pg_roles WHERE rolname = $1`, c.Principal); n != 0 {
		t.Error("the role is there")
	}
}

func TestTheServerNeverHearsThePassword(t *testing.T) {
	s := newServer(t)
	s.Admin = s.Super + "&options=-c%20log_statement%3Dall"
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
		"bad address": {AdminDSN: mayfly.NewSecret("postgres://u:" + pgtest.AdminPassword + "@host:port/x"), Roles: map[string]mayfly.DatabaseRole{"r": {Grant: []string{"g"}}}},
	} {
		if _, err := broker.New(&mayfly.Target{Kind: "postgres", Postgres: p}); mayfly.KindOf(err) != mayfly.Invalid || strings.Contains(fmt.Sprint(err), pgtest.AdminPassword) {
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
		AdminDSN: mayfly.NewSecret("postgres://admin:" + pgtest.AdminPassword + "@127.0.0.1:1/x"), Roles: map[string]mayfly.DatabaseRole{"reader": {Grant: []string{"g"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	l := kit{role: "reader"}.loan()
	_, err1 := target.Issue(t.Context(), l)
	err2 := target.Revoke(t.Context(), l.Lease)
	_, err3 := target.Lent(t.Context())
	for i, err := range []error{err1, err2, err3} {
		if mayfly.KindOf(err) != mayfly.Unavailable || strings.Contains(err.Error(), pgtest.AdminPassword) {
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
