package eventlog_test

import (
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mutations is how many are tried on SQLite, and an eighth of them on PostgreSQL,
// which takes its time to undo one; MAYFLY_MUTATIONS says otherwise.
const mutations = 240

// A stored log is altered at random, by somebody who has the database and the
// log's signing key, and not the seal key: one bit, what stands in a column, rows
// gone, swapped, doubled or put elsewhere, the end cut off with a checkpoint to
// fit. Within what a checkpoint kept elsewhere covers, each is found; and nothing
// is where nothing was altered.
func TestI05NoMutationGoesUnseen(t *testing.T) {
	n := mutations
	if text := os.Getenv("MAYFLY_MUTATIONS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	onEachEngine(t, func(t *testing.T, plain world) {
		n := n
		if strings.HasPrefix(plain.dsn, "postgres") {
			n /= 8
		}
		w := write(t, plain)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		m := mutator{w, rand.New(rand.NewPCG(seed, 0))}
		drawn := map[string]int{}
		for i := range n {
			what := m.mutate(drawn)
			if r := w.verify(w.db, w.last); r.OK() {
				t.Errorf("mutation %d, %s: %s", i, what, r)
			}
			w.restore()
			if i%20 == 0 {
				if r := w.verify(w.db, w.last); !r.OK() || r.Size != sequenced || r.Waiting != waiting {
					t.Fatalf("a false alarm, after mutation %d was undone: %s", i, r)
				}
			}
			if t.Failed() {
				return
			}
		}
		t.Logf("%d mutations, all seen: %v", n, drawn)
		for kind := range kindsOfMutation {
			if n >= 1000 && drawn[kind] == 0 {
				t.Errorf("none was of the kind %q", kind)
			}
		}
	})
}

type mutator struct {
	written
	*rand.Rand
}

// covered is the number of a record that the checkpoint covers.
func (m mutator) covered() int { return 1 + m.IntN(sequenced) }

