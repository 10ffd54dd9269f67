package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"

	"github.com/mayfly-id/mayfly"
	"github.com/pressly/goose/v3"
)

//go:embed schema/*.sql
var schema embed.FS

// migrate brings the schema of pool to this binary's version, or refuses one
// that a newer binary made. A store that is only read must have this version.
func (db *DB) migrate(ctx context.Context, pool *sql.DB, dialect goose.Dialect, translate func(string) string, opts ...goose.ProviderOption) error {
	migrations, err := migrations(translate)
	if err != nil {
		return err
	}
	target := migrations[len(migrations)-1].Version
	var current int64
	if db.readOnly {
		if err := pool.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version`).Scan(&current); err != nil {
			return unopenable(err)
		}
		if current < target {
			return mayfly.Errorf(mayfly.Invalid, "the store is of an older version; start the server on it once")
		}
		return newer(current, target)
	}
	opts = append(opts, goose.WithGoMigrations(migrations...), goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	p, err := goose.NewProvider(dialect, pool, nil, opts...)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if current, err = p.GetDBVersion(ctx); err != nil {
		return unopenable(err)
	}
	if err := newer(current, target); err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return unopenable(err)
	}
	return nil
}

func newer(current, target int64) error {
	if current <= target {
		return nil
	}
	return mayfly.Coded(mayfly.Invalid, "newer_schema",
		"the store was made by a newer version (schema %d, this one knows %d); run that version, or restore an older backup", current, target)
}

// migrations are the schema files in their order, each in a transaction of its own.
func migrations(translate func(string) string) ([]*goose.Migration, error) {
	entries, err := schema.ReadDir("schema")
	if err != nil {
		return nil, err
	}
	all := make([]*goose.Migration, len(entries))
	for i, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("store: schema file %s has no number", e.Name())
		}
		text, err := schema.ReadFile("schema/" + e.Name())
		if err != nil {
			return nil, err
		}
		run := func(ctx context.Context, tx *sql.Tx) error {
			for part := range strings.SplitSeq(translate(string(text))+"\n", ";\n") {
				if strings.TrimSpace(part) == "" {
					continue
				}
				if _, err := tx.ExecContext(ctx, part); err != nil {
					return fmt.Errorf("%s: %w", e.Name(), err)
				}
			}
			return nil
		}
		all[i] = goose.NewGoMigration(version, &goose.GoFunc{RunTx: run}, nil)
	}
	return all, nil
}

// forSQLite replaces the three words that differ and makes each table strict.
func forSQLite(text string) string {
	text = strings.NewReplacer(" BIGINT", " INTEGER", " BYTEA", " BLOB", " BOOLEAN", " INTEGER").Replace(text)
	text = strings.ReplaceAll(text, "\n);\n", "\n) STRICT;\n")
	return strings.ReplaceAll(text, "\n); -- clustered\n", "\n) STRICT, WITHOUT ROWID;\n")
}

var textColumn = regexp.MustCompile(`(?m)^(\t\w+ TEXT)\b`)

// forPostgres gives text the order it has on SQLite: that of its bytes.
func forPostgres(text string) string { return textColumn.ReplaceAllString(text, `$1 COLLATE "C"`) }
