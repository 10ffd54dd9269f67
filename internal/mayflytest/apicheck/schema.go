package apicheck

import (
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// schema is a JSON Schema (draft 2020-12), as far as the document uses it: a
// keyword that is not here fails the loading, so that none is ignored.
type schema struct {
	ref        string
	types      []string
	enum       []any
	constant   *any
	pattern    *regexp.Regexp
	dateTime   bool
	lengths    [2]*int // of a string, in characters
	range_     [2]*big.Float
	items      *schema
	counts     [2]*int // of items
	properties map[string]*schema
	sizes      [2]*int // of members
	required   []string
	closed     bool
	others     *schema // what members must be that are not in properties
	oneOf      []*schema
}

// schemas are the named ones.
type schemas map[string]*schema

const refPrefix = "#/components/schemas/"

func parseSchema(v any) (*schema, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("a schema is %T, not an object", v)
	}
	s := &schema{}
	for keyword, value := range m {
		if err := s.set(keyword, value); err != nil {
			return nil, fmt.Errorf("%s: %w", keyword, err)
		}
	}
	for _, name := range s.required {
		if s.properties[name] == nil {
			return nil, fmt.Errorf("required: %s is not among the properties", name)
		}
	}
	return s, nil
}

func (s *schema) set(keyword string, value any) (err error) {
	switch keyword {
	case "description":
	case "$ref":
		text, _ := value.(string)
		name, ok := strings.CutPrefix(text, refPrefix)
		if !ok {
			return fmt.Errorf("%q does not name a schema of the document", text)
		}
		s.ref = name
	case "type":
		text, ok := value.(string)
		if !ok {
			return fmt.Errorf("one type is expected")
		}
		s.types = []string{text}
	case "enum":
		s.enum, _ = value.([]any)
		if len(s.enum) == 0 {
			return fmt.Errorf("is empty")
		}
	case "const":
		s.constant = &value
	case "pattern":
		text, _ := value.(string)
		s.pattern, err = regexp.Compile(text)
	case "format":
		if value != "date-time" {
			return fmt.Errorf("%v is not checked", value)
		}
		s.dateTime = true
	case "minLength":
		s.lengths[0], err = count(value)
	case "maxLength":
		s.lengths[1], err = count(value)
	case "minItems":
		s.counts[0], err = count(value)
	case "maxItems":
		s.counts[1], err = count(value)
	case "minProperties":
		s.sizes[0], err = count(value)
	case "maxProperties":
		s.sizes[1], err = count(value)
	case "minimum":
		s.range_[0], err = number(value)
	case "maximum":
		s.range_[1], err = number(value)
	case "items":
		s.items, err = parseSchema(value)
	case "properties":
		m, _ := value.(map[string]any)
		s.properties = map[string]*schema{}
		for name, p := range m {
			if s.properties[name], err = parseSchema(p); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	case "required":
		list, _ := value.([]any)
		for _, name := range list {
			s.required = append(s.required, name.(string))
		}
	case "additionalProperties":
		if allowed, ok := value.(bool); ok {
			s.closed = !allowed
			return nil
		}
		s.others, err = parseSchema(value)
	case "oneOf":
		list, _ := value.([]any)
		for _, one := range list {
			sub, err := parseSchema(one)
			if err != nil {
				return err
			}
			s.oneOf = append(s.oneOf, sub)
		}
	default:
		return fmt.Errorf("this keyword is not checked")
	}
	return err
}

func count(v any) (*int, error) {
	n, ok := v.(json.Number)
	if !ok {
		return nil, fmt.Errorf("%v is not a number", v)
	}
	i, err := n.Int64()
	c := int(i)
	return &c, err
}

func number(v any) (*big.Float, error) {
	n, ok := v.(json.Number)
	if !ok {
		return nil, fmt.Errorf("%v is not a number", v)
	}
	f, _, err := big.ParseFloat(string(n), 10, 128, big.ToNearestEven)
	return f, err
}

// resolve reports a reference of s, or below, that names nothing.
func (s *schema) resolve(all schemas) error {
	if s == nil {
		return nil
	}
	if s.ref != "" && all[s.ref] == nil {
		return fmt.Errorf("there is no schema %s", s.ref)
	}
	below := append([]*schema{s.items, s.others}, s.oneOf...)
	for _, p := range s.properties {
		below = append(below, p)
	}
	for _, sub := range below {
		if err := sub.resolve(all); err != nil {
			return err
		}
	}
	return nil
}

// check reports the first place where v is not what s says. v was decoded with
// numbers as json.Number.
func (s *schema) check(all schemas, at string, v any) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s %s", cmpEmpty(at), fmt.Sprintf(format, args...))
	}
	if s.ref != "" {
		if err := all[s.ref].check(all, at, v); err != nil {
			return err
		}
	}
	if s.types != nil && !slices.Contains(s.types, typeOf(v)) && !(typeOf(v) == "integer" && slices.Contains(s.types, "number")) {
		return wrong("is %s, not %s", typeOf(v), s.types[0])
	}
	if s.enum != nil && !slices.ContainsFunc(s.enum, func(e any) bool { return same(e, v) }) {
		return wrong("is %v, which is not one of %v", v, s.enum)
	}
	if s.constant != nil && !same(*s.constant, v) {
		return wrong("is %v, not %v", v, *s.constant)
	}
	if s.oneOf != nil {
		fits := 0
		var why []string
		for _, one := range s.oneOf {
			if err := one.check(all, at, v); err == nil {
				fits++
			} else {
				why = append(why, err.Error())
			}
		}
		if fits != 1 {
			return wrong("fits %d of its alternatives, not one: %s", fits, strings.Join(why, "; "))
		}
	}
	switch v := v.(type) {
	case string:
		if s.pattern != nil && !s.pattern.MatchString(v) {
			return wrong("is %q, which does not match %s", v, s.pattern)
		}
		if s.dateTime {
			if t, err := time.Parse(time.RFC3339Nano, v); err != nil || !strings.HasSuffix(v, "Z") || t.IsZero() {
				return wrong("is %q, which is not a time in UTC", v)
			}
		}
		return within(s.lengths, utf8.RuneCountInString(v), wrong, "characters")
	case json.Number:
		n, err := number(v)
		if err != nil {
			return wrong("is no number: %v", err)
		}
		if s.range_[0] != nil && n.Cmp(s.range_[0]) < 0 || s.range_[1] != nil && n.Cmp(s.range_[1]) > 0 {
			return wrong("is %s, which is out of range", v)
		}
	case []any:
		if s.items != nil {
			for i, item := range v {
				if err := s.items.check(all, fmt.Sprintf("%s/%d", at, i), item); err != nil {
					return err
				}
			}
		}
		return within(s.counts, len(v), wrong, "items")
	case map[string]any:
		for _, name := range s.required {
			if _, ok := v[name]; !ok {
				return wrong("has no %s", name)
			}
		}
		for name, member := range v {
			sub := s.properties[name]
			if sub == nil {
				sub = s.others
			}
			if sub == nil {
				if s.closed {
					return wrong("has %s, which is not described", name)
				}
				continue
			}
			if err := sub.check(all, at+"/"+name, member); err != nil {
				return err
			}
		}
		return within(s.sizes, len(v), wrong, "members")
	}
	return nil
}

func cmpEmpty(at string) string {
	if at == "" {
		return "the document"
	}
	return at
}

func within(limits [2]*int, n int, wrong func(string, ...any) error, what string) error {
	if limits[0] != nil && n < *limits[0] || limits[1] != nil && n > *limits[1] {
		return wrong("has %d %s", n, what)
	}
	return nil
}

func same(a, b any) bool { return typeOf(a) == typeOf(b) && fmt.Sprint(a) == fmt.Sprint(b) }

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case json.Number:
		if strings.ContainsAny(string(v), ".eE") {
			return "number"
		}
		return "integer"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	}
	return "unknown"
}
