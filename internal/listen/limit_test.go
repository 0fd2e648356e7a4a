package listen

import (
	"bufio"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// place is a server behind a limiter, at all of 127.0.0.0/8. 127.0.0.1 and 127.0.0.2 are clients, 127.0.0.3 a proxy.
type place struct {
	limiter *Limiter
	address string
	hold    chan struct{} // closed: requests to /held are answered

	mu   sync.Mutex
	seen int // requests to /held
}

func newPlace(t *testing.T, b Bounds) *place {
	return newPlaceTLS(t, b, nil)
}

func newPlaceTLS(t *testing.T, b Bounds, config *tls.Config) *place {
	t.Helper()
	inner, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(inner.Addr().String())
	p := &place{address: "127.0.0.1:" + port, hold: make(chan struct{})}
	p.limiter = NewLimiter(b, func(a netip.Addr) Kind {
		return map[string]Kind{"127.0.0.1": Client, "127.0.0.2": Client, "127.0.0.3": Proxy}[a.String()] +
			strangers[a.String()]
	})
	server := &http.Server{Handler: p.limiter.Handler(p), ConnState: p.limiter.ConnState,
		ConnContext: p.limiter.ConnContext, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: time.Minute,
		ErrorLog: log.New(io.Discard, "", 0)}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(p.limiter.Listener(inner, config)) })
	t.Cleanup(func() {
		server.Close()
		serving.Wait()
	})
	return p
}

var strangers = map[string]Kind{"127.0.0.4": Stranger, "127.0.0.5": Stranger}

func (p *place) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/held" {
		p.mu.Lock()
		p.seen++
		p.mu.Unlock()
		<-p.hold
	}
	if strings.HasPrefix(r.RemoteAddr, "127.0.0.4:") || strings.HasPrefix(r.RemoteAddr, "127.0.0.5:") {
		w.WriteHeader(http.StatusForbidden)
	}
	io.WriteString(w, "answer")
}

func (p *place) held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// peer is one connection.
type peer struct {
	net.Conn
	in *bufio.Reader
}

func (p *place) dial(t *testing.T, from string) *peer {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	c, err := d.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return &peer{c, bufio.NewReader(c)}
}

func (c *peer) send(t *testing.T, path string) {
	t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
}

// answer is the status; 0 if the connection ended without one.
func (c *peer) answer(t *testing.T) int {
	t.Helper()
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		t.Fatal(err)
	}
	return r.StatusCode
}

// idle is a connection that has had an answer.
func (p *place) idle(t *testing.T, from string) *peer {
	t.Helper()
	c := p.dial(t, from)
	c.send(t, "/")
	if got := c.answer(t); got != 200 {
		t.Fatalf("got status %d, want 200", got)
	}
	p.until(t, "the connection is idle", func() bool { return p.isIdle(c) })
	return c
}

func (p *place) isIdle(c *peer) bool {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	for e := p.limiter.idle.Front(); e != nil; e = e.Next() {
		if e.Value.(*conn).RemoteAddr().String() == c.LocalAddr().String() {
			return true
		}
	}
	return false
}

func (p *place) until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (c *peer) ended(t *testing.T) bool {
	t.Helper()
	_, err := c.in.ReadByte()
	return err != nil
}

func (p *place) closed(t *testing.T, reason string) uint64 {
	t.Helper()
	_, closed := p.limiter.Stats()
	return closed[reason]
}

func TestTheConnectionThatIsIdleLongestMakesRoom(t *testing.T) {
	p := newPlace(t, Bounds{Total: 3})
	first, second := p.idle(t, "127.0.0.1"), p.idle(t, "127.0.0.2")
	first.send(t, "/") // and is the younger one again
	first.answer(t)
	p.until(t, "the first is idle behind the second", func() bool { return p.isIdle(first) })
	p.idle(t, "127.0.0.1")
	p.idle(t, "127.0.0.1") // one too many
	if !second.ended(t) {
		t.Error("the connection that was idle longest is still there")
	}
	first.send(t, "/")
	if got := first.answer(t); got != 200 {
		t.Errorf("got status %d on a connection that was used since, want 200", got)
	}
	if got := p.closed(t, ClosedIdle); got != 1 {
		t.Errorf("got %d closed, want 1", got)
	}
}

// Connections that never send a byte are idle, too.
func TestSilentConnectionsKeepNoClientOut(t *testing.T) {
	p := newPlace(t, Bounds{Total: 8, PerAddress: 4})
	var silent []*peer
	for range 30 {
		silent = append(silent, p.dial(t, "127.0.0.1"))
	}
	p.idle(t, "127.0.0.2")
	p.idle(t, "127.0.0.1")
	if !silent[0].ended(t) {
		t.Error("the first silent connection is still there")
	}
	if open, _ := p.limiter.Stats(); open > 8 {
		t.Errorf("got %d connections, want at most 8", open)
	}
}

