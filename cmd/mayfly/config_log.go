package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/signals"
	"github.com/mayfly-id/mayfly/internal/witness"
)

// logEntry is log in mayfly.yaml.
type logEntry struct {
	Witnesses []witnessEntry `json:"witnesses"`
	Quorum    quorumEntry    `json:"quorum"`
	Exports   []exportEntry  `json:"exports"`
}

type exportEntry struct {
	Name       string           `json:"name"`
	Format     string           `json:"format"`
	Stdout     bool             `json:"stdout"`
	File       string           `json:"file"`
	URL        string           `json:"url"`
	Credential *credentialEntry `json:"credential"`
	Secret     string           `json:"secret"`
}

// exportFormats are the formats this version knows.
var exportFormats = []string{signals.OCSF, signals.OTLP}

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

// log reads who cosigns the log, and where else its records go.
func (l *loader) log(d *document, f *serverFile, c *Config) {
	if f.Log == nil {
		return
	}
	at := path{"log"}
	switch {
	case len(f.Log.Witnesses) > 0:
		c.Witnesses = d.witnesses(f)
	case len(f.Log.Exports) == 0 || f.Log.Quorum != "" || d.root.at("log").has("witnesses"):
		d.wrong(at, "witnesses is missing; write {witnesses: [{name: …, url: …, vkey: …}]}, or exports, or remove log")
	}
	seen := map[string]bool{}
	for i, e := range f.Log.Exports {
		at := at.to("exports", i)
		d.label(at.to("name"), e.Name, seen)
		c.Exports = append(c.Exports, l.export(d, at, e))
	}
}

// export reads one place that the log's records go to.
func (l *loader) export(d *document, at path, e exportEntry) signals.Export {
	out := signals.Export{Name: e.Name, Format: e.Format, Stdout: e.Stdout, URL: e.URL}
	switch {
	case e.Format == "":
		d.wrong(at, "format is missing; known: %s", strings.Join(exportFormats, ", "))
	case !slices.Contains(exportFormats, e.Format):
		d.wrong(at.to("format"), "%q is not known; known: %s", e.Format, strings.Join(exportFormats, ", "))
	}
	places := 0
	for _, given := range []bool{e.Stdout, e.File != "", e.URL != ""} {
		if given {
			places++
		}
	}
	if places != 1 {
		d.wrong(at, "goes to %d places; name one: stdout: true, file: PATH or url: …", places)
		return out
	}
	if e.Format == signals.OTLP && e.URL == "" {
		d.wrong(at, "url is missing; otlp goes to a collector, such as https://collector.example:4318")
	}
	if e.File != "" {
		out.File = l.resolve(e.File)
	}
	if e.URL != "" {
		d.address(at, e.URL)
	}
	if e.Credential != nil && e.URL == "" {
		d.wrong(at.to("credential"), "is for a url")
	} else if e.Credential != nil {
		out.Credential = l.credential(d, at.to("credential"), e.Credential)
	}
	if e.Secret != "" && e.URL == "" {
		d.wrong(at.to("secret"), "is for a url")
	} else if e.Secret != "" {
		out.Secret = l.signing(d, at, e.Secret)
	}
	return out
}

// witnesses reads who cosigns the log, and how many of them it takes.
func (d *document) witnesses(f *serverFile) (p witness.Policy) {
	at := path{"log"}
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
