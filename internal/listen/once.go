package listen

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// MaxOnce is how many connections of a OneAnswer are served at once; more wait in the kernel's queue.
const MaxOnce = 64

const (
	onceTimeout = 30 * time.Second       // of one connection
	acceptRetry = 100 * time.Millisecond // after an Accept that failed, as it does without descriptors
)

// OneAnswer writes one answer to every connection of a unix socket and closes it. It reads nothing: who connects is all
// that a client says. systemd asks for credentials in this way.
type OneAnswer struct {
	listener net.Listener
	answer   func(ctx context.Context, p Peer, to io.Writer)
	slots    chan struct{}
	ctx      context.Context // of all answers
	cancel   context.CancelFunc

	mu      sync.Mutex
	closing bool
	running sync.WaitGroup // adds are guarded by mu, and made while closing is false
}

// NewOneAnswer serves nothing before Serve. answer is called for several connections at once; it does not panic.
func NewOneAnswer(l net.Listener, answer func(ctx context.Context, p Peer, to io.Writer)) *OneAnswer {
	s := &OneAnswer{listener: l, answer: answer, slots: make(chan struct{}, MaxOnce)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve returns after Shutdown or Close.
func (s *OneAnswer) Serve() {
	for {
		s.slots <- struct{}{}
		c, err := s.listener.Accept()
		if err != nil {
			<-s.slots
			if !s.open() {
				return
			}
			select {
			case <-time.After(acceptRetry):
			case <-s.ctx.Done():
			}
			continue
		}
		if !s.start(c) {
			<-s.slots
			_ = c.Close() // it came after Shutdown
			return
		}
	}
}

func (s *OneAnswer) open() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closing
}

func (s *OneAnswer) start(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.running.Go(func() {
		defer func() { <-s.slots }()
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(onceTimeout)) // fails only for a connection that is closed
		s.answer(s.ctx, peerOnce(c), c)
	})
	return true
}

// peerOnce also has the name of the other end.
func peerOnce(c net.Conn) Peer {
	local, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{}
	}
	var p Peer
	p.UID, p.Local = peerUID(local)
	if name := local.RemoteAddr().String(); name != "@" { // so Go writes that there is none
		p.Name = name
	}
	return p
}

// Shutdown takes no new connections, waits for the answers under way until ctx ends, and then cancels them.
func (s *OneAnswer) Shutdown(ctx context.Context) error {
	s.Close()
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
		s.cancel()
		<-done
		return ctx.Err()
	}
}

// Close takes no new connections.
func (s *OneAnswer) Close() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	_ = s.listener.Close() // it removes the socket's file; a second call changes nothing
}

// Addr is that of the socket.
func (s *OneAnswer) Addr() net.Addr { return s.listener.Addr() }
