package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// serveHTTP is one call to an HTTP API:
//
//	read it once ──▶ Admit ──▶ attach the credential ──Fresh──▶ forward what was read ──▶ relay ──▶ Done
func (g *Gateway) serveHTTP(x *request) {
	in, err := readHTTP(x)
	if err != nil {
		g.refuse(x, "call "+clip(x.r.Method+" "+x.route.plain), err)
		return
	}
	ad, err := g.authority.Admit(x.r.Context(), x.session, in.call)
	if err != nil {
		g.log(x, err)
		x.problem(err)
		return
	}
	outcome := authority.Outcome{Name: "failed", Detail: "the gateway stopped half-way"}
	defer func() { ad.Done(outcome) }()

	ctx, cancel, limit, done := x.open(true)
	defer done()
	out, body, err := in.request(ad.Target(), x.r)
	if err != nil {
		outcome = authority.Outcome{Name: "not-sent", Detail: "the target's address is not a URL"}
		x.problem(err)
		return
	}
	x.trace(out.Header, ad.Decision().ID)
	if body != nil {
		x.readWithin(totalWithin)
	}
	resp, sent, err := g.send(ctx, cancel, ad.Target(), out, func() error { return ad.Fresh(ctx) })
	if err != nil {
		outcome = x.unanswered(ctx, sent, err)
		err = withDecision(err, ad.Decision().ID)
		g.log(x, err)
		x.problem(err)
		return
	}
	defer resp.Body.Close()
	outcome = unpassed(resp)
	x.w.Header().Set("Mayfly-Decision", ad.Decision().ID)
	if err := checkStatus(resp); err != nil {
		x.problem(withDecision(err, ad.Decision().ID))
		return
	}
	events := isEventStream(resp.Header)
	if resp.ContentLength > maxAnswer && !events && x.r.Method != http.MethodHead {
		x.problem(withDecision(tooLong(), ad.Decision().ID))
		return
	}
	if events {
		limit.Reset(streamWithin)
		x.readWithin(0)
	}
	relayHeaders(x.w.Header(), resp.Header, ad.Target(), x.bundle.Issuer+"/http/"+x.route.target)
	// What a target says must never run as a page of this origin.
	x.w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
	x.wrote = true
	x.writeWithin(wholeWrite)
	x.w.WriteHeader(resp.StatusCode)

	// From here on an answer that breaks off must not look whole: the
	// connection is dropped, once the outcome says so.
	var n int64
	if events {
		err = x.control.Flush() // a client waits for the head before it goes on
	}
	if err == nil {
		n, err = x.relayBody(ctx, resp, events)
	}
	outcome.Name, outcome.Detail, outcome.Bytes = "answered", body.said(), n
	if err != nil {
		outcome.Name, outcome.Detail = "cut", cutBy(ctx, x, err)
		panic(http.ErrAbortHandler)
	}
}

// httpCall is an HTTP request in the one form that is decided on and forwarded.
type httpCall struct {
	call  mayfly.Call
	path  string // decoded
	query string // encoded anew
	json  []byte // the canonical body, nil if the body is not JSON or there is none
	raw   bool   // there is a body and it is not JSON: it is streamed
}

// methods are those an HTTP target can be called with.
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// readHTTP reads a request into a call. What it cannot read in exactly one way
// it refuses.
func readHTTP(x *request) (*httpCall, error) {
	r := x.r
	if !slices.Contains(methods, r.Method) {
		x.w.Header().Set("Allow", strings.Join(methods, ", "))
		return nil, mayfly.Errorf(mayfly.MethodNotAllowed, "the method must be one of %s", strings.Join(methods, ", "))
	}
	path, err := cleanPath(x.route.path)
	if err != nil {
		return nil, err
	}
	pairs, err := parseQuery(x.route.query)
	if err != nil {
		return nil, err
	}
	in := &httpCall{path: path, query: encodeQuery(pairs)}
	in.call = mayfly.Call{Kind: "http", Target: x.route.target, Action: r.Method + ":" + path}

	isJSON, err := bodyIsJSON(r)
	switch {
	case err != nil:
		return nil, err
	case r.ContentLength == 0 || r.Body == http.NoBody:
		isJSON = false
	case !isJSON:
		in.raw = true
	}
	if isJSON {
		body, err := x.readBody(strictjson.MCP.Bytes)
		if err != nil {
			return nil, err
		}
		if in.json, err = canonicalBody(body); err != nil {
			return nil, err
		}
	}
	if err := in.readArguments(pairs); err != nil {
		return nil, err
	}
	if !in.raw {
		in.call.Digest, in.call.Size = digestOf(in.query, in.json), int64(len(in.json))
	}
	x.readWithin(0)
	return in, nil
}

