package gateway

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Whatever the agent's side says, an exchange ends, and only a response to what was
// asked is taken for one.
func FuzzWhatAServerBesideSays(f *testing.F) {
	for _, seed := range []string{
		`{"said":[{"jsonrpc":"2.0","id":1,"result":{}}]}`, `{"said":[]}`, `{"said":[{"jsonrpc":"2.0","method":"notifications/x"}]}`,
		`{"failed":"x"}`, `{"said":null}`, `[]`, ``, `{"said":[1,"2",[3]]}`, `{"said":[{"jsonrpc":"2.0","id":"1","result":{}}]}`, "\x00", `{"said":[{}`,
	} {
		f.Add([]byte(seed + "\n"))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		w := httptest.NewRecorder()
		c := &conversation{w: w, control: http.NewResponseController(w), lines: bufio.NewReader(bytes.NewReader(said))}
		out, err := http.NewRequest(http.MethodPost, "http://beside/", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.RoundTrip(out)
		if err != nil {
			return
		}
		var body bytes.Buffer
		if _, err := body.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		last := body.Bytes()
		if resp.Header.Get("Content-Type") == "text/event-stream" {
			lines := bytes.Split(bytes.TrimSpace(last), []byte("\n\n"))
			last = bytes.TrimPrefix(lines[len(lines)-1], []byte("data: "))
		}
		e, err := parseEnvelope(last)
		if err != nil || !sameID(e.id, []byte("1")) || e.method != nil {
			t.Errorf("%q is taken for an answer: %q", said, last)
		}
	})
}