// kindsOfMutation do one each, and say what.
var kindsOfMutation = map[string]func(m mutator) string{
	"a bit of an event": func(m mutator) string {
		column := []string{"leaf", "body", "mac"}[m.IntN(3)]
		number := 1 + m.IntN(sequenced+waiting)
		return m.flipAny("event", column, fmt.Sprintf("seq = %d", number), false)
	},
	"a bit of a tile": func(m mutator) string {
		where := []string{"level = 0 AND idx = 0", "level = 0 AND idx = 1", "level = 1 AND idx = 0"}[m.IntN(3)]
		return m.flipAny("log_tile", "data", where, false)
	},
	"a bit of the checkpoint": func(m mutator) string { return m.flipAny("log_head", "note", "one = 1", true) },
	"a column of an event": func(m mutator) string {
		set := []string{
			`time = time + 1`, `time = time - 1000000`, `kind = kind || 'x'`, `kind = 'alarm'`, `task = 'task_y'`, `decision = decision || 'd'`,
			`person = person || 'p'`, `id = id || 'x'`,
		}[m.IntN(8)]
		return m.run(fmt.Sprintf(`UPDATE event SET %s WHERE seq = %d`, set, m.covered()))
	},
	"events gone": func(m mutator) string {
		from := m.covered()
		return m.run(fmt.Sprintf(`DELETE FROM event WHERE seq >= %d AND seq < %d`, from, from+1+m.IntN(20)))
	},
	"a waiting event gone": func(m mutator) string {
		return m.run(fmt.Sprintf(`DELETE FROM event WHERE seq = %d`, sequenced+1+m.IntN(waiting-1)))
	},
	"events swapped": func(m mutator) string {
		a, b := m.covered(), m.covered()
		for a == b {
			b = m.covered()
		}
		return m.run(fmt.Sprintf(`UPDATE event SET seq = -1 WHERE seq = %d`, a), fmt.Sprintf(`UPDATE event SET seq = %d WHERE seq = %d`, a, b),
			fmt.Sprintf(`UPDATE event SET seq = %d WHERE seq = -1`, b))
	},
	"the contents of events swapped": func(m mutator) string {
		a, b := m.covered(), m.covered()
		for a == b {
			b = m.covered()
		}
		column := []string{"leaf", "body", "mac"}[m.IntN(3)]
		set := func(at, from int) string {
			return fmt.Sprintf(`UPDATE event SET %[1]s = (SELECT k.%[1]s FROM kept_event k WHERE k.seq = %[3]d) WHERE seq = %[2]d`, column, at, from)
		}
		return m.run(set(a, b), set(b, a))
	},
	"an event doubled": func(m mutator) string {
		return m.run(fmt.Sprintf(`INSERT INTO event SELECT proc, %d, id || 'x', time, kind, task, decision, person, leaf, body, mac FROM kept_event WHERE seq = %d`,
			sequenced+waiting+1, m.covered()))
	},
	"an event from nowhere": func(m mutator) string {
		return m.run(fmt.Sprintf(`INSERT INTO event SELECT `+[]string{"99, 1", "99, 322", "proc, 0", "proc, -1"}[m.IntN(4)]+`, id || 'x', time, kind, task, decision, person, leaf, body, mac FROM kept_event WHERE seq = %d`, m.covered()))
	},
	"a span moved": func(m mutator) string {
		set := []string{`n = n - 1`, `n = n + 1`, `seq = seq + 1`, `start = start + 1`, `proc = proc + 1`}[m.IntN(5)]
		where := []string{"start = 0", "start = 101"}[m.IntN(2)]
		return m.run(`UPDATE log_span SET ` + set + ` WHERE ` + where)
	},
	"a span gone": func(m mutator) string {
		return m.run(`DELETE FROM log_span WHERE start = ` + []string{"0", "101"}[m.IntN(2)])
	},
	"a tile gone": func(m mutator) string {
		return m.run(`DELETE FROM log_tile WHERE ` + []string{"level = 0 AND idx = 0", "level = 0 AND idx = 1", "level = 1"}[m.IntN(3)])
	},
	"the head moved": func(m mutator) string {
		return m.run(fmt.Sprintf(`UPDATE log_head SET size = %d`, m.IntN(sequenced)))
	},
	"signed for another root": func(m mutator) string {
		m.setNote(m.signed(sequenced))
		return "a checkpoint of the same size and another root"
	},
	"signed anew by another": func(m mutator) string {
		m.setNote(m.resigned(origin))
		return "a checkpoint of another key"
	},
	// What fits in itself: the end is gone with all that speaks of it, and what is
	// left was signed once.
	"the end cut off": func(m mutator) string {
		m.cut()
		m.sql(`DELETE FROM event WHERE seq > 101`)
		return "cut at 101"
	},
	"the end put back to wait": func(m mutator) string { m.cut(); return "put back to 101" },
	"all of it gone": func(m mutator) string {
		return m.run(`DELETE FROM event`, `DELETE FROM log_span`, `DELETE FROM log_tile`, `UPDATE log_head SET size = 0, note = NULL`)
	},
}

// mutate does one mutation, and says which.
func (m mutator) mutate(drawn map[string]int) string {
	m.Helper()
	kinds := slices.Sorted(maps.Keys(kindsOfMutation)) // the seed means the same each time
	kind := kinds[m.IntN(len(kinds))]
	if m.IntN(3) > 0 { // most are single bits: they are the hardest to see
		kind = []string{"a bit of an event", "a bit of a tile", "a bit of the checkpoint", "a column of an event"}[m.IntN(4)]
	}
	drawn[kind]++
	return kind + ": " + kindsOfMutation[kind](m)
}

func (m mutator) run(statements ...string) string {
	m.Helper()
	m.sql(statements...)
	return strings.Join(statements, "; ")
}

// flipAny alters one bit of a column. In a signed note the last letter of the
// signature has bits that are not of it, so that letter is left alone.
func (m mutator) flipAny(table, column, where string, isNote bool) (what string) {
	m.Helper()
	m.raw(func(db *sql.DB) error {
		var data []byte
		if err := db.QueryRow(`SELECT ` + column + ` FROM ` + table + ` WHERE ` + where).Scan(&data); err != nil {
			return err
		}
		at, bit := m.IntN(len(data)), byte(1)<<m.IntN(8)
		if isNote {
			at = m.IntN(len(strings.TrimRight(string(data), "=\n")) - 1)
		}
		data[at] ^= bit
		what = fmt.Sprintf("bit %d of byte %d of %d of %s.%s where %s", bit, at, len(data), table, column, where)
		_, err := db.Exec(`UPDATE `+table+` SET `+column+` = $1 WHERE `+where, data)
		return err
	})
	return what
}