// canonicalBody is body in canonical form, if every parser reads it alike.
func canonicalBody(body []byte) ([]byte, error) {
	canonical, err := strictjson.Canonical(body, strictjson.MCP)
	if err != nil {
		return nil, err
	}
	if name, twice := foldedTwice(canonical); twice {
		return nil, mayfly.Errorf(mayfly.Invalid, "the JSON has %q in two spellings; send it once", clip(name))
	}
	return canonical, nil
}

// bodyIsJSON says what the Content-Type declares.
func bodyIsJSON(r *http.Request) (bool, error) {
	values := r.Header["Content-Type"]
	switch len(values) {
	case 0:
		return false, nil
	case 1:
	default:
		return false, mayfly.Errorf(mayfly.Invalid, "send one Content-Type")
	}
	mediaType, params, err := mime.ParseMediaType(values[0])
	if err != nil {
		return false, mayfly.Errorf(mayfly.MediaType, "the Content-Type cannot be read")
	}
	if mediaType != "application/json" && !strings.HasSuffix(mediaType, "+json") {
		return false, nil
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return false, mayfly.Errorf(mayfly.MediaType, "send JSON as UTF-8")
	}
	return true, nil
}

// readArguments takes the arguments from the body's members and, as query.NAME,
// from the query. A body that is not a JSON object has none to read.
func (in *httpCall) readArguments(pairs []pair) error {
	if in.raw || in.json != nil && in.json[0] != '{' {
		in.call.NoArguments = true
		return nil
	}
	object := in.json
	if object == nil {
		object = []byte("{}")
	}
	if len(pairs) > 0 {
		merged := slices.Clone(object[:len(object)-1])
		for _, p := range pairs {
			if len(merged) > 1 {
				merged = append(merged, ',')
			}
			var err error
			if merged, err = jsontext.AppendQuote(merged, "query."+p.name); err != nil {
				return mayfly.Errorf(mayfly.Invalid, "the query cannot be read").Because(err)
			}
			merged = append(merged, ':')
			if merged, err = jsontext.AppendQuote(merged, p.value); err != nil {
				return mayfly.Errorf(mayfly.Invalid, "the query cannot be read").Because(err)
			}
		}
		// A member of the body and a parameter of the same name are one
		// argument given twice; this is where that is refused.
		var err error
		if object, err = canonicalBody(append(merged, '}')); err != nil {
			return err
		}
	}
	arguments, err := mayfly.ParseArguments(object)
	if err != nil {
		return err
	}
	in.call.Arguments = arguments
	return nil
}

