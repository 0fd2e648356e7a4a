package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long a server may take without completing any answer.
const silence = 10 * time.Second

// drive keeps one request in flight on each connection until slice ends, or until the first answer if that comes later.
// Then it reads the outstanding answers, which count for the latency and not for the rate. One thread waits for all
// connections with epoll, because Go's own poller would wake a goroutine for every answer. An answer other than the
// expected one is an error. The connections come from that many addresses of the loopback interface; 0 = the one that
// the system picks.
func drive(ctx, slice context.Context, address string, connections, addresses int, next func() *exchange) (load,
	error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g := &generator{next: next, addresses: addresses, load: load{latency: newHistogram()}}
	defer g.close()
	if err := g.connect(ctx, address, connections); err != nil {
		return load{}, fmt.Errorf("connecting to %s: %w", address, err)
	}
	g.began = time.Now()
	for _, c := range g.connections {
		if err := g.send(c); err != nil {
			return load{}, err
		}
	}
	if err := g.exchange(ctx, slice); err != nil {
		return load{}, err
	}
	return g.load, nil
}

type generator struct {
	load
	next        func() *exchange
	addresses   int // 0 = one
	epoll       int // 0 before connect
	connections map[int32]*connection
	waiting     int // connections with an outstanding answer
	began       time.Time
	ended       bool
}

type connection struct {
	fd       int
	exchange *exchange
	sent     time.Duration // since the start
	buffer   []byte
	have     int
}

func (g *generator) connect(ctx context.Context, address string, connections int) (err error) {
	if g.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	where, err := socketAddress(ctx, address)
	if err != nil {
		return err
	}
	g.connections = make(map[int32]*connection, connections)
	for i := range connections {
		fd, err := unix.Socket(family(where), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		g.connections[int32(fd)] = &connection{fd: fd, buffer: make([]byte, 4096)}
		if g.addresses > 0 {
			from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, byte(1 + i%g.addresses)}}
			if err := unix.Bind(fd, from); err != nil {
				return fmt.Errorf("an address of the loopback interface: %w", err)
			}
		}
		if err := errors.Join(unix.Connect(fd, where), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
			unix.SetNonblock(fd, true), unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd,
				&unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})); err != nil {
			return err
		}
	}
	return nil
}

func socketAddress(ctx context.Context, address string) (unix.Sockaddr, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil, err
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if ip := found[0].Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Port: number, Addr: ip.As4()}, nil
	}
	return &unix.SockaddrInet6{Port: number, Addr: found[0].As16()}, nil
}

func family(a unix.Sockaddr) int {
	if _, six := a.(*unix.SockaddrInet6); six {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (g *generator) close() {
	for _, c := range g.connections {
		_ = unix.Close(c.fd)
	}
	if g.epoll != 0 {
		_ = unix.Close(g.epoll)
	}
}

func (g *generator) send(c *connection) error {
	c.exchange, c.have = g.next(), 0
	c.sent = time.Since(g.began)
	// A request is smaller than any socket's buffer, and the one before has been answered.
	if n, err := unix.Write(c.fd, c.exchange.request); err != nil || n < len(c.exchange.request) {
		return fmt.Errorf("sending a request: %d bytes of %d: %w", n, len(c.exchange.request), err)
	}
	g.waiting++
	return nil
}

func (g *generator) exchange(ctx, slice context.Context) error {
	events := make([]unix.EpollEvent, len(g.connections))
	heard := time.Now()
	for g.waiting > 0 {
		n, err := unix.EpollWait(g.epoll, events, 20)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !g.ended && g.requests > 0 && slice.Err() != nil {
			g.ended, g.took = true, time.Since(g.began)
		}
		switch {
		case n > 0:
			heard = time.Now()
		case time.Since(heard) > silence:
			return fmt.Errorf("no answer for %s, %d are owed", silence, g.waiting)
		}
		for _, e := range events[:max(n, 0)] {
			if err := g.receive(g.connections[e.Fd]); err != nil {
				return err
			}
		}
	}
	return nil
}

// receive reads the available bytes, and sends the next request once the answer is complete.
func (g *generator) receive(c *connection) error {
	if c.have == len(c.buffer) {
		c.buffer = append(c.buffer, make([]byte, len(c.buffer))...)
	}
	n, err := unix.Read(c.fd, c.buffer[c.have:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("reading an answer: %w", err)
	case n == 0:
		return errors.New("the server closed the connection before it answered")
	}
	c.have += n
	whole, err := c.exchange.check(c.buffer[:c.have])
	if err != nil || !whole {
		return err
	}
	g.waiting--
	if err := g.latency.RecordValue(int64(time.Since(g.began) - c.sent)); err != nil {
		return err
	}
	if g.ended {
		return nil
	}
	g.requests++
	return g.send(c)
}
