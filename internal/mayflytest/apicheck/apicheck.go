// Package apicheck holds real requests and answers against an OpenAPI document:
// what is answered must be described, and what is accepted too. It is for tests
// only. Start reading at [Checker.Handler].
package apicheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Checker knows one document. It is safe for concurrent use.
type Checker struct {
	schemas    schemas
	operations []*Operation

	mu   sync.Mutex // guards the map
	seen map[*Operation]bool
}

// Operation is a method of a path of the document.
type Operation struct {
	Method    string
	Path      string   // with {name} where a segment is open
	Values    []string // names of its path parameters
	Query     []string // names of its query parameters
	Body      string   // media type of the request, "" for none
	Status    int      // of success
	Answers   []string // media types of success
	Operation string   // its id

	body      *schema
	query     map[string]*schema
	responses map[string]map[string]*schema // status or range, media type; a nil schema describes nothing
}

// New reads a document. It is an error if it uses anything that is not checked.
func New(document []byte) (*Checker, error) {
	root, err := decode(document)
	if err != nil {
		return nil, err
	}
	c := &Checker{schemas: schemas{}, seen: map[*Operation]bool{}}
	components := object(object(root)["components"])
	for name, v := range object(components["schemas"]) {
		if c.schemas[name], err = parseSchema(v); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
	}
	for name, s := range c.schemas {
		if err := s.resolve(c.schemas); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
	}
	for path, methods := range object(object(root)["paths"]) {
		for method, v := range object(methods) {
			op, err := c.operation(strings.ToUpper(method), path, object(v), object(components["responses"]))
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", method, path, err)
			}
			c.operations = append(c.operations, op)
		}
	}
	slices.SortFunc(c.operations, func(a, b *Operation) int { return strings.Compare(a.Path+a.Method, b.Path+b.Method) })
	return c, nil
}

func (c *Checker) operation(method, path string, m, shared map[string]any) (*Operation, error) {
	id, _ := m["operationId"].(string)
	op := &Operation{Method: method, Path: path, Operation: id, query: map[string]*schema{}, responses: map[string]map[string]*schema{}}
	if id == "" {
		return nil, errors.New("it has no operationId")
	}
	list, _ := m["parameters"].([]any)
	for _, v := range list {
		p := object(v)
		name, _ := p["name"].(string)
		s, err := c.schema(p["schema"])
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", name, err)
		}
		switch p["in"] {
		case "path":
			op.Values = append(op.Values, name)
		case "query":
			op.Query = append(op.Query, name)
			op.query[name] = s
		default:
			return nil, fmt.Errorf("parameter %s is in %v", name, p["in"])
		}
	}
	for mediaType, v := range object(object(m["requestBody"])["content"]) {
		var err error
		if op.Body, op.body, err = mediaType, nil, nil; err == nil {
			op.body, err = c.schema(object(v)["schema"])
		}
		if err != nil {
			return nil, err
		}
	}
	for status, v := range object(m["responses"]) {
		r := object(v)
		if ref, ok := r["$ref"].(string); ok {
			if r = object(shared[strings.TrimPrefix(ref, "#/components/responses/")]); r == nil {
				return nil, fmt.Errorf("there is no response %s", ref)
			}
		}
		op.responses[status] = map[string]*schema{}
		n, err := strconv.Atoi(status)
		if err == nil && n < 400 {
			op.Status = n
		}
		for mediaType, content := range object(r["content"]) {
			s, err := c.schema(object(content)["schema"])
			if err != nil {
				return nil, err
			}
			op.responses[status][mediaType] = s
			if status == strconv.Itoa(op.Status) {
				op.Answers = append(op.Answers, mediaType)
			}
		}
	}
	slices.Sort(op.Answers)
	if op.Status == 0 {
		return nil, errors.New("no success is described")
	}
	return op, nil
}

func (c *Checker) schema(v any) (*schema, error) {
	if v == nil {
		return nil, nil
	}
	s, err := parseSchema(v)
	if err != nil {
		return nil, err
	}
	return s, s.resolve(c.schemas)
}

// Operations are all of the document.
func (c *Checker) Operations() []*Operation { return c.operations }

// Unseen are the ids of operations that no checked exchange succeeded with.
func (c *Checker) Unseen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, op := range c.operations {
		if !c.seen[op] {
			ids = append(ids, op.Operation)
		}
	}
	return ids
}

// captureMax is how much of a body is looked at, in bytes.
const captureMax = 8 << 20

