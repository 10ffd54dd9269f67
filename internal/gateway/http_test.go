package gateway

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
)

func readTest(t testing.TB, method, uri, contentType, body string) (*httpCall, error) {
	t.Helper()
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	r.RequestURI = uri
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	x := &request{w: w, r: r, control: http.NewResponseController(w)}
	var ok bool
	if x.route, ok = parseRoute(uri); !ok {
		t.Fatalf("%q is no address", uri)
	}
	return readHTTP(x)
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(s[:])
}

func TestACallIsReadOnce(t *testing.T) {
	for _, c := range []struct {
		name, method, uri, contentType, body string
		action, query, json, digest          string
		none, raw                            bool
	}{
		{name: "no body", method: "GET", uri: "/http/orders/v1/orders/1", action: "GET:/v1/orders/1", digest: sum("")},
		{name: "a query", method: "GET", uri: "/http/orders/v1/orders?b=x%20y&a=1", action: "GET:/v1/orders", query: "b=x+y&a=1", digest: sum("?b=x+y&a=1\n")},
		{name: "JSON", method: "POST", uri: "/http/orders/v1", contentType: "application/json", body: ` { "b" : 1.0, "a":"x" } `,
			action: "POST:/v1", json: `{"a":"x","b":1}`, digest: sum(`{"a":"x","b":1}`)},
		{name: "JSON and a query", method: "PUT", uri: "/http/orders/v1?q=1", contentType: "application/merge-patch+json; charset=UTF-8", body: `{}`,
			action: "PUT:/v1", query: "q=1", json: `{}`, digest: sum("?q=1\n{}")},
		{name: "JSON that is a list", method: "POST", uri: "/http/orders/v1", contentType: "application/json", body: `[1]`,
			action: "POST:/v1", json: `[1]`, digest: sum(`[1]`), none: true},
		{name: "another body", method: "POST", uri: "/http/orders/v1?q=1", contentType: "text/plain", body: `{"a":1}`,
			action: "POST:/v1", query: "q=1", none: true, raw: true},
		{name: "a body of no type", method: "POST", uri: "/http/orders/v1", body: `{"a":1}`, action: "POST:/v1", none: true, raw: true},
		{name: "a type and no body", method: "POST", uri: "/http/orders/v1", contentType: "application/json", action: "POST:/v1", digest: sum("")},
		{name: "an escaped path", method: "DELETE", uri: "/http/orders/caf%c3%a9", action: "DELETE:/café", digest: sum("")},
	} {
		in, err := readTest(t, c.method, c.uri, c.contentType, c.body)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if in.call.Kind != "http" || in.call.Target != "orders" || in.call.Action != c.action || in.query != c.query || string(in.json) != c.json ||
			in.call.Digest != c.digest || in.call.NoArguments != c.none || in.raw != c.raw || in.call.Size != int64(len(c.json)) {
			t.Errorf("%s: %+v", c.name, in)
		}
	}
}

func TestCallsWithTwoReadingsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, method, uri, contentType, body string
		kind                                 mayfly.Kind
	}{
		{"a method", "TRACE", "/http/o/a", "", "", mayfly.MethodNotAllowed},
		{"a method of one's own", "PURGE", "/http/o/a", "", "", mayfly.MethodNotAllowed},
		{"a path", "GET", "/http/o//a", "", "", mayfly.Invalid},
		{"a query", "GET", "/http/o/a?x=1&x=2", "", "", mayfly.Invalid},
		{"a member twice", "POST", "/http/o/a", "application/json", `{"a":1,"a":2}`, mayfly.Invalid},
		{"a member in two cases", "POST", "/http/o/a", "application/json", `{"a":1,"A":2}`, mayfly.Invalid},
		{"an argument in body and query", "POST", "/http/o/a?x=1", "application/json", `{"query.x":1}`, mayfly.Invalid},
		{"the same in another case", "POST", "/http/o/a?x=1", "application/json", `{"Query.X":1}`, mayfly.Invalid},
		{"no JSON", "POST", "/http/o/a", "application/json", `a=1`, mayfly.Invalid},
		{"too much JSON", "POST", "/http/o/a", "application/json", `"` + strings.Repeat("x", 1<<20) + `"`, mayfly.TooLarge},
		{"another charset", "POST", "/http/o/a", "application/json; charset=utf-16", `{}`, mayfly.MediaType},
		{"a type that is none", "POST", "/http/o/a", "application/json; charset", `{}`, mayfly.MediaType},
	} {
		if in, err := readTest(t, c.method, c.uri, c.contentType, c.body); mayfly.KindOf(err) != c.kind || err == nil {
			t.Errorf("%s: %+v, %v; want kind %d", c.name, in, err, c.kind)
		}
	}
}

func TestATargetSeesWhatWasDecidedOn(t *testing.T) {
	in, err := readTest(t, "POST", "/http/orders/caf%c3%a9/a%20b?q=%2F&flag", "application/json", `{"b":1,"a":2}`)
	if err != nil {
		t.Fatal(err)
	}
	for base, want := range map[string]string{
		"http://o.internal":         "http://o.internal/caf%C3%A9/a%20b?q=%2F&flag",
		"http://o.internal/api/":    "http://o.internal/api/caf%C3%A9/a%20b?q=%2F&flag",
		"http://o.internal/a%2Fb/c": "http://o.internal/a%2Fb/c/caf%C3%A9/a%20b?q=%2F&flag",
	} {
		out, _, err := in.request(&mayfly.Target{URL: base}, httptest.NewRequest("POST", "/", nil))
		if err != nil || out.URL.String() != want || out.Host != "o.internal" {
			t.Errorf("at %s: %v, %v; want %s", base, out.URL, err, want)
		}
		if body, err := io.ReadAll(out.Body); err != nil || string(body) != `{"a":2,"b":1}` || out.ContentLength != int64(len(body)) {
			t.Errorf("body %s, %v", body, err)
		}
	}
}

func TestAStreamedBodyIsDigestedOnTheWay(t *testing.T) {
	in, err := readTest(t, "POST", "/http/orders/a", "text/plain", "hello")
	if err != nil {
		t.Fatal(err)
	}
	out, body, err := in.request(&mayfly.Target{URL: "http://o"}, httptest.NewRequest("POST", "/", strings.NewReader("hello")))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(out.Body); err != nil || string(got) != "hello" {
		t.Fatal(got, err)
	}
	if want := "body of 5 bytes, sha-256 " + sum("hello"); body.said() != want {
		t.Errorf("said %q, want %q", body.said(), want)
	}
	var none *streamedBody
	if none.said() != "" {
		t.Error("a body that was not streamed says something")
	}
}

// S-51: what net/http would quietly repair is refused.
func TestFramingTricksAreRefused(t *testing.T) {
	for name, set := range map[string]func(*http.Request){
		"chunks":      func(r *http.Request) { r.TransferEncoding = []string{"chunked"} },
		"an encoding": func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") },
		"an upgrade":  func(r *http.Request) { r.Header.Set("Upgrade", "websocket") },
	} {
		r := httptest.NewRequest("POST", "/", nil)
		set(r)
		if err := checkFraming(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
