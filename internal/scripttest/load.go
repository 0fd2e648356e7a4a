package scripttest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// loadPause is between two requests of one client.
const loadPause = 2 * time.Millisecond

// load is a number of clients that read one URL until it stops. They repeat nothing: what a daemon loses is a failure.
type load struct {
	stop     context.CancelFunc
	running  sync.WaitGroup
	requests atomic.Int64
	failed   atomic.Int64
	first    atomic.Pointer[string] // of the failures
}

// load start CLIENTS URL | load reach COUNT | load stop: half of the clients keep their connection for as long as the
// server does, half connect for each request. reach waits until so many more requests were made; stop prints how many
// there were and how many failed.
func (h *harness) cmdLoad(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) == 3 && args[0] == "start" && s.load == nil:
		clients, err := strconv.Atoi(args[1])
		ts.Check(err)
		u, err := url.Parse(args[2])
		ts.Check(err)
		s.load = startLoad(clients, u)
		s.cleanup = append(s.cleanup, s.endLoad)
	case len(args) == 2 && args[0] == "reach" && s.load != nil:
		more, err := strconv.ParseInt(args[1], 10, 64)
		ts.Check(err)
		until := s.load.requests.Load() + more
		for deadline := time.Now().Add(waitLimit); s.load.requests.Load() < until; {
			if time.Now().After(deadline) {
				ts.Fatalf("the load makes no requests: %d of %d", s.load.requests.Load(), until)
			}
			time.Sleep(loadPause)
		}
	case len(args) == 1 && args[0] == "stop" && s.load != nil:
		l := s.load
		s.endLoad()
		fmt.Fprintf(ts.Stdout(), "%d requests, %d failed\n", l.requests.Load(), l.failed.Load())
		if first := l.first.Load(); first != nil {
			fmt.Fprintf(ts.Stdout(), "first failure: %s\n", *first)
		}
	default:
		ts.Fatalf("usage: load start CLIENTS URL | load reach COUNT | load stop")
	}
}

func (s *session) endLoad() {
	if s.load != nil {
		s.load.stop()
		s.load.running.Wait()
		s.load = nil
	}
}

func startLoad(clients int, u *url.URL) *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop}
	for i := range clients {
		l.running.Go(func() { l.run(ctx, u, i%2 == 0) })
	}
	return l
}

func (l *load) run(ctx context.Context, u *url.URL, keep bool) {
	c := &loadClient{url: u, keep: keep}
	defer c.end()
	for ctx.Err() == nil {
		err := c.get()
		l.requests.Add(1)
		if err != nil {
			l.failed.Add(1)
			text := err.Error()
			l.first.CompareAndSwap(nil, &text)
		}
		time.Sleep(loadPause)
	}
}

// loadClient is one client. net/http's own would repeat a request whose connection ended.
type loadClient struct {
	url  *url.URL
	keep bool
	conn net.Conn
	in   *bufio.Reader
}

func (c *loadClient) end() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *loadClient) get() error {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.url.Host, waitLimit)
		if err != nil {
			return err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(waitLimit)); err != nil {
		return err
	}
	response, err := c.exchange()
	if err != nil {
		c.end()
		return err
	}
	if !c.keep || response.Close {
		c.end()
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}

func (c *loadClient) exchange() (*http.Response, error) {
	request := &http.Request{Method: http.MethodGet, URL: c.url, Host: c.url.Host}
	if err := request.Write(c.conn); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(c.in, request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response, err
}

// sockets are the listening sockets of one daemon, which the script keeps open as systemd does.
type sockets struct {
	files     []*os.File
	addresses []string
}

func openSockets(count int) (*sockets, error) {
	s := &sockets{}
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.close()
			return nil, err
		}
		file, err := l.(*net.TCPListener).File()
		s.addresses = append(s.addresses, l.Addr().String())
		_ = l.Close() // file is a descriptor of its own
		if err != nil {
			s.close()
			return nil, err
		}
		s.files = append(s.files, file)
	}
	return s, nil
}

func (s *sockets) close() {
	for _, file := range s.files {
		_ = file.Close()
	}
}

// through starts a command as systemd does: only the process itself knows its pid before it runs.
var through = []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}