// Handler is next with every exchange held against the document; what does not
// agree goes to report. Paths that are not in the document are let through.
func (c *Checker) Handler(next http.Handler, report func(error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		op := c.find(r.Method, r.URL.EscapedPath())
		if op == nil {
			next.ServeHTTP(w, r)
			return
		}
		asked := &capture{}
		contentType, query := r.Header.Get("Content-Type"), r.URL.Query()
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, asked), r.Body}
		out := &recorder{ResponseWriter: w}
		next.ServeHTTP(out, r)
		err := op.answer(c.schemas, out.status, w.Header().Get("Content-Type"), out.body.Bytes(), r.Method == http.MethodHead)
		if err == nil && out.status == op.Status {
			c.mu.Lock()
			c.seen[op] = true
			c.mu.Unlock()
			err = op.request(c.schemas, contentType, query, asked.Bytes())
		}
		if err != nil {
			report(fmt.Errorf("%s %s answered %d: %w", r.Method, r.URL.EscapedPath(), out.status, err))
		}
	})
}

func (c *Checker) find(method, path string) *Operation {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var best *Operation
	for _, op := range c.operations {
		// Of two that fit, the one that says more is meant.
		if op.Method == method && fits(op.Path, path) && (best == nil || len(op.Path) > len(best.Path)) {
			best = op
		}
	}
	return best
}

// fits compares path with a template, whose last {path} may have slashes.
func fits(template, path string) bool {
	for template != "" {
		start := strings.IndexByte(template, '{')
		if start < 0 {
			return template == path
		}
		if !strings.HasPrefix(path, template[:start]) {
			return false
		}
		path = path[start:]
		name, rest, _ := strings.Cut(template[start+1:], "}")
		template = rest
		end := strings.IndexByte(path, '/')
		if end < 0 || name == "path" {
			end = len(path)
		}
		if end == 0 {
			return false
		}
		path = path[end:]
	}
	return path == ""
}

// answer checks an answer.
func (op *Operation) answer(all schemas, status int, contentType string, body []byte, head bool) error {
	described, ok := op.responses[strconv.Itoa(status)]
	if !ok {
		described, ok = op.responses[strconv.Itoa(status/100)+"XX"]
	}
	if !ok {
		return errors.New("this status is not described")
	}
	if len(described) == 0 {
		if len(body) > 0 {
			return errors.New("it has a body, and none is described")
		}
		return nil
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return fmt.Errorf("its type is %q: %w", contentType, err)
	}
	s, ok := described[mediaType]
	if !ok {
		return fmt.Errorf("its type %s is not described", mediaType)
	}
	if s == nil || head || !strings.HasSuffix(mediaType, "json") {
		return nil
	}
	v, err := decode(body)
	if err != nil {
		return fmt.Errorf("its body is not JSON: %w", err)
	}
	return s.check(all, "", v)
}

// request checks a request that was accepted.
func (op *Operation) request(all schemas, contentType string, query url.Values, body []byte) error {
	for name, values := range query {
		s := op.query[name]
		if s == nil || len(values) != 1 {
			return fmt.Errorf("it took the query parameter %s, which is not described", name)
		}
		var v any = values[0]
		if slices.Contains(s.types, "integer") {
			v = json.Number(values[0])
		}
		if err := s.check(all, "the query parameter "+name, v); err != nil {
			return fmt.Errorf("it took a request that is not described: %w", err)
		}
	}
	if op.body == nil {
		return nil
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != op.Body {
		return fmt.Errorf("it took a body of type %q, which is not described", contentType)
	}
	var v any
	if mediaType == "application/x-www-form-urlencoded" {
		f, err := url.ParseQuery(string(body))
		if err != nil {
			return fmt.Errorf("it took a form that is none: %w", err)
		}
		m := map[string]any{}
		for name := range f {
			if f.Get(name) != "" {
				m[name] = f.Get(name)
			}
		}
		v = m
	} else if v, err = decode(body); err != nil {
		return fmt.Errorf("it took JSON that is none: %w", err)
	}
	if err := op.body.check(all, "", v); err != nil {
		return fmt.Errorf("it took a request that is not described: %w", err)
	}
	return nil
}

func decode(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("something follows the value")
	}
	return v, nil
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// capture keeps what is written to it, up to captureMax.
type capture struct{ bytes.Buffer }

func (c *capture) Write(p []byte) (int, error) {
	if room := captureMax - c.Len(); room > 0 {
		c.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// recorder keeps what a handler answers.
type recorder struct {
	http.ResponseWriter
	status int
	body   capture
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if _, err := r.body.Write(p); err != nil {
		return 0, err
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find what is below.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