func TestRequestsUnderWayAreNotCutOff(t *testing.T) {
	p := newPlace(t, Bounds{Total: 3, PerAddress: 2})
	var busy []*peer
	for i := range 2 {
		c := p.dial(t, "127.0.0.1")
		c.send(t, "/held")
		p.until(t, "the request is under way", func() bool { return p.held() == i+1 })
		p.until(t, "the connection is busy", func() bool { return !p.isIdle(c) })
		busy = append(busy, c)
	}
	third := p.dial(t, "127.0.0.1")
	if !third.ended(t) || p.closed(t, ClosedAddress) != 1 {
		t.Error("a third connection of the address was let in")
	}
	other := p.dial(t, "127.0.0.2")
	other.send(t, "/held")
	p.until(t, "another address has its own", func() bool { return p.held() == 3 })
	p.until(t, "the connection is busy", func() bool { return !p.isIdle(other) })
	if !p.dial(t, "127.0.0.3").ended(t) || p.closed(t, ClosedTotal) != 1 {
		t.Error("a connection beyond the total was let in")
	}
	close(p.hold)
	for _, c := range append(busy, other) {
		if got := c.answer(t); got != 200 {
			t.Errorf("got status %d, want a request under way answered", got)
		}
	}
}

func TestAProxyHasNoBoundOfItsOwn(t *testing.T) {
	p := newPlace(t, Bounds{Total: 10, PerAddress: 1})
	a, b := p.idle(t, "127.0.0.3"), p.idle(t, "127.0.0.3")
	for _, c := range []*peer{a, b} {
		c.send(t, "/")
		if got := c.answer(t); got != 200 {
			t.Errorf("got status %d, want 200", got)
		}
	}
}

func TestOfStrangersAFewAreRefusedAtOnce(t *testing.T) {
	p := newPlace(t, Bounds{Total: 10, Strangers: 1})
	first := p.dial(t, "127.0.0.4")
	p.until(t, "the first is counted", func() bool { open, _ := p.limiter.Stats(); return open == 1 })
	if !p.dial(t, "127.0.0.5").ended(t) || p.closed(t, ClosedStranger) != 1 {
		t.Error("a second stranger was served at the same time")
	}
	p.idle(t, "127.0.0.1")
	first.send(t, "/")
	if got := first.answer(t); got != http.StatusForbidden {
		t.Errorf("got status %d, want the stranger refused by the handler", got)
	}
	if !first.ended(t) {
		t.Error("a stranger's connection outlives its refusal")
	}
	p.until(t, "nothing is counted twice", func() bool { open, _ := p.limiter.Stats(); return open == 1 })
	last := p.dial(t, "127.0.0.5")
	last.send(t, "/")
	if got := last.answer(t); got != http.StatusForbidden {
		t.Errorf("got status %d, want the next stranger refused by the handler", got)
	}
}

// A client gets the answers that net/http sends itself, a stranger only those of the handler. The last two requests
// reach the handler; without DisableGeneralOptionsHandler net/http would answer them itself.
func TestNothingGetsPastTheHandlerToAStranger(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	for _, config := range []*tls.Config{nil, {Certificates: server.TLS.Certificates}} {
		p := newPlaceTLS(t, Bounds{Total: 10, Strangers: 5}, config)
		for request, status := range map[string]int{
			"nonsense\r\n\r\n":                                           400,
			"GET / HTTP/1.1\r\n\r\n":                                     400, // no Host
			"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n":               400,
			"GET / HTTP/1.1\r\nHost: a\r\nBad Name: b\r\n\r\n":           400,
			"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n":               400,
			"GET / HTTP/3.0\r\nHost: a\r\n\r\n":                          505,
			"GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n":          417,
			"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n": 501,
			"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", http.DefaultMaxHeaderBytes+8192) + "\r\n\r\n": 431,
			"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n":                                           200,
			"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                200,
			"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n":                                       200,
			"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n":                                             200,
			"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n": 200,
		} {
			short := request[:min(len(request), 60)]
			if got := p.ask(t, "127.0.0.1", request, config != nil); got != status {
				t.Errorf("%q: a client got %d, want %d", short, got, status)
			}
			want := map[bool]int{true: http.StatusForbidden, false: 0}[status == 200]
			if got := p.ask(t, "127.0.0.4", request, config != nil); got != want {
				t.Errorf("%q: a stranger got %d, want %d", short, got, want)
			}
		}
	}
}

// ask sends bytes over a connection of their own.
func (p *place) ask(t *testing.T, from, request string, secure bool) int {
	t.Helper()
	c := p.dial(t, from)
	defer c.Close()
	if secure {
		c.Conn = tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
		c.in = bufio.NewReader(c.Conn)
	}
	go io.WriteString(c, request) // which the server may not read to its end
	return c.answer(t)
}

// A connection whose request was not read yet when the listener closed gets its answer; one that sends nothing does not
// hold the end up.
func TestSettleWaitsForConnectionsThatWereAccepted(t *testing.T) {
	p := newPlace(t, Bounds{Total: 10})
	c := p.dial(t, "127.0.0.1")
	p.until(t, "the connection is accepted", func() bool { open, _ := p.limiter.Stats(); return open == 1 })
	settled := make(chan struct{})
	go func() { p.limiter.Settle(t.Context(), time.Minute); close(settled) }()
	c.send(t, "/held")
	p.until(t, "the request is under way", func() bool { return p.held() == 1 })
	select {
	case <-settled:
		t.Error("it did not wait for the answer")
	default:
	}
	close(p.hold)
	if got := c.answer(t); got != 200 {
		t.Errorf("got status %d, want the request answered", got)
	}
	<-settled
	p.dial(t, "127.0.0.1")
	p.until(t, "the silent one is accepted", func() bool { open, _ := p.limiter.Stats(); return open == 2 })
	p.limiter.Settle(t.Context(), time.Millisecond)
}
