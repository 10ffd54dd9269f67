package jose

import (
	_ "embed"
	"encoding/json"
	"testing"
)

//go:embed testdata/wycheproof_jws.json
var wycheproof []byte

// TestNoInvalidWycheproofSignatureIsAccepted runs Google's JWS vectors. Many of
// them sign text that is no JSON, so they go through all but Parse's last look.
// Valid ones are refused where the algorithm or the key is not one of ours.
func TestNoInvalidWycheproofSignatureIsAccepted(t *testing.T) {
	var file struct {
		TestGroups []struct {
			Comment         string
			Public, Private json.RawMessage
			Tests           []struct {
				TcID                 int
				Comment, Jws, Result string
			}
		}
	}
	if err := json.Unmarshal(wycheproof, &file); err != nil {
		t.Fatal(err)
	}
	rules := Rules{Types: []string{"", "JWT"}, Algorithms: []string{ES256, EdDSA, RS256, PS256}}
	accepted, refused, missed := 0, 0, 0
	for _, g := range file.TestGroups {
		text := g.Public
		if text == nil {
			text = g.Private // a symmetric key: not one of ours
		}
		key, keyErr := parseKey(text)
		for _, c := range g.Tests {
			m, err := parse(c.Jws, rules)
			if err == nil && keyErr == nil {
				_, err = m.Verify(key)
			}
			ok := err == nil && keyErr == nil
			switch {
			case ok && c.Result == "invalid":
				t.Errorf("%s %d (%s): an invalid signature was accepted", g.Comment, c.TcID, c.Comment)
			case ok:
				accepted++
			case c.Result == "valid":
				missed++
				t.Logf("%s %d (%s) is valid and refused: key %v, token %v", g.Comment, c.TcID, c.Comment, keyErr, err)
			default:
				refused++
			}
		}
	}
	// Numbers, so that a change that refuses everything is seen too.
	if accepted != wycheproofAccepted || refused != wycheproofRefused || missed != wycheproofMissed {
		t.Errorf("accepted %d, refused %d, and %d valid ones refused; it was %d, %d, %d",
			accepted, refused, missed, wycheproofAccepted, wycheproofRefused, wycheproofMissed)
	}
}

const (
	wycheproofAccepted = 14
	wycheproofRefused  = 355
	wycheproofMissed   = 32 // of algorithms we do not have, or with nothing in them
)
