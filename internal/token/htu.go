package token

import (
	"net/url"
	"strings"
)

// sameURL reports whether two http URLs name the same resource, without query
// and fragment (RFC 9449 section 4.3), after the normalisation of RFC 3986
// sections 6.2.2 and 6.2.3. A URL that cannot be read is the same as none.
func sameURL(a, b string) bool {
	x, ok := normalURL(a)
	if !ok {
		return false
	}
	y, ok := normalURL(b)
	return ok && x == y
}

func normalURL(text string) (string, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.User != nil || u.Hostname() == "" || strings.Contains(u.Host, "%") {
		return "", false
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	default:
		return "", false
	}
	host = strings.TrimSuffix(host, ":")
	// A host with an escape in it, which was refused, has no one spelling.
	return scheme + "://" + host + removeDots(normalEscapes(u.EscapedPath())), true
}

// normalEscapes writes %-escapes in upper case, and those of characters that
// need none as the character. What must stay escaped stays: %2F is no slash.
func normalEscapes(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || i+2 >= len(path) {
			b.WriteByte(path[i])
			continue
		}
		c := unhex(path[i+1])<<4 | unhex(path[i+2])
		if unreserved(c) {
			b.WriteByte(c)
		} else {
			b.WriteString(strings.ToUpper(path[i : i+3]))
		}
		i += 2
	}
	return b.String()
}

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	default:
		return c - '0'
	}
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// removeDots resolves "." and ".." (RFC 3986 section 5.2.4). An empty path is "/".
func removeDots(path string) string {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	var out []string
	parts := strings.Split(path[1:], "/")
	for i, p := range parts {
		last := i == len(parts)-1
		switch p {
		case ".":
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
		default:
			out = append(out, p)
			continue
		}
		if last {
			out = append(out, "") // the directory itself
		}
	}
	return "/" + strings.Join(out, "/")
}
