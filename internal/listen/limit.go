package listen

import (
	"container/list"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is what an address is to the daemon.
type Kind int

const (
	Client   Kind = iota
	Proxy         // it carries many clients: its connections count in all only
	Stranger      // the handler refuses all its requests
)

// Bounds of a Limiter. A bound of 0 is none.
type Bounds struct {
	Total      int
	PerAddress int // of clients; all of an IPv6 /64 is one address
	Strangers  int
}

// Why a connection was closed, in Stats.
const (
	ClosedIdle     = "idle"     // to make room for another one
	ClosedTotal    = "total"    // the bound in all is reached, and no connection is idle
	ClosedAddress  = "address"  // the same for its address
	ClosedStranger = "stranger" // the bound of strangers is reached
)

// Limiter bounds the connections of its listeners. Their http.Server must use its ConnState and ConnContext.
type Limiter struct {
	bounds Bounds
	kind   func(netip.Addr) Kind

	mu        sync.Mutex
	open      int
	unread    int // of open: no request of theirs has been read yet
	strangers int
	clients   map[netip.Prefix]int
	idle      *list.List // of *conn, the one that is idle longest first
	closed    map[string]uint64
}

// NewLimiter makes a Limiter that calls kind for each connection over TCP; those of a unix socket count as a proxy's.
func NewLimiter(b Bounds, kind func(netip.Addr) Kind) *Limiter {
	return &Limiter{bounds: b, kind: kind, clients: map[netip.Prefix]int{}, idle: list.New(), closed: map[string]uint64{}}
}

// Stats are how many connections are open, and how many were closed for each reason.
func (l *Limiter) Stats() (open int, closed map[string]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	closed = map[string]uint64{}
	for _, reason := range []string{ClosedIdle, ClosedTotal, ClosedAddress, ClosedStranger} {
		closed[reason] = l.closed[reason]
	}
	return l.open, closed
}

// Listener bounds the connections that inner accepts. config is nil without TLS; a connection that is refused costs no
// handshake.
func (l *Limiter) Listener(inner net.Listener, config *tls.Config) net.Listener {
	return &listener{Listener: inner, limiter: l, tls: config, close: sync.OnceValue(inner.Close)}
}

type listener struct {
	net.Listener
	limiter *Limiter
	tls     *tls.Config
	close   func() error
}

// Close may be called more than once.
func (l *listener) Close() error { return l.close() }

func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := l.limiter.wrap(raw)
		if l.tls != nil {
			c.Conn = tls.Server(raw, l.tls)
		}
		if l.limiter.admit(c) {
			return c, nil
		}
		_ = raw.Close() // it was never used
	}
}

// conn is a connection that is counted. Its Conn is the TLS connection, if there is TLS.
type conn struct {
	net.Conn
	raw      net.Conn
	limiter  *Limiter
	kind     Kind
	address  netip.Prefix
	answered atomic.Bool // the handler has seen a request

	// Guarded by the limiter's lock.
	gone    bool
	read    bool          // a request was read
	waiting *list.Element // in the limiter's idle; nil: not idle
}

func (l *Limiter) wrap(raw net.Conn) *conn {
	c := &conn{Conn: raw, raw: raw, limiter: l, kind: Proxy}
	if tcp, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		addr := tcp.AddrPort().Addr().Unmap().WithZone("")
		bits := 32
		if addr.Is6() {
			bits = 64
		}
		c.kind, c.address = l.kind(addr), netip.PrefixFrom(addr, bits).Masked()
	}
	return c
}

// admit counts the connection, or reports that there is no room for it.
func (l *Limiter) admit(c *conn) bool {
	l.mu.Lock()
	victim, refused := l.makeRoom(c)
	if refused != "" {
		l.closed[refused]++
		l.mu.Unlock()
		return false
	}
	if victim != nil {
		l.closed[ClosedIdle]++
		l.forget(victim)
	}
	l.open++
	l.unread++
	l.count(c, 1)
	c.waiting = l.idle.PushBack(c)
	l.mu.Unlock()
	if victim != nil {
		_ = victim.raw.Close() // without TLS' close message, which could wait for the other end
	}
	return true
}

