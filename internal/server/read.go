package server

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// read reads the query and the body as the route says they are, and holds up
// clients that come too often once it is known who they say they are.
func (c *call) read() error {
	if len(c.r.Header["Content-Encoding"]) > 0 {
		return mayfly.Errorf(mayfly.MediaType, "send the body as it is, without Content-Encoding")
	}
	if err := c.readQuery(); err != nil {
		return err
	}
	limit := int64(emptyLimit)
	switch c.route.body {
	case form:
		limit = formLimit
	case jsonBody:
		limit = jsonLimit
	}
	if c.route.limit > 0 {
		limit = c.route.limit
	}
	if err := c.readBody(limit); err != nil {
		return err
	}
	switch c.route.body {
	case empty:
		if b := bytes.TrimSpace(c.body); len(b) > 0 && string(b) != "{}" {
			return mayfly.Errorf(mayfly.Invalid, "this request takes no body")
		}
	case jsonBody:
		return c.mediaType(typeJSON)
	case form:
		if err := c.mediaType(typeForm); err != nil {
			return err
		}
		var err error
		if c.form, err = parseForm(c.body); err != nil {
			return err
		}
		return c.limitClients()
	}
	return nil
}

// readQuery reads the query strictly where it means something: what is not
// known there is refused, so that nobody believes it was obeyed, and a token in
// it is never taken.
func (c *call) readQuery() error {
	if c.route.surface == open || c.r.URL.RawQuery == "" {
		return nil
	}
	if c.route.surface == oauth {
		return badForm("send parameters in the body, never in the query")
	}
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return mayfly.Errorf(mayfly.Invalid, "the query is malformed")
	}
	for name, values := range q {
		if !slices.Contains(c.route.query, name) {
			if len(c.route.query) == 0 {
				return mayfly.Errorf(mayfly.Invalid, "this request takes no query parameters")
			}
			return mayfly.Errorf(mayfly.Invalid, "the query has a parameter that is not known here; known: %s", strings.Join(c.route.query, ", "))
		}
		if len(values) != 1 {
			return mayfly.Errorf(mayfly.Invalid, "the query has %s twice; send each parameter once", name)
		}
	}
	c.query = q
	return nil
}

// readBody reads the body, at most limit bytes of it.
func (c *call) readBody(limit int64) error {
	tooLarge := mayfly.Errorf(mayfly.TooLarge, "the body is longer than the %d bytes this request may have", limit)
	if c.r.ContentLength > limit {
		return tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w.ResponseWriter, c.r.Body, limit))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return tooLarge
	}
	if err != nil {
		return mayfly.Errorf(mayfly.Invalid, "the body could not be read to its end").Because(err)
	}
	c.body = body
	return nil
}

// mediaType refuses a body of another type than want, which is what keeps a
// page of another site from sending one without asking first.
func (c *call) mediaType(want string) error {
	if got := c.r.Header["Content-Type"]; len(got) == 1 && isMediaType(got[0], want) {
		return nil
	}
	return mayfly.Errorf(mayfly.MediaType, "send the body as %s", want)
}

// isMediaType reports whether a Content-Type is want, in UTF-8 if it says.
func isMediaType(contentType, want string) bool {
	got, params, err := mime.ParseMediaType(contentType)
	if err != nil || got != want {
		return false
	}
	charset, said := params["charset"]
	return len(params) == 0 || len(params) == 1 && said && strings.EqualFold(charset, "utf-8")
}

// answers makes a handler of do: what it gives back is the answer.
func answers[Out any](do func(c *call) (Out, error)) func(*call) error {
	return func(c *call) error {
		out, err := do(c)
		if err != nil {
			return err
		}
		c.write(c.route.status, typeJSON, out)
		return nil
	}
}

// takes makes a handler of do for a route with a JSON body, decoded strictly:
// what In has no place for is refused.
func takes[In, Out any](do func(c *call, in In) (Out, error)) func(*call) error {
	return answers(func(c *call) (Out, error) {
		var in In
		if err := strictjson.Unmarshal(c.body, strictjson.Ours, &in); err != nil {
			var none Out
			return none, c.malformed(err)
		}
		return do(c, in)
	})
}

// done makes a handler of do for a route that has nothing to say.
func done(do func(c *call) error) func(*call) error {
	return func(c *call) error {
		if err := do(c); err != nil {
			return err
		}
		c.w.WriteHeader(c.route.status)
		return nil
	}
}

// number is a query parameter that is a whole number from least to most;
// otherwise where it is absent.
func (c *call) number(name string, otherwise, least, most int64) (int64, error) {
	text := c.query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, mayfly.Errorf(mayfly.Invalid, "%s must be a whole number from %d to %d", name, least, most)
	}
	return n, nil
}

// limit is how many things a page may hold.
func (c *call) limit() (int, error) {
	n, err := c.number("limit", 100, 1, 500)
	return int(n), err
}
