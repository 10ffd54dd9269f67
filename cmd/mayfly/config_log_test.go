package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly/internal/mayflytest/cosigner"
)

func TestWitnessesAreTakenOrNamed(t *testing.T) {
	var keys []string
	for i, name := range []string{"alice.example/w", "bob.example/w"} {
		w := cosigner.New(name, byte(i), "")
		defer w.Close()
		keys = append(keys, w.VKey())
	}
	const twin = "carol.example/w"
	w := cosigner.New(twin, 0, "") // has alice's key
	defer w.Close()
	keys = append(keys, w.VKey())
	const alice, bob = `{name: alice, url: "https://alice.example/witness", vkey: "%[1]s"}`, `{name: bob, url: "http://127.0.0.1:7380/", vkey: "%[2]s"}`
	both := "log: {witnesses: [" + alice + ", " + bob + "]"
	written := func(text string) string {
		for i, k := range keys {
			text = strings.ReplaceAll(text, fmt.Sprintf("%%[%d]s", i+1), k)
		}
		return text
	}
	for quorum, need := range map[string]int{"": 2, ", quorum: all": 2, ", quorum: any": 1, ", quorum: 1": 1, ", quorum: 2": 2, `, quorum: "2"`: 2} {
		c, err := load(t, map[string]string{"mayfly.yaml": goodServer + written(both+quorum+"}\n")})
		if err != nil {
			t.Errorf("%q: %v", quorum, err)
			continue
		}
		p := c.Witnesses
		if len(p.Witnesses) != 2 || p.Need != need || p.Witnesses[1].Name != "bob" || p.Witnesses[1].URL != "http://127.0.0.1:7380/" || p.Witnesses[0].Key.String() != keys[0] {
			t.Errorf("%q: %+v, want a quorum of %d", quorum, p, need)
		}
	}
	plain, err := load(t, nil)
	if err != nil || len(plain.Witnesses.Witnesses) != 0 {
		t.Errorf("without any: %+v, %v", plain.Witnesses, err)
	}
	// Who cosigns the log decides nothing, so the nodes' bundles are the same.
	if c, err := load(t, map[string]string{"mayfly.yaml": goodServer + written(both+"}\n")}); err != nil || c.Hash != plain.Hash {
		t.Errorf("the bundle's hash is another with witnesses (%v)", err)
	}

	for text, want := range map[string]string{
		"log: {}":                "mayfly.yaml:18:6: log: witnesses is missing",
		"log: {witnesses: []}":   "log: witnesses is missing",
		"log: {quorum: any}":     "log: witnesses is missing",
		"log:":                   "log is empty",
		"log: {witnesses: {}}":   "log.witnesses must be a list, not a mapping",
		"log: {witness: []}":     `unknown key "witness" in log; did you mean "witnesses"?`,
		both + ", quorum: 3}":    "log.quorum: a quorum of 3 can never be met: there are 2 witnesses",
		both + ", quorum: 0}":    "log.quorum: a quorum of 0 asks nothing",
		both + ", quorum: -1}":   "log.quorum: a quorum of -1 asks nothing",
		both + ", quorum: 1.5}":  "log.quorum: 1.5 is not a whole number",
		both + ", quorum: most}": `log.quorum: "most" is not a quorum; write any, all, or how many`,
		both + ", quorum: [1]}":  "log.quorum must be text or a number, not a list",
		both + ", quorum: true}": "log.quorum must be text or a number, not true or false",
		both + ", quorum:}":      "log.quorum is empty",

		"log:\n  witnesses:\n    - " + alice + "\n    - " + strings.Replace(bob, "bob", "alice", 1):           `mayfly.yaml:21:14: log.witnesses[1].name: "alice" is taken`,
		"log: {witnesses: [" + alice + ", " + strings.Replace(bob, "%[2]s", "%[1]s", 1) + "]}":                "log.witnesses[1].vkey: is the key of witnesses[0] too",
		"log: {witnesses: [" + alice + ", " + strings.Replace(bob, "%[2]s", "%[3]s", 1) + "]}":                "log.witnesses[1].vkey: is the key of witnesses[0] too",
		"log: {witnesses: [" + strings.Replace(alice, "https", "http", 1) + "]}":                              `log.witnesses[0].url: "http://alice.example/witness" is http; that is for loopback hosts only`,
		"log: {witnesses: [" + strings.Replace(alice, "/witness", "/witness?x=1", 1) + "]}":                   "log.witnesses[0].url: \"https://alice.example/witness?x=1\" has a query",
		"log: {witnesses: [" + strings.Replace(alice, `url: "https://alice.example/witness", `, "", 1) + "]}": "log.witnesses[0]: url is missing",
		"log: {witnesses: [" + strings.Replace(alice, "name: alice, ", "", 1) + "]}":                          "log.witnesses[0]: name is missing",
		"log: {witnesses: [" + strings.Replace(alice, "alice,", "Alice 1,", 1) + "]}":                         `log.witnesses[0].name: "Alice 1" is not a name`,
		`log: {witnesses: [{name: a, url: "https://a.example"}]}`:                                             "log.witnesses[0]: vkey is missing",
		`log: {witnesses: [{name: a, url: "https://a.example", vkey: nonsense}]}`:                             "log.witnesses[0].vkey: \"nonsense\" is not the verifier key of a witness",
		`log: {witnesses: [{name: a, url: "https://a.example", vkey: "a.example/log+00000000+AQAA"}]}`:        "log.witnesses[0].vkey: the key of a.example/log is one that signs notes (type 0x01)",
		"log: {witnesses: [" + strings.Replace(alice, "%[1]s", "x%[1]s", 1) + "]}":                            "log.witnesses[0].vkey: the key of the witness xalice.example/w does not have the id",
	} {
		if _, err := load(t, map[string]string{"mayfly.yaml": goodServer + written(text) + "\n"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", written(text), err, want)
		}
	}
}

func TestExportsAreTakenOrNamed(t *testing.T) {
	const siem = `{name: siem, format: ocsf, url: "https://siem.example/in", credential: {header: authorization, value: "Bearer ${file:bank.token}"}}`
	c, err := load(t, map[string]string{"mayfly.yaml": goodServer + "log: {exports: [" + siem + ", {name: out, format: ocsf, stdout: true}, {name: disk, format: ocsf, file: out.jsonl}]}\n"})
	if err != nil {
		t.Fatal(err)
	}
	if e := c.Exports; len(e) != 3 || e[0].Credential.Header != "Authorization" || !strings.HasPrefix(e[0].Credential.Value.Reveal(), "Bearer ") ||
		!e[1].Stdout || !filepath.IsAbs(e[2].File) || filepath.Base(e[2].File) != "out.jsonl" || len(c.Witnesses.Witnesses) != 0 {
		t.Errorf("%+v", e)
	}
	// Where records go decides nothing, so the nodes' bundles are the same.
	if plain, err := load(t, nil); err != nil || c.Hash != plain.Hash || len(plain.Exports) != 0 {
		t.Errorf("the bundle's hash is another with exports (%v)", err)
	}
	for text, want := range map[string]string{
		"{exports: []}":                                                                                   "log: witnesses is missing",
		"{exports: [" + siem + "], quorum: any}":                                                          "log: witnesses is missing",
		"{exports: [" + siem + "], witnesses: []}":                                                        "log: witnesses is missing",
		"{exports: [" + siem + ", " + siem + "]}":                                                         `log.exports[1].name: "siem" is taken`,
		"{exports: [{format: ocsf, stdout: true}]}":                                                       "log.exports[0]: name is missing",
		"{exports: [{name: a, stdout: true}]}":                                                            "log.exports[0]: format is missing; known: ocsf, otlp",
		"{exports: [{name: a, format: cef, stdout: true}]}":                                               `log.exports[0].format: "cef" is not known; known: ocsf, otlp`,
		"{exports: [{name: a, format: ocsf, file: x, secret: b}]}":                                        "log.exports[0].secret: is for a url",
		`{exports: [{name: a, format: ocsf, url: "https://siem.example", secret: x}]}`:                    "log.exports[0].secret: holds the secret itself",
		`{exports: [{name: a, format: ocsf, url: "https://siem.example", secret: "${file:bank.token}"}]}`: "log.exports[0].secret: is shorter than 16 bytes",
		"{exports: [{name: a, format: otlp, stdout: true}]}":                                              "log.exports[0]: url is missing; otlp goes to a collector",
		"{exports: [{name: a, format: ocsf}]}":                                                            "log.exports[0]: goes to 0 places; name one",
		"{exports: [{name: a, format: ocsf, stdout: true, file: x}]}":                                     "log.exports[0]: goes to 2 places; name one",
		`{exports: [{name: a, format: ocsf, url: "http://siem.example"}]}`:                                "log.exports[0].url: \"http://siem.example\" is http",
		"{exports: [" + strings.Replace(siem, "${file:bank.token}", "x", 1) + "]}":                        "log.exports[0].credential.value: holds the secret itself",
		"{exports: [" + strings.Replace(siem, "header: authorization, ", "", 1) + "]}":                    "log.exports[0].credential: header is missing",
		"{exports: [{name: a, format: ocsf, file: x, credential: {header: a, value: b}}]}":                "log.exports[0].credential: is for a url",
		"{exports: [{name: a, format: ocsf, path: x}]}":                                                   `unknown key "path" in log.exports[0]`,
	} {
		if _, err := load(t, map[string]string{"mayfly.yaml": goodServer + "log: " + text + "\n"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
