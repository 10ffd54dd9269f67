package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// fieldMax is the longest field of a log line, in bytes.
const fieldMax = 4 << 10

// NewLogger makes a logger of one JSON line an entry. Whatever a caller put into
// a name, a header or an error, a line is one line of at most 4 KiB a field,
// with nothing a terminal would obey.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: cleanAttr}))
}

func cleanAttr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(clean(v.String()))
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			a.Value = slog.StringValue(clean(err.Error()))
		}
	}
	a.Key = clean(a.Key)
	return a
}

// clean writes what a terminal or a log reader could obey as escapes: control
// characters, line and paragraph separators, marks that turn text around, and
// what is no UTF-8. It cuts at fieldMax. What is clean stays as it is, so that
// cleaning twice is cleaning once.
func clean(s string) string {
	if isClean(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		n := b.Len()
		if isPlain(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(escape(r))
		}
		if b.Len() > fieldMax-len("…") {
			return b.String()[:n] + "…"
		}
	}
	return b.String()
}

func isClean(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return len(s) <= fieldMax && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !isPlain(r) }) < 0
		}
	}
	return len(s) <= fieldMax
}

// isPlain reports whether r prints as itself and moves nothing.
func isPlain(r rune) bool {
	return r != utf8.RuneError && (r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Z, r) && !unicode.Is(unicode.C, r))
}

func escape(r rune) string {
	const hex = "0123456789abcdef"
	width := 4
	if r > 0xffff {
		width = 8
	}
	b := []byte{'\\', "uU"[width/8]}
	for i := width - 1; i >= 0; i-- {
		b = append(b, hex[r>>(4*i)&0xf])
	}
	return string(b)
}

// log writes the line of the access log: at level info for what was refused, and
// at level debug for the rest. The query, which may hold what does
// not belong there, the body and the credentials are not in it.
func (c *call) log(start time.Time) {
	level := slog.LevelInfo
	if c.w.status < http.StatusBadRequest {
		level = slog.LevelDebug // what it did stands in the event log
	}
	l := c.s.o.Logger
	if !l.Enabled(context.Background(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request", c.id),
		slog.String("method", clean(c.r.Method)),
		slog.String("path", clean(c.r.URL.EscapedPath())),
		slog.Int("status", c.w.status),
		slog.Int64("bytes", c.w.bytes),
		slog.Duration("took", time.Since(start)),
		slog.String("source", c.source),
		slog.String("agent", clean(c.r.UserAgent())),
	}
	if c.route != nil {
		attrs = append(attrs, slog.String("route", c.route.pattern))
	}
	if c.peer != nil {
		attrs = append(attrs, slog.Int("uid", int(c.peer.UID)), slog.Int("pid", int(c.peer.PID)))
	}
	if d := c.w.Header().Get("Mayfly-Decision"); d != "" {
		attrs = append(attrs, slog.String("decision", clean(d)))
	}
	if c.refused != nil && c.refused.Code != "" {
		attrs = append(attrs, slog.String("code", clean(c.refused.Code)))
	}
	l.LogAttrs(context.Background(), level, "request", attrs...)
}

// observe tells how long the request took, under a name of few values.
func (c *call) observe(start time.Time) {
	if c.s.o.Observe == nil {
		return
	}
	route := "none"
	switch path := c.r.URL.EscapedPath(); {
	case c.calls && strings.HasPrefix(path, "/mcp/"):
		route = "/mcp/{target}"
	case c.calls:
		route = "/http/{target}"
	case c.route != nil:
		route = c.route.pattern
	}
	c.s.o.Observe(route, c.w.status, time.Since(start))
}

// answer is a ResponseWriter that remembers what went out.
type answer struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader remembers the first final status.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController find what is below.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Flush is for code that looks for an http.Flusher.
func (a *answer) Flush() {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	_ = http.NewResponseController(a.ResponseWriter).Flush() // a writer that cannot is not buffered for long
}
