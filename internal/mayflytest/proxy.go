package mayflytest

import (
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
)

// Proxy stands between a node and PostgreSQL, and fails as networks do.
type Proxy struct {
	DSN string // of the same database, through the proxy

	socket   string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	moved *sync.Cond // the state moved, or a connection ended
	state proxyState
	links map[*link]struct{}
}

type proxyState int

const (
	flowing proxyState = iota
	paused             // nothing moves, and nobody is told
	cut                // connections are closed, and new ones too
	closed
)

// link is one connection and its other half.
type link struct {
	node, server net.Conn
	frozen       bool // nothing moves on it ever again, whatever the proxy does
}

// NewProxy starts a proxy to the database at dsn, one of [Postgres].
func NewProxy(t testing.TB, dsn string) *Proxy {
	t.Helper()
	u, err := url.Parse(dsn)
	must(t, err)
	q := u.Query()
	p := &Proxy{socket: filepath.Join(q.Get("host"), ".s.PGSQL.5432"), links: map[*link]struct{}{}}
	p.moved = sync.NewCond(&p.mu)
	p.listener, err = net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	q.Del("host")
	u.Host, u.RawQuery = p.listener.Addr().String(), q.Encode()
	p.DSN = u.String()
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.listener.Close()
		p.become(closed)
		p.running.Wait()
	})
	return p
}

// Pause holds back every byte, in both directions, without a word.
func (p *Proxy) Pause() { p.become(paused) }

// Cut closes every connection, and every new one at once.
func (p *Proxy) Cut() { p.become(cut) }

// Heal lets everything through again, what was held back first.
func (p *Proxy) Heal() { p.become(flowing) }

// Freeze makes the connections there are silent for ever, as a router does that
// forgot them; new ones work.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.frozen = true
	}
}

func (p *Proxy) become(s proxyState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = s
	if s == cut || s == closed {
		for l := range p.links {
			l.close()
		}
	}
	p.moved.Broadcast()
}

func (l *link) close() {
	l.node.Close()
	if l.server != nil {
		l.server.Close()
	}
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.carry(&link{node: c}) })
	}
}

func (p *Proxy) carry(l *link) {
	defer l.close()
	p.mu.Lock()
	p.links[l] = struct{}{}
	state := p.state
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.links, l)
	}()
	if state == cut || state == closed {
		return
	}
	server, err := net.Dial("unix", p.socket)
	if err != nil {
		return
	}
	p.mu.Lock()
	l.server = server
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(l, server, l.node) })
	both.Go(func() { p.copy(l, l.node, server) })
	both.Wait()
}

func (p *Proxy) copy(l *link, to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !p.pass(l) {
			break
		}
		if _, err := to.Write(buf[:n]); err != nil {
			break
		}
	}
	// A connection that was frozen stays half-open: its other end hears nothing.
	if p.pass(l) {
		l.close()
	}
}

// pass waits until bytes may move on l, and reports whether they may.
func (p *Proxy) pass(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.state != closed && p.state != cut && (l.frozen || p.state == paused) {
		p.moved.Wait()
	}
	return p.state == flowing
}