// digestOf is the digest of what is forwarded: of the body alone, and where
// there is a query of "?", the query, a line feed and the body. No JSON begins
// with "?", so the two cannot be taken for each other.
func digestOf(query string, body []byte) string {
	h := sha256.New()
	if query != "" {
		io.WriteString(h, "?"+query+"\n")
	}
	h.Write(body)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// request makes the request to the target. body is set where the agent's body is
// streamed.
func (in *httpCall) request(target *mayfly.Target, r *http.Request) (out *http.Request, body *streamedBody, err error) {
	u, err := url.Parse(target.URL)
	if err != nil {
		return nil, nil, mayfly.Errorf(mayfly.Internal, "the target's address is not a URL: %w", err)
	}
	base := u.EscapedPath()
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/")+in.path, strings.TrimSuffix(base, "/")+(&url.URL{Path: in.path}).EscapedPath()
	u.RawQuery = in.query
	out = &http.Request{
		Method: r.Method, URL: u, Host: u.Host, Header: forwardHeaders(r.Header),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	switch {
	case in.json != nil:
		out.ContentLength = int64(len(in.json))
		out.Body = io.NopCloser(bytes.NewReader(in.json))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(in.json)), nil }
	case in.raw:
		body = &streamedBody{from: r.Body, digest: sha256.New()}
		out.ContentLength, out.Body = r.ContentLength, body
	default:
		// What there is no body of has no type either.
		delete(out.Header, "Content-Type")
	}
	return out, body, nil
}

// streamedBody passes a body on and digests it on the way.
type streamedBody struct {
	from io.ReadCloser

	mu     sync.Mutex // the transport may still read while the answer is recorded
	digest hash.Hash
	size   int64
}

func (b *streamedBody) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.digest.Write(p[:n])
	b.size += int64(n)
	return n, err
}

func (b *streamedBody) Close() error { return b.from.Close() }

// said is what the record says of a streamed body: its digest is known only
// after it has gone.
func (b *streamedBody) said() string {
	if b == nil {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("body of %d bytes, sha-256 %s", b.size, base64.RawURLEncoding.EncodeToString(b.digest.Sum(nil)))
}

// readBody reads a request's whole body of at most max bytes.
func (x *request) readBody(max int) ([]byte, error) {
	if x.r.ContentLength > int64(max) {
		x.w.Header().Set("Connection", "close") // nobody will read the rest
		return nil, longBody(max)
	}
	var body []byte
	var err error
	if n := x.r.ContentLength; n >= 0 {
		body = make([]byte, n)
		_, err = io.ReadFull(x.r.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(x.r.Body, int64(max)+1))
	}
	switch {
	case err != nil:
		return nil, mayfly.Errorf(mayfly.Invalid, "the body broke off before its end").Because(err)
	case len(body) > max:
		return nil, longBody(max)
	}
	return body, nil
}

func longBody(max int) *mayfly.Error {
	return mayfly.Errorf(mayfly.TooLarge, "the body is longer than %d bytes; send less at once", max)
}

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// relayBody passes a target's body on, each piece as it comes. It gives the
// number of bytes passed, and an error where the body is not whole.
func (x *request) relayBody(ctx context.Context, resp *http.Response, events bool) (n int64, err error) {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	flush := events || resp.ContentLength < 0
	for {
		read, err := resp.Body.Read(*buf)
		if read > 0 {
			if err := ctx.Err(); err != nil {
				return n, err
			}
			if n += int64(read); n > maxAnswer && !events {
				return n, tooLong()
			}
			x.writeWithin(chunkWrite)
			if _, err := x.w.Write((*buf)[:read]); err != nil {
				return n, err
			}
			if flush {
				if err := x.control.Flush(); err != nil {
					return n, err
				}
			}
		}
		switch {
		case err == io.EOF:
			return n, nil
		case err != nil:
			return n, err
		}
	}
}

// unanswered is the outcome of a call whose target gave no answer.
func (x *request) unanswered(ctx context.Context, sent bool, err error) authority.Outcome {
	o := authority.Outcome{Name: "failed", Detail: mayfly.AsError(err).Message}
	switch {
	case !sent:
		o.Name = "not-sent"
	case ctx.Err() != nil:
		o.Name, o.Detail = "cut", cutBy(ctx, x, err)
	}
	return o
}

// cutBy says why an exchange ended before its end.
func cutBy(ctx context.Context, x *request, err error) string {
	if x.r.Context().Err() != nil {
		return "the agent went away"
	}
	return mayfly.AsError(failure(ctx, err)).Message
}

func isEventStream(h http.Header) bool {
	return mediaType(h) == "text/event-stream"
}

func mediaType(h http.Header) string {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(t))
}
