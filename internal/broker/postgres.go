package broker

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mayfly-id/mayfly"
)

// postgres lends roles of a PostgreSQL server: each lease is a login role of its
// own, a member of the roles that the configuration names.
type postgres struct {
	admin *pgx.ConnConfig
	roles map[string]mayfly.DatabaseRole
}

var (
	// groupRole is a role that a lent one may be a member of: plain, so that no
	// quoting can go wrong, and neither the server's own nor one that was lent.
	groupRole = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]{0,62}$`)
	ownRole   = regexp.MustCompile(`^(?i:pg_|mf_)`)
	// lentRole is how a lent one is called: its lease names it, and it its lease.
	lentRole = regexp.MustCompile(`^mf_([0-9a-z]{26})$`)
)

func newPostgres(t *mayfly.Target) (*postgres, error) {
	if t.Postgres == nil || len(t.Postgres.Roles) == 0 {
		return nil, mayfly.Errorf(mayfly.Invalid, "the target %s lends no roles", t.Name)
	}
	for name, role := range t.Postgres.Roles {
		if len(role.Grant) == 0 {
			return nil, mayfly.Errorf(mayfly.Invalid, "the role %s is a member of nothing, and so may do nothing", name)
		}
		for _, group := range role.Grant {
			if !groupRole.MatchString(group) || ownRole.MatchString(group) {
				return nil, mayfly.Errorf(mayfly.Invalid, "%+q is not the name of a role that can be lent: use letters, digits, _ and $, at most 63, and none that begins with pg_ or mf_", group)
			}
		}
	}
	admin, err := pgx.ParseConfig(t.Postgres.AdminDSN.Reveal())
	if err != nil { // the error may quote what is secret
		return nil, mayfly.Errorf(mayfly.Invalid, "the address of the database cannot be read; write postgres://user:password@host:port/database")
	}
	admin.ConnectTimeout = 5 * time.Second
	admin.DefaultQueryExecMode = pgx.QueryExecModeExec
	for name, value := range map[string]string{
		"application_name": "mayfly", "statement_timeout": "5000", "lock_timeout": "2000", "idle_in_transaction_session_timeout": "10000",
	} {
		admin.RuntimeParams[name] = value
	}
	return &postgres{admin, t.Postgres.Roles}, nil
}

// roleOf is the name of what is lent under a lease. It needs no quotes, and has
// them all the same.
func roleOf(lease mayfly.LeaseID) (name, quoted string, err error) {
	if _, err := mayfly.ParseLeaseID(string(lease)); err != nil {
		return "", "", err
	}
	name = "mf_" + lease.Suffix()
	if !lentRole.MatchString(name) {
		return "", "", mayfly.Errorf(mayfly.Invalid, "%q is not the id of a lease", lease)
	}
	return name, pgx.Identifier{name}.Sanitize(), nil
}

// Issue makes the role, its memberships and the note of whose it is in one
// transaction. The server gets a SCRAM verifier, never the password, so neither
// its statement log nor its tables can tell it.
func (p *postgres) Issue(ctx context.Context, l Loan) (Credential, error) {
	role, ok := p.roles[l.Role]
	if !ok {
		return Credential{}, mayfly.Errorf(mayfly.Invalid, "the database lends no role %q", l.Role)
	}
	name, quoted, err := roleOf(l.Lease)
	if err != nil {
		return Credential{}, err
	}
	password := newPassword()
	until := l.Until.UTC().Truncate(time.Second)
	// VALID UNTIL ends the password, not a session that is open: Revoke ends those.
	login := ` LOGIN CONNECTION LIMIT 5 PASSWORD '` + verifier(password) + `' VALID UNTIL '` + until.Format(time.RFC3339) + `'`
	err = p.connect(ctx, "", func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			there, err := exists(ctx, tx, name)
			if err != nil {
				return err
			}
			statements := []string{`ALTER ROLE ` + quoted + login}
			if !there {
				statements[0] = `CREATE ROLE ` + quoted + ` NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT` + login
			}
			for _, group := range role.Grant {
				statements = append(statements, `GRANT `+pgx.Identifier{group}.Sanitize()+` TO `+quoted)
			}
			note := fmt.Sprintf("Mayfly: %s of %s until %s", l.Lease, l.Task, until.Format(time.RFC3339))
			statements = append(statements, `COMMENT ON ROLE `+quoted+` IS '`+strings.ReplaceAll(note, `'`, `''`)+`'`)
			for _, s := range statements {
				if _, err := tx.Exec(ctx, s); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return Credential{}, err
	}
	values := map[string]mayfly.Secret{
		"host": mayfly.NewSecret(p.admin.Host), "port": mayfly.NewSecret(strconv.Itoa(int(p.admin.Port))),
		"database": mayfly.NewSecret(p.admin.Database), "user": mayfly.NewSecret(name), "password": mayfly.NewSecret(password),
	}
	return Credential{Principal: name, Until: until, Values: values}, nil
}

// sessionsEnd is how long sessions have to end once they are told to.
const sessionsEnd = 5 * time.Second

