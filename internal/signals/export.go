package signals

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/follow"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Export is a place that every record of the log is written to, one line each.
// Exactly one of Stdout, File and URL says where.
type Export struct {
	Name       string // of how far it has come: under another name it starts anew
	Format     string // OCSF or OTLP; "" is OCSF
	Stdout     bool
	File       string // absolute path
	URL        string
	Credential *mayfly.TargetCredential // for URL; nil is none
	Secret     mayfly.Secret            // signs what goes to URL; the zero Secret does not
}

// ExportOptions are what exports are made of. Exports gives the ones in force
// now; it is asked again each time, so that a reload reaches them.
type ExportOptions struct {
	DB      *store.DB
	Exports func() []Export
	Issuer  string
	Origin  string // the log's name
	Version string // of this server
	Logger  *slog.Logger
	// Leads reports whether this node is the one to speak for the log; nil is always.
	Leads  func() bool
	Stdout io.Writer
	// Client carries the requests; nil is one with short times and no redirects.
	Client *http.Client
}

// Exports write every record of the log to the configured places, as OCSF events or
// to a collector of OpenTelemetry.
type Exports struct {
	o    ExportOptions
	ocsf ocsf
	otlp otlp
}

// The formats. OTLP goes to a URL, the base of a collector's address.
const (
	OCSF = "ocsf"
	OTLP = "otlp"
)

// NewExports makes exports. Run must follow.
func NewExports(o ExportOptions) *Exports {
	if o.Client == nil {
		o.Client = newClient(30 * time.Second)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Exports{o: o, ocsf: ocsf{
		product: ocsfProduct{Name: "Mayfly", VendorName: "Mayfly", Version: o.Version}, logName: o.Origin, issuer: o.Issuer,
	}, otlp: newOTLP(o.Issuer, o.Version)}
}

// Run writes what comes to every export, from the first record on, in the order of
// the log and at least once, until ctx ends. An export that fails holds up no
// other, and is tried again, first soon and then once a minute, for ever.
func (x *Exports) Run(ctx context.Context) error {
	l := follow.Loop{DB: x.o.DB, Logger: x.o.Logger, Readers: x.readers, Turn: x.o.Leads}
	l.Run(ctx)
	return nil
}

func (x *Exports) readers() []follow.Reader {
	var list []follow.Reader
	for _, e := range x.o.Exports() {
		parts := []string{e.Format, e.File, e.URL, e.Secret.Reveal()}
		if e.Credential != nil {
			parts = append(parts, e.Credential.Header, e.Credential.Value.Reveal())
		}
		list = append(list, follow.Reader{
			Name: "export:" + e.Name, Made: fingerprint(parts...), What: "the export " + e.Name,
			Open: func() follow.Teller { return x.teller(e) },
		})
	}
	return list
}

func (x *Exports) teller(e Export) follow.Teller {
	if e.Format == OTLP {
		return &collecting{x: x, to: httpPlace{client: x.o.Client, url: strings.TrimSuffix(e.URL, "/"), credential: e.Credential, secret: e.Secret}, bodies: x.o.DB.Bodies()}
	}
	return &exporting{x: x, to: x.place(e), bodies: x.o.DB.Bodies()}
}

// place is where an export's lines go.
type place interface {
	// write puts whole lines there, and returns nil once they cannot be lost any
	// more. After an error they are written again.
	write(ctx context.Context, lines []byte) error
	close()
}

func (x *Exports) place(e Export) place {
	switch {
	case e.File != "":
		return &filePlace{path: e.File}
	case e.URL != "":
		return &httpPlace{client: x.o.Client, url: e.URL, credential: e.Credential, secret: e.Secret}
	}
	return stdoutPlace{x.o.Stdout}
}

// exporting writes one export.
type exporting struct {
	x  *Exports
	to place

	lines  bytes.Buffer
	bodies *store.Bodies
}

const (
	// writeMost is how many bytes are written at once, unless one line is longer.
	writeMost = 1 << 20
	// makeMost is how many lines are made before it is looked whether they fit.
	makeMost = 50
)

// Tell writes as many of rows as fit into one write.
func (e *exporting) Tell(ctx context.Context, rows []store.EventRow) (int, error) {
	e.lines.Reset()
	n := 0
	for n < len(rows) {
		lines, err := e.make(ctx, rows[n:min(n+makeMost, len(rows))])
		if err != nil {
			return 0, err
		}
		full := false
		for _, line := range lines {
			if full = n > 0 && e.lines.Len()+len(line)+1 > writeMost; full {
				break
			}
			e.lines.Write(line)
			e.lines.WriteByte('\n')
			n++
		}
		if full {
			break
		}
	}
	if err := e.to.write(ctx, e.lines.Bytes()); err != nil {
		return 0, err
	}
	return n, nil
}

// make makes the lines of rows. Decoding and encoding are most of what an export
// that is behind costs, so two processors share them.
func (e *exporting) make(ctx context.Context, rows []store.EventRow) ([][]byte, error) {
	const wide = 2
	lines := make([][]byte, len(rows))
	var g errgroup.Group
	for first := range wide {
		g.Go(func() error {
			for i := first; i < len(rows); i += wide {
				body, err := e.bodies.Open(ctx, &rows[i])
				if mayfly.KindOf(err) == mayfly.Gone {
					body = nil // whom it is about was erased: the leaf remains
				} else if err != nil {
					return err
				}
				if lines[i], err = e.x.ocsf.line(&rows[i], body); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return lines, g.Wait()
}

func (e *exporting) Close() { e.to.close() }
