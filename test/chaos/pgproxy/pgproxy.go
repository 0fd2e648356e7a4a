// Package pgproxy relays between PostgreSQL's clients and one server and drops selected messages: a request before the
// server has read it (the step failed), or the answer after the server has sent it in full (the step was done, but the
// client does not know). The client sees the connection end in order, be reset, or hang.
//
// It parses just enough of the protocol to recognise a request: where messages begin and end, the text of a simple
// query, the text that a bound statement was prepared from, and the ReadyForQuery that ends an answer. All other
// messages, authentication and cancel requests included, pass through unchanged. It offers no TLS.
package pgproxy

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// When says whether the request or its answer is lost.
type When int

const (
	Before When = iota // the server never reads the request: the step fails
	After              // the server did it and answered; the answer is lost
)

func (w When) String() string { return [...]string{"failed", "done, reply lost"}[w] }

// Ending is what the client sees.
type Ending int

const (
	FIN  Ending = iota // the connection ends in order
	RST                // the connection is reset
	Hang               // nothing, until the client gives up or Cut.For is over
	Late               // with After: the answer, but not before Cut.For is over; nothing is lost
)

func (h Ending) String() string { return [...]string{"FIN", "RST", "hang", "late"}[h] }

// Cut is a loss that will happen.
type Cut struct {
	SQL   string // a regular expression for the text of the request, in any case
	When  When
	How   Ending
	Times int           // how many requests are lost
	For   time.Duration // how long a client hangs that does not give up, 0 = for ever; how late an answer is
}

type pending struct {
	Cut
	pattern *regexp.Regexp
}

// Proxy is one listener in front of one server.
type Proxy struct {
	network, address string // of the server
	listener         net.Listener
	running          sync.WaitGroup

	mu    sync.Mutex
	cuts  []*pending
	made  int
	conns map[net.Conn]struct{}
	shut  bool
}

// New listens on a free port of 127.0.0.1 for the server at a network ("unix", "tcp") and an address, which need not
// exist yet.
func New(network, address string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{network: network, address: address, listener: listener, conns: map[net.Conn]struct{}{}}
	p.running.Go(p.accept)
	return p, nil
}

// Port returns the port of the listener.
func (p *Proxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// Cut adds a loss. Of several that match a request the oldest happens.
func (p *Proxy) Cut(c Cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = append(p.cuts, &pending{c, regexp.MustCompile("(?i)" + c.SQL)})
}

// Clear forgets the losses that have not happened.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = nil
}

// CutsMade counts the losses that have happened.
func (p *Proxy) CutsMade() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

// Close ends every connection.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.shut = true
	_ = p.listener.Close()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// track registers a connection for Close to end; false if the proxy is closed.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) end(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// take returns the cut that matches a request.
func (p *Proxy) take(text string) (Cut, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.cuts {
		if text == "" || !c.pattern.MatchString(text) {
			continue
		}
		if c.Times--; c.Times <= 0 {
			p.cuts = append(p.cuts[:i:i], p.cuts[i+1:]...)
		}
		p.made++
		return c.Cut, true
	}
	return Cut{}, false
}

func (p *Proxy) serve(client net.Conn) {
	defer p.end(client)
	if !p.track(client) {
		return
	}
	server, err := net.Dial(p.network, p.address)
	if err != nil {
		return // as a server does that is down
	}
	defer p.end(server)
	if !p.track(server) {
		return
	}
	s := &session{proxy: p, client: client, server: server, statements: map[string]string{}, late: map[int]time.Duration{},
		lost: make(chan struct{})}
	var answers sync.WaitGroup
	answers.Go(s.answers)
	defer answers.Wait()
	defer server.Close()
	s.requests(bufio.NewReader(client))
}

// session is one client's connection.
type session struct {
	proxy          *Proxy
	client, server net.Conn
	statements     map[string]string // by name; used by requests only

	mu       sync.Mutex
	sent     int                   // requests sent to the server
	answered int                   // answers relayed in full
	late     map[int]time.Duration // by the number of the answer
	mute     int                   // answers from this number on are dropped; 0 = none is
	lost     chan struct{}         // closed when answers stop
}