// Revoke takes the role away in an order in which each step leaves less behind:
// nobody logs in any more, then nobody is logged in, then nothing is owned or
// granted, then there is no role.
func (p *postgres) Revoke(ctx context.Context, lease mayfly.LeaseID) error {
	name, quoted, err := roleOf(lease)
	if err != nil {
		return err
	}
	return p.connect(ctx, "", func(conn *pgx.Conn) error {
		var oid uint32
		var member bool
		err := conn.QueryRow(ctx, `SELECT oid, pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = $1`, name).Scan(&oid, &member)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // its sessions were ended before it was dropped
		}
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `ALTER ROLE `+quoted+` NOLOGIN PASSWORD NULL`); err != nil {
			return err
		}
		if !member { // who is no superuser must be a member to end its sessions and take what it owns
			if _, err := conn.Exec(ctx, `GRANT `+quoted+` TO CURRENT_USER`); err != nil {
				return err
			}
		}
		if err := endSessions(ctx, conn, oid); err != nil {
			return err
		}
		elsewhere, err := databases(ctx, conn, oid)
		if err != nil {
			return err
		}
		for _, database := range elsewhere {
			if err := p.connect(ctx, database, func(conn *pgx.Conn) error { return disown(ctx, conn, quoted) }); err != nil {
				return err
			}
		}
		if err := disown(ctx, conn, quoted); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `DROP ROLE IF EXISTS `+quoted); err != nil {
			return err
		}
		// The server's own word, and not the last statement's.
		if there, err := exists(ctx, conn, name); err != nil || there {
			return errors.Join(err, mayfly.Errorf(mayfly.BadUpstream, "the role is there after it was dropped"))
		}
		return endSessions(ctx, conn, oid)
	})
}

// endSessions ends every session that logged in as the role, whatever role it has
// set since, and returns when there is none.
func endSessions(ctx context.Context, conn *pgx.Conn, oid uint32) error {
	ctx, cancel := context.WithTimeout(ctx, sessionsEnd)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		var open int
		err := conn.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = $1`, oid).Scan(&open)
		if err != nil || open == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return mayfly.Errorf(mayfly.BadUpstream, "%d sessions of the role have not ended", open)
		case <-time.After(wait):
		}
	}
}

// databases are those, but for the one that conn is in, in which something depends
// on the role.
func databases(ctx context.Context, conn *pgx.Conn, oid uint32) ([]string, error) {
	rows, err := conn.Query(ctx, `SELECT d.datname FROM pg_database d WHERE d.datname <> current_database() AND EXISTS
		(SELECT 1 FROM pg_shdepend s WHERE s.dbid = d.oid AND s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1)`, oid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// disown hands what the role owns in conn's database to the admin, and takes its
// rights there, and to what databases share, away.
func disown(ctx context.Context, conn *pgx.Conn, quoted string) error {
	for _, s := range []string{`REASSIGN OWNED BY ` + quoted + ` TO CURRENT_USER`, `DROP OWNED BY ` + quoted} {
		if _, err := conn.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// Lent reads the roles that are called as lent ones are.
func (p *postgres) Lent(ctx context.Context) (lent []mayfly.LeaseID, err error) {
	err = p.connect(ctx, "", func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT rolname FROM pg_roles WHERE rolname ~ '^mf_' ORDER BY rolname`)
		if err != nil {
			return err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, name := range names {
			m := lentRole.FindStringSubmatch(name)
			if m == nil {
				continue
			}
			if id, err := mayfly.ParseLeaseID("lease_" + m[1]); err == nil {
				lent = append(lent, id)
			}
		}
		return err
	})
	return lent, err
}

// connect runs do on a connection of its own: leases are few, and a connection
// that is kept can be one to a server that is no more. An empty database is the
// one of the address.
func (p *postgres) connect(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	admin := p.admin
	if database != "" {
		admin = p.admin.Copy()
		admin.Database = database
	}
	conn, err := pgx.ConnectConfig(ctx, admin)
	if err != nil {
		return said(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(ctx)
	}()
	return said(do(conn))
}

// said is err for those who read about the lease: what the server says, with
// nothing of how it was asked.
func said(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*mayfly.Error](err); ok {
		return e
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		text := pg.Message
		if pg.Detail != "" { // what depends on a role that cannot be dropped
			text += ": " + strings.ReplaceAll(pg.Detail, "\n", ", ")
		}
		return mayfly.Errorf(mayfly.BadUpstream, "the database refuses: %s (%s)", text, pg.Code)
	}
	return mayfly.Errorf(mayfly.Unavailable, "the database cannot be reached, or did not answer in time").Because(err)
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func exists(ctx context.Context, q querier, role string) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = $1)`, role).Scan(&there)
	return there, err
}

// newPassword is 256 random bits that need no quoting anywhere.
func newPassword() string {
	var b [32]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// scramRounds is PostgreSQL's own default.
const scramRounds = 4096

// verifier is what a server keeps of a password (RFC 5803, SCRAM-SHA-256), as
// PostgreSQL writes it.
func verifier(password string) string {
	var salt [16]byte
	rand.Read(salt[:])
	salted, err := pbkdf2.Key(sha256.New, password, salt[:], scramRounds, sha256.Size)
	if err != nil {
		panic(err) // only for parameters that no standard allows
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramRounds, b64(salt[:]), b64(stored[:]), b64(mac("Server Key")))
}
