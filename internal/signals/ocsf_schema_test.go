package signals_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ocsfTable holds, of the published OCSF schema 1.8.0, the attributes that our
// lines use and those that their classes and objects require: requirement, type,
// profile, and the values of enumerations. What is not in it fails the test. No
// package of any registry carries the schema, so the table is made from a
// checkout of its repository (github.com/ocsf/ocsf-schema), tag v1.8.0:
//
//	go test ./internal/signals -run OCSF -ocsf-schema DIR            compare the table with it
//	go test ./internal/signals -run OCSF -ocsf-schema DIR -ocsf-make make the table
//
// By hand it can be compared with https://schema.ocsf.io/1.8.0.
const ocsfTable = "testdata/ocsf-1.8.0.txt"

var (
	ocsfSchema = flag.String("ocsf-schema", "", "a checkout of the published OCSF schema")
	ocsfMake   = flag.Bool("ocsf-make", false, "make the table from it")
)

// schemaRow is one attribute of a class or an object.
type schemaRow struct {
	requirement string // required, recommended, optional
	kind        string // of a value; with [] of a list's items
	profile     string // without which the attribute may not be used; "" is none
	deprecated  bool
	enum        map[string]string // value to caption
}

// schemaType is a class, by its uid, or an object, by its name.
type schemaType struct {
	attributes map[string]schemaRow
	oneOf      map[string][]string // at_least_one, just_one
}

func (r schemaRow) String() string {
	var enum []string
	for v, caption := range r.enum {
		enum = append(enum, v+"="+caption)
	}
	slices.SortFunc(enum, func(a, b string) int {
		if d := len(strings.Split(a, "=")[0]) - len(strings.Split(b, "=")[0]); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.requirement, r.kind, orDash(r.profile), strings.Join(enum, "|")))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// readTable reads the table.
func readTable(t *testing.T) map[string]*schemaType {
	t.Helper()
	text, err := os.ReadFile(ocsfTable)
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]*schemaType{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), " ", 6)
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		ty := types[f[0]]
		if ty == nil {
			ty = &schemaType{map[string]schemaRow{}, map[string][]string{}}
			types[f[0]] = ty
		}
		switch {
		case len(f) == 3:
			ty.oneOf[f[1]] = strings.Split(f[2], ",")
		case len(f) >= 5:
			row := schemaRow{requirement: f[2], kind: f[3], enum: map[string]string{}}
			if f[4] != "-" {
				row.profile = f[4]
			}
			if len(f) == 6 {
				for _, v := range strings.Split(f[5], "|") {
					value, caption, _ := strings.Cut(v, "=")
					row.enum[value] = caption
				}
			}
			ty.attributes[f[1]] = row
		default:
			t.Fatalf("%s: %q", ocsfTable, lines.Text())
		}
	}
	return types
}

// checker holds lines to a schema.
type checker struct {
	types    map[string]*schemaType
	profiles []any
	wrong    []string
	used     map[string]bool // "type attribute"
}

