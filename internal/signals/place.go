package signals

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mayfly-id/mayfly"
)

// filePlace appends lines to a file, which may be rotated or removed at any time.
type filePlace struct {
	path string
	file *os.File // nil until it is needed
}

// write appends lines and syncs them. A file that was moved away or removed is
// made anew: lines that went into a moved file are safe there, lines that went
// into a removed one are written again.
func (p *filePlace) write(_ context.Context, lines []byte) error {
	if p.file != nil && !p.inPlace() {
		p.close()
	}
	if p.file == nil {
		if err := p.open(); err != nil {
			return err
		}
	}
	_, err := p.file.Write(lines)
	if err == nil {
		err = p.file.Sync()
	}
	if err != nil {
		p.close() // what was written of them may be half a line: open looks
		return err
	}
	if !p.inPlace() && removed(p.file) {
		p.close()
		return errors.New("the file was removed while it was written")
	}
	return nil
}

// inPlace reports whether the open file is the one that has the name.
func (p *filePlace) inPlace() bool {
	there, err := os.Stat(p.path)
	if err != nil {
		return false
	}
	open, err := p.file.Stat()
	return err == nil && os.SameFile(there, open)
}

// open opens the file, makes it where there is none, and ends a line that a crash
// has torn, so that the next begins on its own.
func (p *filePlace) open() error {
	file, err := os.OpenFile(p.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := ready(file, filepath.Dir(p.path)); err != nil {
		file.Close()
		return err
	}
	p.file = file
	return nil
}

func ready(file *os.File, dir string) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", file.Name())
	}
	if info.Size() == 0 {
		// The name of a new file has to last too.
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	}
	last := make([]byte, 1)
	if _, err := file.ReadAt(last, info.Size()-1); err != nil {
		return err
	}
	if last[0] != '\n' {
		_, err = file.Write([]byte{'\n'})
	}
	return err
}

// removed reports whether no name leads to file any more.
func removed(file *os.File) bool {
	info, err := file.Stat()
	if err != nil {
		return true
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	return ok && sys.Nlink == 0
}

func (p *filePlace) close() {
	if p.file != nil {
		p.file.Close() // what counts was synced
		p.file = nil
	}
}

// httpPlace posts lines as NDJSON.
type httpPlace struct {
	client     *http.Client
	url        string
	credential *mayfly.TargetCredential
	secret     mayfly.Secret // signs what is posted; the zero Secret does not
}

// write posts lines. Anything but a 2xx is a failure.
func (p *httpPlace) write(ctx context.Context, lines []byte) error {
	return p.post(ctx, "", "application/x-ndjson", lines)
}

// post posts a body to a path below the place's address.
func (p *httpPlace) post(ctx context.Context, path, mediaType string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("User-Agent", "mayfly")
	if p.credential != nil {
		req.Header.Set(p.credential.Header, p.credential.Value.Reveal())
	}
	if !p.secret.IsZero() {
		// The same lines posted again have the same id.
		sum := sha256.Sum256(body)
		sign(req, p.secret, "msg_"+base64.RawURLEncoding.EncodeToString(sum[:16]), body)
	}
	return post(p.client, req)
}

func (*httpPlace) close() {}

// stdoutPlace writes lines to standard output, which whoever started us reads.
type stdoutPlace struct{ out io.Writer }

// write writes lines. When nobody reads them it waits no longer than ctx: the
// process is about to end then, and writes them again when it runs next.
func (p stdoutPlace) write(ctx context.Context, lines []byte) error {
	written := make(chan error, 1)
	own := bytes.Clone(lines) // the write may outlive this call
	go func() {
		_, err := p.out.Write(own)
		written <- err
	}()
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (stdoutPlace) close() {}
