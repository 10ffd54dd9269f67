package pgtest_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
)

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	for range 2 {
		conn, err := pgx.Connect(t.Context(), pgtest.New(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), `CREATE TABLE mine (n BIGINT)`); err != nil {
			t.Error(err)
		}
	}
}

func TestBenchmarksGetAServerThatSyncs(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), pgtest.New(t, pgtest.Fsync))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var on string
	if err := conn.QueryRow(t.Context(), `SHOW fsync`).Scan(&on); err != nil || on != "on" {
		t.Errorf("fsync is %q (%v), want on", on, err)
	}
}

func TestAPreparedDatabaseIsACopy(t *testing.T) {
	times := 0
	prepare := func(dsn string) error {
		times++
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			return err
		}
		defer conn.Close(t.Context())
		_, err = conn.Exec(t.Context(), `CREATE TABLE prepared (n BIGINT)`)
		return err
	}
	for range 2 {
		conn, err := pgx.Connect(t.Context(), pgtest.New(t, pgtest.Prepared("mine", prepare)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), `INSERT INTO prepared VALUES (1)`); err != nil {
			t.Error(err)
		}
	}
	if times != 1 {
		t.Errorf("prepared %d times, want once", times)
	}
}
