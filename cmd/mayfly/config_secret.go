package main

import (
	"bytes"
	"encoding/base64"
	"os"
	"strings"

	"github.com/mayfly-id/mayfly"
)

// secretLimit is the longest secret, in bytes.
const secretLimit = 16 << 10

// secret is the value at a key with every ${file:…} and ${env:…} in it
// replaced, once. A value that names none would be a secret in the
// configuration, and in its hash: it is refused. The value is never in a message.
func (l *loader) secret(d *document, at path, key, value string) mayfly.Secret {
	if value == "" {
		d.wrong(at, "%s is missing; name the secret, such as \"${file:/etc/mayfly/token}\"", key)
		return mayfly.Secret{}
	}
	at = at.to(key)
	var out strings.Builder
	named, ok := false, true
	for rest := value; rest != ""; {
		before, after, found := strings.Cut(rest, "${")
		out.WriteString(before)
		if !found {
			break
		}
		reference, tail, closed := strings.Cut(after, "}")
		kind, name, _ := strings.Cut(reference, ":")
		rest, named = tail, true
		switch {
		case !closed:
			d.wrong(at, "a ${ has no }")
			ok = false
		case kind == "file" && name != "":
			text, read := l.secretFile(d, at, name)
			out.WriteString(text)
			ok = ok && read
		case kind == "env" && name != "":
			text := os.Getenv(name)
			if text == "" {
				d.wrong(at, "the environment variable %s is not set", name)
				ok = false
			}
			out.WriteString(text)
		default:
			d.wrong(at, "${%s:…} is not known; write ${file:/path} or ${env:NAME}", kind)
			ok = false
		}
	}
	switch {
	case !named:
		d.wrong(at, "holds the secret itself; put it in a file and write ${file:/path}, or ${env:NAME}")
	case ok && strings.ContainsFunc(out.String(), func(r rune) bool { return r < ' ' || r > '~' }):
		d.wrong(at, "has characters that cannot stand in a header, such as a line break or a letter that is not ASCII")
	default:
		return mayfly.NewSecret(out.String())
	}
	return mayfly.Secret{}
}

// secretFile is the text of a file that holds a secret, without the line break
// at its end.
func (l *loader) secretFile(d *document, at path, name string) (string, bool) {
	file := l.resolve(name)
	l.files = append(l.files, file)
	data, err := os.ReadFile(file)
	switch {
	case err != nil:
		d.wrong(at, "%s cannot be read: %v", name, unwrapPath(err))
	case len(data) > secretLimit:
		d.wrong(at, "%s is longer than %d bytes; is it the right file?", name, secretLimit)
	default:
		text := strings.TrimRight(string(data), "\r\n")
		if text != "" {
			return text, true
		}
		d.wrong(at, "%s is empty", name)
	}
	return "", false
}

// seal reads the key-encryption key: 32 random bytes in base64 on one line, in a
// file that only its owner can read.
func (l *loader) seal(d *document, f *serverFile) mayfly.Secret {
	if f.Keys.Seal.File == "" {
		d.wrong(path{"keys"}, "seal is missing; write {seal: {file: seal.key}}, a file with 32 random bytes in base64 (mayfly init makes one)")
		return mayfly.Secret{}
	}
	at := path{"keys", "seal", "file"}
	file := l.resolve(f.Keys.Seal.File)
	info, err := os.Stat(file)
	switch {
	case err != nil:
		d.wrong(at, "%s: %v; mayfly init makes one", f.Keys.Seal.File, unwrapPath(err))
		return mayfly.Secret{}
	case !info.Mode().IsRegular():
		d.wrong(at, "%s is not a file", f.Keys.Seal.File)
		return mayfly.Secret{}
	case info.Mode().Perm()&^0o600 != 0:
		d.wrong(at, "%s can be used by others (mode %04o); chmod 0400 it, and make a new one if others could read it", f.Keys.Seal.File, info.Mode().Perm())
		return mayfly.Secret{}
	}
	text, ok := l.secretFile(d, at, f.Keys.Seal.File)
	if !ok {
		return mayfly.Secret{}
	}
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	switch {
	case err != nil || len(key) != 32:
		d.wrong(at, "%s must be one line, the base64 of 32 random bytes", f.Keys.Seal.File)
	case bytes.Count(key, key[:1]) == 32:
		d.wrong(at, "%s is not random", f.Keys.Seal.File)
	default:
		return mayfly.NewSecret(string(key))
	}
	return mayfly.Secret{}
}
