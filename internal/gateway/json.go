package gateway

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// This file takes JSON apart and puts it together without decoding it. Everything
// in it is for text that was found valid before (by strictjson or jsontext) and
// for nothing else: it looks only for where values begin and end.

// members visits the members of an object, in order. name is as written, without
// its quotes, unless it had escapes; v is a part of object.
func members(object []byte, visit func(name []byte, v jsontext.Value)) {
	i := space(object, 0) + 1
	for {
		switch i = space(object, i); object[i] {
		case '}':
			return
		case ',':
			i = space(object, i+1)
		}
		end := valueEnd(object, i)
		name := object[i+1 : end-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name = []byte(text(object[i:end]))
		}
		i = space(object, space(object, end)+1)
		end = valueEnd(object, i)
		visit(name, object[i:end:end])
		i = end
	}
}

// elements visits the elements of an array, in order.
func elements(array []byte, visit func(v jsontext.Value)) {
	i := space(array, 0) + 1
	for {
		switch i = space(array, i); array[i] {
		case ']':
			return
		case ',':
			i = space(array, i+1)
		}
		end := valueEnd(array, i)
		visit(array[i:end:end])
		i = end
	}
}

// space is the index of the first byte from i on that is not white space.
func space(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// valueEnd is the index after the value that begins at i.
func valueEnd(data []byte, i int) int {
	depth := 0
	for ; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // the end of what a number or literal stands in
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// rebuild writes an object again with each member as with gives it; nil leaves
// it out.
func rebuild(object jsontext.Value, with func(name []byte, v jsontext.Value) jsontext.Value) jsontext.Value {
	b := append(make([]byte, 0, len(object)), '{')
	members(object, func(name []byte, v jsontext.Value) {
		if v = with(name, v); v == nil {
			return
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = appendMember(b, name, v)
	})
	return append(b, '}')
}

// withMember appends a member that an object does not have yet.
func withMember(object jsontext.Value, name string, v jsontext.Value) jsontext.Value {
	end := bytes.LastIndexByte(object, '}')
	b := append(make([]byte, 0, len(object)+len(name)+len(v)+4), object[:end]...)
	if object[space(object, space(object, 0)+1)] != '}' {
		b = append(b, ',')
	}
	return append(appendMember(b, []byte(name), v), '}')
}

func appendMember(b, name []byte, v jsontext.Value) []byte {
	// The error is about invalid UTF-8, of which valid text has none.
	quoted, _ := jsontext.AppendQuote(b, name)
	return append(append(quoted, ':'), v...)
}

// text is the text of a string.
func text(v jsontext.Value) string {
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return ""
	}
	return string(s)
}
