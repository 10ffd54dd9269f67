package gateway

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/mayfly-id/mayfly"
)

// route is where a request wants to go, read from the request target as it
// stood on the wire: nothing has cleaned or decoded it.
type route struct {
	surface string // mcp or http
	target  string
	path    string // what follows the target, undecoded; "" or beginning with "/"
	query   string // undecoded, without the "?"
	plain   string // surface, target and path: what a proof's htu is compared with
}

// parseRoute reads /mcp/{target} and /http/{target}/{path…}?{query}. ok is false
// where no target could ever have that address.
func parseRoute(requestURI string) (r route, ok bool) {
	r.plain, r.query, _ = strings.Cut(requestURI, "?")
	rest, ok := strings.CutPrefix(r.plain, "/")
	if !ok {
		return r, false
	}
	r.surface, rest, _ = strings.Cut(rest, "/")
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		end = len(rest)
	}
	r.target, r.path = rest[:end], rest[end:]
	if !isTargetName(r.target) {
		return r, false
	}
	switch r.surface {
	case "mcp":
		return r, r.path == "" && r.query == ""
	case "http":
		return r, true
	}
	return r, false
}

// isTargetName is a little wider than what the configuration accepts; its use
// is that a name can stand in a header and a URL as it is.
func isTargetName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isUnreserved(c) {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// cleanPath decodes a path that has one reading and refuses every other
// (security, section 1, C6): nothing is normalised, so what was decided on is
// what the target sees. The path forwarded is the encoding of the one returned.
func cleanPath(raw string) (string, error) {
	if raw == "" {
		return "/", nil
	}
	if raw[0] != '/' {
		return "", pathError("no \"/\" at its beginning")
	}
	var b strings.Builder
	b.Grow(len(raw))
	segment := 0 // where the current segment begins in b
	for i := 0; i < len(raw); i++ {
		c, encoded := raw[i], false
		if c == '%' {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return "", pathError("a \"%%\" that begins no escape")
			}
			c, encoded = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			i += 2
		}
		switch {
		case c < 0x20 || c == 0x7f:
			return "", pathError("a control character")
		case c == '\\' || c == ';' || c == '#' || c == '?' || c == '%':
			return "", pathError("%q, which targets read differently", c)
		case encoded && (c == '/' || isUnreserved(c)):
			return "", pathError("an escaped %q, which needs no escape", c)
		case !encoded && (c == ' ' || c >= utf8.RuneSelf || strings.IndexByte(`"<>^`+"`{|}", c) >= 0):
			return "", pathError("a character that must be escaped")
		}
		if c == '/' && b.Len() > 0 {
			if err := checkSegment(b.String()[segment:], false); err != nil {
				return "", err
			}
			segment = b.Len() + 1
		} else if c == '/' {
			segment = 1
		}
		b.WriteByte(c)
	}
	path := b.String()
	if err := checkSegment(path[segment:], true); err != nil {
		return "", err
	}
	if !utf8.ValidString(path) {
		return "", pathError("bytes that are not UTF-8")
	}
	return path, nil
}

// checkSegment refuses what some targets would fold away: empty segments, dot
// segments and trailing dots. Only the last segment may be empty.
func checkSegment(s string, last bool) error {
	switch {
	case s == "" && !last:
		return pathError("an empty segment")
	case strings.HasSuffix(s, "."):
		return pathError("a segment that ends in a dot")
	}
	return nil
}

func pathError(format string, args ...any) *mayfly.Error {
	return mayfly.Errorf(mayfly.Invalid, "the path has "+format+"; send it in its plain form", args...)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}

// pair is one name and value of a query string.
type pair struct {
	name, value string
	bare        bool // no "=" was sent
}

// parseQuery reads a query string of which every parser makes the same. A name
// that comes twice, in whatever case, is refused: an argument has one value.
func parseQuery(raw string) ([]pair, error) {
	if raw == "" {
		return nil, nil
	}
	var pairs []pair
	for part := range strings.SplitSeq(raw, "&") {
		name, value, found := strings.Cut(part, "=")
		p := pair{bare: !found}
		var err error
		if p.name, err = unescapeQuery(name); err != nil {
			return nil, err
		}
		if p.value, err = unescapeQuery(value); err != nil {
			return nil, err
		}
		if p.name == "" {
			return nil, mayfly.Errorf(mayfly.Invalid, "the query has a parameter without a name; leave it out")
		}
		for _, other := range pairs {
			if strings.EqualFold(other.name, p.name) {
				return nil, mayfly.Errorf(mayfly.Invalid, "the query has %q twice; send it once", clip(p.name))
			}
		}
		if pairs = append(pairs, p); len(pairs) > maxQuery {
			return nil, mayfly.Errorf(mayfly.Invalid, "the query has more than %d parameters", maxQuery)
		}
	}
	return pairs, nil
}

// maxQuery bounds the parameters of a query string.
const maxQuery = 100

func unescapeQuery(s string) (string, error) {
	if strings.ContainsAny(s, ";#") {
		return "", mayfly.Errorf(mayfly.Invalid, "the query has a \";\" or \"#\" that is not escaped")
	}
	plain, err := url.QueryUnescape(s)
	if err != nil {
		return "", mayfly.Errorf(mayfly.Invalid, "the query has a \"%%\" that begins no escape")
	}
	for i := range len(plain) {
		if plain[i] < 0x20 && plain[i] != '\t' && plain[i] != '\n' && plain[i] != '\r' || plain[i] == 0x7f {
			return "", mayfly.Errorf(mayfly.Invalid, "the query has a control character")
		}
	}
	if !utf8.ValidString(plain) {
		return "", mayfly.Errorf(mayfly.Invalid, "the query has bytes that are not UTF-8")
	}
	return plain, nil
}

// encodeQuery writes pairs in the one form that is forwarded.
func encodeQuery(pairs []pair) string {
	var b strings.Builder
	for i, p := range pairs {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(p.name))
		if !p.bare {
			b.WriteByte('=')
			b.WriteString(url.QueryEscape(p.value))
		}
	}
	return b.String()
}

// clip makes text from outside fit to stand in a message or a record: short, and
// valid UTF-8.
func clip(s string) string {
	const longest = 80
	if len(s) > longest {
		return strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
