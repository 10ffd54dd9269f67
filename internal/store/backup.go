package store

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/mayfly-id/mayfly"
)

// Backup writes a copy of the store, as of one commit, to a file that must not
// exist. The server goes on meanwhile. The copy is as secret as the store: it is
// sealed under the same key.
func (db *DB) Backup(ctx context.Context, path string) error {
	e, ok := db.engine.(*sqlite)
	if !ok {
		return mayfly.Errorf(mayfly.Invalid, "a PostgreSQL store is backed up with pg_dump")
	}
	conn, err := e.readers.Conn(ctx)
	if err != nil {
		return mayfly.Errorf(mayfly.Unavailable, "the store could not be copied").Because(err)
	}
	// The pool's connections cannot write, not even to another file. This one
	// may from here on, so it is not given back.
	_, err = conn.ExecContext(ctx, `PRAGMA query_only(0)`)
	if err == nil {
		_, err = conn.ExecContext(ctx, `VACUUM INTO ?`, path)
	}
	drop := conn.Raw(func(any) error { return driver.ErrBadConn })
	if err != nil {
		return mayfly.Errorf(mayfly.Unavailable, "the store could not be copied").Because(err)
	}
	if !errors.Is(drop, driver.ErrBadConn) {
		return drop
	}
	return private(path)
}