// requests relays the client's messages, a whole request at a time, until one is cut or the client disconnects.
func (s *session) requests(client *bufio.Reader) {
	if !s.startup(client) {
		return
	}
	var request []byte
	var text strings.Builder
	for {
		kind, message, err := readMessage(client)
		if err != nil {
			return
		}
		request = append(request, message...)
		s.note(kind, message[5:], &text)
		switch kind {
		case 'P', 'B', 'D', 'E', 'C':
			continue // up to Sync they are one request
		case 'Q', 'S':
			cut, ok := s.proxy.take(text.String())
			if ok && cut.How != Late {
				s.cut(cut, request)
				return
			}
			s.count()
			s.delay(cut.For)
		}
		if _, err := s.server.Write(request); err != nil {
			return
		}
		request = request[:0]
		text.Reset()
	}
}

// startup relays the packets before the first message. It declines TLS and GSS, so the client continues without.
func (s *session) startup(client *bufio.Reader) bool {
	const cancelRequest, sslRequest, gssRequest = 80877102, 80877103, 80877104
	for {
		packet := make([]byte, 8)
		if _, err := io.ReadFull(client, packet); err != nil {
			return false
		}
		length, code := binary.BigEndian.Uint32(packet), binary.BigEndian.Uint32(packet[4:])
		if length < 8 || length > 10_000 {
			return false
		}
		if code == sslRequest || code == gssRequest {
			if _, err := s.client.Write([]byte{'N'}); err != nil {
				return false
			}
			continue
		}
		packet = append(packet, make([]byte, length-8)...)
		if _, err := io.ReadFull(client, packet[8:]); err != nil {
			return false
		}
		if code != cancelRequest {
			s.count() // the greeting is answered with a ReadyForQuery too
		}
		_, err := s.server.Write(packet)
		return err == nil
	}
}

func readMessage(r *bufio.Reader) (kind byte, message []byte, err error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length < 4 || length > 1<<30 {
		return 0, nil, fmt.Errorf("a message of %d bytes", length)
	}
	message = append(head, make([]byte, length-4)...)
	_, err = io.ReadFull(r, message[5:])
	return head[0], message, err
}

// note adds a message's text to that of the request. Only executed text counts: preparing COMMIT commits nothing.
func (s *session) note(kind byte, body []byte, text *strings.Builder) {
	switch kind {
	case 'Q':
		var q pgproto3.Query
		if q.Decode(body) == nil {
			text.WriteString(q.String)
		}
	case 'P':
		var p pgproto3.Parse
		if p.Decode(body) == nil {
			s.statements[p.Name] = p.Query
		}
	case 'B':
		var b pgproto3.Bind
		if b.Decode(body) == nil {
			text.WriteString(s.statements[b.PreparedStatement])
			text.WriteString("\n")
		}
	}
}

func (s *session) count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent++
}

// delay holds the answer to the last request that was counted.
func (s *session) delay(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if by > 0 {
		s.late[s.sent] = by
	}
}

// held returns how late the arriving answer is to be, once.
func (s *session) held() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := s.late[s.answered+1]
	delete(s.late, s.answered+1)
	return by
}

func (s *session) cut(c Cut, request []byte) {
	if c.When == After {
		s.mu.Lock()
		s.sent++
		s.mute = s.sent
		s.mu.Unlock()
		if _, err := s.server.Write(request); err != nil {
			return
		}
		<-s.lost
	}
	switch c.How {
	case FIN:
	case RST:
		_ = s.client.(*net.TCPConn).SetLinger(0)
	case Hang:
		// The server's side stays open as well: a network that drops packets informs neither end.
		if c.For > 0 {
			_ = s.client.SetReadDeadline(time.Now().Add(c.For))
		}
		_, _ = io.Copy(io.Discard, s.client)
	}
	_ = s.client.Close()
}

// answers relays the server's messages until one side disconnects, or the answer to be lost is complete.
func (s *session) answers() {
	defer close(s.lost)
	server := bufio.NewReaderSize(s.server, 64<<10)
	client := bufio.NewWriterSize(s.client, 64<<10)
	for {
		kind, message, err := readMessage(server)
		muted := s.muted()
		switch {
		case err != nil && muted:
			return // cut decides what the client sees
		case err != nil:
			_ = client.Flush()
			_ = s.client.Close()
			return
		case muted && kind == 'Z':
			return
		case muted:
			continue
		}
		time.Sleep(s.held())
		_, _ = client.Write(message) // an error shows in Flush
		if kind == 'Z' {
			s.mu.Lock()
			s.answered++
			s.mu.Unlock()
		}
		if server.Buffered() == 0 && client.Flush() != nil {
			_ = s.client.Close()
			return
		}
	}
}

// muted reports whether the arriving answer is to be lost.
func (s *session) muted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mute != 0 && s.answered+1 >= s.mute
}
