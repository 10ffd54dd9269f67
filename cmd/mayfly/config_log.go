package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/witness"
)

// logEntry is log in mayfly.yaml.
type logEntry struct {
	Witnesses []witnessEntry `json:"witnesses"`
	Quorum    quorumEntry    `json:"quorum"`
}

type witnessEntry struct {
	Name string `json:"name"`
	URL  string `json:"url"`
	VKey string `json:"vkey"`
}

// quorumEntry is any, all or a number, as it is written.
type quorumEntry string

func (quorumEntry) shapes() []reflect.Type {
	return []reflect.Type{reflect.TypeFor[string](), reflect.TypeFor[int]()}
}

// UnmarshalJSON reads either form.
func (q *quorumEntry) UnmarshalJSON(b []byte) error {
	if !bytes.HasPrefix(b, []byte(`"`)) {
		*q = quorumEntry(b)
		return nil
	}
	var text string
	err := json.Unmarshal(b, &text)
	*q = quorumEntry(text)
	return err
}

// witnesses reads who cosigns the log, and how many of them it takes.
func (d *document) witnesses(f *serverFile) (p witness.Policy) {
	if f.Log == nil {
		return p
	}
	at := path{"log"}
	if len(f.Log.Witnesses) == 0 {
		d.wrong(at, "witnesses is missing; write {witnesses: [{name: …, url: …, vkey: …}]}, or remove log")
		return p
	}
	before := len(d.bad)
	seen := map[string]bool{}
	for i, w := range f.Log.Witnesses {
		at := at.to("witnesses", i)
		d.label(at.to("name"), w.Name, seen)
		d.address(at, w.URL)
		k, err := eventlog.ParseWitnessKey(strings.TrimSpace(w.VKey))
		switch {
		case w.VKey == "":
			d.wrong(at, "vkey is missing; its operator publishes it, such as witness.example+0123abcd+BASE64")
		case err != nil:
			d.wrong(at.to("vkey"), "%v", err)
		}
		for j, other := range p.Witnesses {
			if err == nil && k.SameKey(other.Key) {
				d.wrong(at.to("vkey"), "is the key of witnesses[%d] too; two witnesses of one key are one", j)
			}
		}
		p.Witnesses = append(p.Witnesses, witness.Witness{Name: w.Name, URL: w.URL, Key: k})
	}
	need := or(string(f.Log.Quorum), "all")
	if d.root.at("log").has("quorum") {
		at = at.to("quorum")
	}
	n, err := eventlog.ParseQuorum(need, len(p.Witnesses))
	if err != nil {
		d.wrong(at, "%v", err)
	}
	if len(d.bad) > before {
		return p
	}
	if _, err := eventlog.NewQuorum(need, p.Quorum().Keys...); err != nil {
		d.wrong(at, "%v", err)
	}
	p.Need = n
	return p
}
