package witness

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

const (
	// answerLimit bounds what is read of an answer, in bytes.
	answerLimit = 64 << 10
	// proofLimit is how many lines a consistency proof may have.
	proofLimit = 63
	// typeSize is the media type of the size that a witness has.
	typeSize = "text/x.tlog.size"
)

// complaint is what kind of thing is wrong with a witness.
type complaint int

const (
	unanswered complaint = iota // it may be well the next time
	overtaken                   // another node of ours was there first
	unwelcome                   // somebody has to do something about it
	forked                      // it knows another log of this name than ours
)

func (c complaint) level() slog.Level {
	switch c {
	case overtaken:
		return slog.LevelDebug
	case unanswered:
		return slog.LevelWarn
	}
	return slog.LevelError
}

// failure is why a witness did not cosign, for its operator or for ours.
type failure struct {
	what complaint
	text string
}

// Error is the sentence.
func (f *failure) Error() string { return f.text }

func fails(what complaint, format string, args ...any) error {
	return &failure{what, fmt.Sprintf(format, args...)}
}

// ask has w cosign head: add-checkpoint of c2sp.org/tlog-witness. last is what it
// cosigned before, as far as we know. If it says that it has another size, it is
// asked once more from there. The answer is its line of signature.
func (c *Client) ask(ctx context.Context, w Witness, head store.Head, last int64) ([]byte, error) {
	if last > head.Size {
		return nil, fails(overtaken, "it has cosigned %d records already", last)
	}
	status, answer, size, err := c.add(ctx, w, head, last)
	if err != nil {
		return nil, err
	}
	if status == http.StatusConflict {
		if err := c.conflict(ctx, head, last, last, size); err != nil {
			return nil, err
		}
		from := size
		if status, answer, size, err = c.add(ctx, w, head, from); err != nil {
			return nil, err
		}
		if status == http.StatusConflict {
			if err := c.conflict(ctx, head, last, from, size); err != nil {
				return nil, err
			}
			return nil, fails(unanswered, "it was at %d records, and then at %d: it is asked again", from, size)
		}
	}
	said := ""
	if text := strings.TrimSpace(string(answer[:min(len(answer), 200)])); text != "" {
		said = fmt.Sprintf("; it says %q", text)
	}
	origin, vkey := c.o.Log.Origin(), c.o.Log.VKey()
	switch {
	case status == http.StatusOK:
		line, err := eventlog.Cosignature(head.Note, answer, w.Key)
		if err != nil {
			return nil, fails(unwelcome, "its cosignature is refused: %v", err)
		}
		return line, nil
	case status == http.StatusForbidden:
		return nil, fails(unwelcome, "it does not take the log's signature (403): give its operator the log's key, %s%s", vkey, said)
	case status == http.StatusNotFound:
		return nil, fails(unwelcome, "it does not know the log %s, or the url is not its submission prefix (404): give its operator the log's key, %s%s", origin, vkey, said)
	case status == http.StatusUnprocessableEntity:
		return nil, fails(forked, "what it has cosigned did not grow into the log there is, of %d records (422): the log was forked, or its store was put back; stop the server and run mayfly log verify with a checkpoint that was kept elsewhere%s", head.Size, said)
	case status == http.StatusBadRequest:
		return nil, fails(unwelcome, "it cannot read what it is sent (400): it may speak another version of c2sp.org/tlog-witness%s", said)
	case status >= 300 && status < 400:
		return nil, fails(unwelcome, "it sends us elsewhere (%d), and redirects are not followed: configure the url where it is", status)
	}
	return nil, fails(unanswered, "it answers with status %d%s", status, said)
}

// conflict judges the size that a witness says it has, when it was asked from the
// size from. nil is that it can be asked from there. known is what it has cosigned
// for sure.
func (c *Client) conflict(ctx context.Context, head store.Head, known, from, size int64) error {
	switch {
	case size < 0 && from == head.Size, size == from && from == head.Size:
		return fails(forked, "it has cosigned another log of %d records with this name and key (409): the log was forked, or its store was put back; stop the server and run mayfly log verify with a checkpoint that was kept elsewhere", head.Size)
	case size < 0:
		return fails(unwelcome, "it has another size than %d (409) and does not say which: it must answer with one line of %s", from, typeSize)
	case size == from:
		return fails(unwelcome, "it has %d records, was asked from there, and says that it is not so (409)", size)
	case size < known:
		return fails(unwelcome, "it has cosigned %d records before, and now knows of %d (409): it has lost its memory and is no witness any more; ask its operator, or remove it", known, size)
	case size <= head.Size:
		return nil
	}
	// Another node may have submitted a newer checkpoint; then that is stored.
	newest, err := c.o.DB.Head(ctx)
	if err != nil {
		return err
	}
	if size <= newest.Size {
		return fails(overtaken, "it has cosigned %d records already", size)
	}
	return fails(forked, "it has cosigned %d records of this log, and there are %d (409): the end of the log was cut off, its store was put back, or somebody else signs with its key; stop the server and run mayfly log verify with a checkpoint that was kept elsewhere", size, newest.Size)
}

// add posts head, with the proof from the size from. With a conflict, size is what
// the witness says it has, -1 if it does not say so.
func (c *Client) add(ctx context.Context, w Witness, head store.Head, from int64) (status int, answer []byte, size int64, err error) {
	proof, err := c.o.Log.Consistency(ctx, head.Note, from)
	if err != nil {
		return 0, nil, 0, fmt.Errorf("its proof from %d records cannot be made: %w", from, err)
	}
	if len(proof) > proofLimit {
		return 0, nil, 0, errors.New("its proof is longer than a witness takes")
	}
	body := fmt.Appendf(nil, "old %d\n", from)
	for _, h := range proof {
		body = append(base64.StdEncoding.AppendEncode(body, h[:]), '\n')
	}
	body = append(append(body, '\n'), head.Note...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(w.URL, "/")+"/add-checkpoint", bytes.NewReader(body))
	if err != nil {
		return 0, nil, 0, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	req.Header.Set("User-Agent", "mayfly")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, 0, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	if err != nil {
		return 0, nil, 0, err
	}
	if len(answer) > answerLimit {
		return 0, nil, 0, fails(unwelcome, "its answer is longer than %d bytes", answerLimit)
	}
	size = -1
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && media == typeSize {
		size = parseSize(string(answer))
	}
	return resp.StatusCode, answer, size, nil
}

// parseSize reads a decimal on a line of its own, -1 if it is not one.
func parseSize(line string) int64 {
	digits, ok := strings.CutSuffix(line, "\n")
	size, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || size < 0 || strconv.FormatInt(size, 10) != digits {
		return -1
	}
	return size
}