func (c *checker) add(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// check is what is wrong with one line.
func (c *checker) check(line []byte) []string {
	c.wrong, c.profiles = nil, nil
	var e map[string]any
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if err := d.Decode(&e); err != nil {
		return []string{err.Error()}
	}
	metadata, _ := e["metadata"].(map[string]any)
	c.profiles, _ = metadata["profiles"].([]any)
	if metadata["version"] != "1.8.0" {
		c.add("metadata.version is %v", metadata["version"])
	}
	class, activity := number(e["class_uid"]), number(e["activity_id"])
	if number(e["type_uid"]) != class*100+activity {
		c.add("type_uid %v is not of class %d and activity %d", e["type_uid"], class, activity)
	}
	if number(e["category_uid"]) != class/1000 {
		c.add("category_uid %v is not that of class %d", e["category_uid"], class)
	}
	if ty := c.types[strconv.Itoa(class)]; ty != nil {
		name, does := ty.attributes["class_uid"].enum[strconv.Itoa(class)], ty.attributes["activity_id"].enum[strconv.Itoa(activity)]
		if want := name + ": " + does; e["type_name"] != want {
			c.add("type_name is %v, want %s", e["type_name"], want)
		}
	}
	c.object("", strconv.Itoa(class), e)
	return c.wrong
}

func number(v any) int {
	n, _ := v.(json.Number)
	i, err := strconv.Atoi(n.String())
	if err != nil {
		return math.MinInt32
	}
	return i
}

func (c *checker) object(at, name string, o map[string]any) {
	ty := c.types[name]
	if ty == nil {
		c.add("%s: the table has no type %s", at, name)
		return
	}
	for member, v := range o {
		row, known := ty.attributes[member]
		if c.used != nil {
			c.used[name+" "+member] = true
		}
		path := at + "." + member
		switch {
		case !known:
			c.add("%s: %s has no such attribute", path, name)
			continue
		case row.deprecated:
			c.add("%s: is deprecated", path)
		case row.profile != "" && !slices.Contains(c.profiles, any(row.profile)):
			c.add("%s: is of the profile %s, which metadata.profiles does not name", path, row.profile)
		}
		if kind, list := strings.CutSuffix(row.kind, "[]"); list {
			items, ok := v.([]any)
			if !ok || len(items) == 0 {
				c.add("%s: is not a list with something in it: %v", path, v)
			}
			for i, item := range items {
				c.value(fmt.Sprintf("%s[%d]", path, i), kind, row, o, member, item)
			}
			continue
		}
		c.value(path, row.kind, row, o, member, v)
	}
	for member, row := range ty.attributes {
		if _, there := o[member]; row.requirement == "required" && row.profile == "" && !there {
			c.add("%s: %s requires %s", at, name, member)
		}
	}
	for rule, members := range ty.oneOf {
		n := 0
		for _, m := range members {
			if _, there := o[m]; there {
				n++
			}
		}
		if n == 0 || rule == "just_one" && n > 1 {
			c.add("%s: %s needs %s of %v", at, name, rule, members)
		}
	}
}

// siblings are the names of the captions that are not the attribute's without _id.
var siblings = map[string]string{"activity_id": "activity_name", "class_uid": "class_name", "category_uid": "category_name"}

func (c *checker) value(at, kind string, row schemaRow, in map[string]any, member string, v any) {
	text, isText := v.(string)
	ok := true
	switch kind {
	case "string_t", "url_t", "username_t", "resource_uid_t", "hostname_t", "process_name_t", "file_path_t":
		ok = isText && text != ""
	case "ip_t":
		_, err := netip.ParseAddr(text)
		ok = err == nil
	case "integer_t", "long_t", "timestamp_t", "port_t":
		n, isNumber := v.(json.Number)
		_, err := strconv.ParseInt(n.String(), 10, 64)
		ok = isNumber && err == nil
	case "boolean_t":
		_, ok = v.(bool)
	case "json_t":
	case "object":
		_, ok = v.(map[string]any)
	default:
		var o map[string]any
		if o, ok = v.(map[string]any); ok {
			c.object(at, kind, o)
		}
	}
	if !ok {
		c.add("%s: %v is not of type %s", at, v, kind)
	}
	n, isNumber := v.(json.Number)
	if len(row.enum) == 0 || !isNumber {
		return
	}
	caption, known := row.enum[n.String()]
	if !known {
		c.add("%s: %s is none of %v", at, n, row.enum)
		return
	}
	sibling := siblings[member]
	if sibling == "" {
		sibling = strings.TrimSuffix(member, "_id")
	}
	said, there := in[sibling]
	if n.String() == "99" && !there {
		c.add("%s: is Other, and %s does not say what", at, sibling)
	}
	if there && n.String() != "99" && said != caption {
		c.add("%s: %s is %q, want %q", at, sibling, said, caption)
	}
}

// published reads a checkout of the schema: the classes that we use, and every object.
type published struct {
	dir        string
	dictionary struct {
		Attributes map[string]sourceAttribute `json:"attributes"`
	}
	objects map[string]source
	events  map[string]source
}

type source struct {
	UID         *int                       `json:"uid"`
	Name        string                     `json:"name"`
	Caption     string                     `json:"caption"`
	Category    string                     `json:"category"`
	Extends     string                     `json:"extends"`
	Attributes  map[string]json.RawMessage `json:"attributes"`
	Constraints map[string][]string        `json:"constraints"`
}

type sourceAttribute struct {
	Type        string          `json:"type"`
	IsArray     bool            `json:"is_array"`
	Requirement string          `json:"requirement"`
	Profile     json.RawMessage `json:"profile"`
	Deprecated  json.RawMessage `json:"@deprecated"`
	Enum        map[string]struct {
		Caption string `json:"caption"`
	} `json:"enum"`
}

func readPublished(dir string) (*published, error) {
	p := &published{dir: dir, objects: map[string]source{}, events: map[string]source{}}
	var version struct {
		Version string `json:"version"`
	}
	if err := errors.Join(p.read("version.json", &version), p.read("dictionary.json", &p.dictionary)); err != nil {
		return nil, err
	}
	if version.Version != "1.8.0" {
		return nil, fmt.Errorf("%s is version %s of the schema", dir, version.Version)
	}
	for folder, into := range map[string]map[string]source{"objects": p.objects, "events": p.events} {
		err := filepath.WalkDir(filepath.Join(dir, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".json" {
				return err
			}
			var s source
			name, err := filepath.Rel(dir, path)
			if err == nil {
				err = p.read(name, &s)
			}
			into[s.Name] = s
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *published) read(name string, v any) error {
	text, err := os.ReadFile(filepath.Join(p.dir, name))
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	return err
}

// compile is a class or object with all that it inherits.
func (p *published) compile(of map[string]source, name string, ty *schemaType) error {
	s, there := of[name]
	if !there {
		return fmt.Errorf("the schema has no %s", name)
	}
	if s.Extends != "" {
		if err := p.compile(of, s.Extends, ty); err != nil {
			return err
		}
	}
	var includes []string
	if text, there := s.Attributes["$include"]; there {
		if err := json.Unmarshal(text, &includes); err != nil {
			return err
		}
	}
	for _, include := range includes {
		var profile source
		if err := p.read(include, &profile); err != nil {
			return err
		}
		if err := p.merge(ty, profile.Attributes, profile.Name); err != nil {
			return err
		}
	}
	for rule, members := range s.Constraints {
		ty.oneOf[rule] = members
	}
	return p.merge(ty, s.Attributes, "")
}

func (p *published) merge(ty *schemaType, attributes map[string]json.RawMessage, profile string) error {
	for name, text := range attributes {
		if name == "$include" {
			continue
		}
		var a sourceAttribute
		if err := json.Unmarshal(text, &a); err != nil {
			return err
		}
		row, inherited := ty.attributes[name]
		if !inherited {
			word, there := p.dictionary.Attributes[name]
			if !there {
				return fmt.Errorf("the dictionary has no %s", name)
			}
			row = schemaRow{kind: word.Type, requirement: "optional", enum: map[string]string{}, profile: profile, deprecated: word.Deprecated != nil}
			if word.IsArray {
				row.kind += "[]"
			}
			for v, e := range word.Enum {
				row.enum[v] = e.Caption
			}
		}
		if a.Requirement != "" {
			row.requirement = a.Requirement
		}
		row.deprecated = row.deprecated || a.Deprecated != nil
		switch {
		case string(a.Profile) == "null":
			row.profile = ""
		case a.Profile != nil:
			if err := json.Unmarshal(a.Profile, &row.profile); err != nil {
				return err
			}
		}
		for v, e := range a.Enum {
			row.enum[v] = e.Caption
		}
		ty.attributes[name] = row
	}
	return nil
}

// types is the whole schema, as far as lines can be held to it.
func (p *published) types() (map[string]*schemaType, error) {
	var categories struct {
		Attributes map[string]struct {
			UID     int    `json:"uid"`
			Caption string `json:"caption"`
		} `json:"attributes"`
	}
	if err := p.read("categories.json", &categories); err != nil {
		return nil, err
	}
	types := map[string]*schemaType{}
	for name, s := range p.events {
		if s.UID == nil && name != "base_event" {
			continue
		}
		category := ""
		for up := name; up != "" && category == ""; up = p.events[up].Extends {
			category = p.events[up].Category
		}
		of := categories.Attributes[category]
		uid := of.UID * 1000
		if s.UID != nil {
			uid += *s.UID
		}
		ty := &schemaType{map[string]schemaRow{}, map[string][]string{}}
		if err := p.compile(p.events, name, ty); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for attribute, enum := range map[string]map[string]string{
			"class_uid": {strconv.Itoa(uid): s.Caption}, "category_uid": {strconv.Itoa(uid / 1000): of.Caption},
		} {
			if name == "base_event" {
				continue // says so itself
			}
			row := ty.attributes[attribute]
			row.enum = enum
			ty.attributes[attribute] = row
		}
		types[strconv.Itoa(uid)] = ty
	}
	for name := range p.objects {
		ty := &schemaType{map[string]schemaRow{}, map[string][]string{}}
		if err := p.compile(p.objects, name, ty); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		types[name] = ty
	}
	return types, nil
}

// makeTable is the part of types that lines use.
func makeTable(types map[string]*schemaType, used map[string]bool) string {
	var rows []string
	seen := map[string]bool{}
	for key := range used {
		name, _, _ := strings.Cut(key, " ")
		seen[name] = true
	}
	for name := range seen {
		ty := types[name]
		for rule, members := range ty.oneOf {
			rows = append(rows, name+" "+rule+" "+strings.Join(members, ","))
		}
		for attribute, row := range ty.attributes {
			if used[name+" "+attribute] || row.requirement == "required" {
				rows = append(rows, name+" "+attribute+" "+row.String())
			}
		}
	}
	slices.Sort(rows)
	return "# OCSF 1.8.0: what our lines use of it. Made by the test: see ocsf_schema_test.go.\n" +
		"# class or object, attribute, requirement, type, profile, values\n" + strings.Join(rows, "\n") + "\n"
}

// The table is what was published, where the published schema is at hand.
func TestTheOCSFTableIsThePublishedSchema(t *testing.T) {
	if *ocsfSchema == "" {
		t.Skip("no checkout of the published schema is given with -ocsf-schema")
	}
	p, err := readPublished(*ocsfSchema)
	if err != nil {
		t.Fatal(err)
	}
	types, err := p.types()
	if err != nil {
		t.Fatal(err)
	}
	c := &checker{types: types, used: map[string]bool{}}
	for _, line := range exportedSamples(t) {
		for _, w := range c.check(line) {
			t.Errorf("%s\n%s", w, line)
		}
	}
	table := makeTable(types, c.used)
	if *ocsfMake {
		if err := os.WriteFile(ocsfTable, []byte(table), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	had, err := os.ReadFile(ocsfTable)
	if err != nil || string(had) != table {
		t.Errorf("the table is not what the schema says (%v); make it with -ocsf-make", err)
	}
}