// makeRoom returns the connection that must be closed for c, or the reason why c is refused.
func (l *Limiter) makeRoom(c *conn) (victim *conn, refused string) {
	anyone := func(*conn) bool { return true }
	same := func(other *conn) bool { return other.kind == Client && other.address == c.address }
	switch {
	case c.kind == Stranger && l.bounds.Strangers > 0 && l.strangers >= l.bounds.Strangers:
		return nil, ClosedStranger
	case c.kind == Client && l.bounds.PerAddress > 0 && l.clients[c.address] >= l.bounds.PerAddress:
		if victim = l.idlest(same); victim == nil {
			return nil, ClosedAddress
		}
	case l.bounds.Total > 0 && l.open >= l.bounds.Total:
		if victim = l.idlest(anyone); victim == nil {
			return nil, ClosedTotal
		}
	}
	return victim, ""
}

func (l *Limiter) idlest(fits func(*conn) bool) *conn {
	for e := l.idle.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); fits(c) {
			return c
		}
	}
	return nil
}

func (l *Limiter) count(c *conn, n int) {
	switch c.kind {
	case Stranger:
		l.strangers += n
	case Client:
		if l.clients[c.address] += n; l.clients[c.address] == 0 {
			delete(l.clients, c.address)
		}
	}
}

// forget takes a connection out of all counts, once.
func (l *Limiter) forget(c *conn) {
	if c.gone {
		return
	}
	c.gone = true
	l.open--
	l.wasRead(c)
	l.count(c, -1)
	l.busy(c)
}

func (l *Limiter) wasRead(c *conn) {
	if !c.read {
		c.read = true
		l.unread--
	}
}

// settleTick is how often Settle looks.
const settleTick = 2 * time.Millisecond

// Settle waits until every connection that was accepted has had an answer, and none is being answered; for those that
// send nothing, no longer than silent; at most until ctx ends. It is for listeners that are closed:
// http.Server.Shutdown drops a connection whose first request it reads after the call, without an answer.
func (l *Limiter) Settle(ctx context.Context, silent time.Duration) {
	tick := time.NewTicker(settleTick)
	defer tick.Stop()
	for began := time.Now(); ; {
		l.mu.Lock()
		answering, unread := l.open-l.idle.Len(), l.unread
		l.mu.Unlock()
		if answering == 0 && (unread == 0 || time.Since(began) > silent) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *Limiter) busy(c *conn) {
	if c.waiting != nil {
		l.idle.Remove(c.waiting)
		c.waiting = nil
	}
}

// ConnState is for http.Server, which calls it when a connection becomes active or idle.
func (l *Limiter) ConnState(of net.Conn, state http.ConnState) {
	c, ok := of.(*conn)
	if !ok || state != http.StateActive && state != http.StateIdle {
		return // Close handles the end
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy(c)
	if !c.gone {
		l.wasRead(c)
	}
	if state == http.StateIdle && !c.gone {
		c.waiting = l.idle.PushBack(c)
	}
}

func (c *conn) Close() error {
	c.limiter.mu.Lock()
	c.limiter.forget(c)
	c.limiter.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite is for net/http, which closes the write half first, so that the client gets the answer before the end.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Write refuses to send a stranger the answers of net/http itself, before the handler was called.
func (c *conn) Write(p []byte) (int, error) {
	if c.kind == Stranger && !c.answered.Load() {
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(p)
}

type connKey struct{}

// ConnContext is for http.Server. It lets PeerOf answer.
func (l *Limiter) ConnContext(ctx context.Context, c net.Conn) context.Context {
	own, ok := c.(*conn)
	if !ok {
		return ctx
	}
	if p := own.peer(); p != nil {
		ctx = WithPeer(ctx, p)
	}
	if own.kind == Stranger {
		ctx = context.WithValue(ctx, connKey{}, own)
	}
	return ctx
}

// Handler makes h's answers pass to strangers, one on a connection.
func (l *Limiter) Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connKey{}).(*conn)
		if !ok {
			h.ServeHTTP(w, r)
			return
		}
		c.answered.Store(true)
		w.Header().Set("Connection", "close")
		h.ServeHTTP(w, r)
		_ = c.SetReadDeadline(time.Now()) // net/http would wait for a body that was announced
	})
}
