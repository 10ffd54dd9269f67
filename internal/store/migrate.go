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

// migrate brings the schema of db to this binary's version, or refuses a schema
// that a newer binary made.
func migrate(ctx context.Context, db *sql.DB, dialect goose.Dialect, translate func(string) string, opts ...goose.ProviderOption) error {
	migrations, err := migrations(translate)
	if err != nil {
		return err
	}
	opts = append(opts, goose.WithGoMigrations(migrations...), goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)))
	p, err := goose.NewProvider(dialect, db, nil, opts...)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return unopenable(err)
	}
	if current > target {
		return mayfly.Coded(mayfly.Invalid, "newer_schema",
			"the store was made by a newer version (schema %d, this one knows %d); run that version, or restore an older backup", current, target)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("store: migrating: %w", err)
	}
	return nil
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
			for part := range strings.SplitSeq(translate(string(text)), ";\n") {
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
	return strings.ReplaceAll(text, "\n);\n", "\n) STRICT;\n")
}

var textColumn = regexp.MustCompile(`(?m)^(\t\w+ TEXT)\b`)

// forPostgres gives text the order it has on SQLite: that of its bytes.
func forPostgres(text string) string { return textColumn.ReplaceAllString(text, `$1 COLLATE "C"`) }
