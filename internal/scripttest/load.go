package scripttest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/localpg"
)

const (
	// loadPause is between two requests of one client, of a load or of reads.
	loadPause = 2 * time.Millisecond
	// patience is how long vaultd waits for its server.
	patience = 5 * time.Second
	// shortOutage is for how long a server may be away so that no read may fail.
	shortOutage = patience - time.Second
)

// load is a number of clients that request a URL each until it stops. They repeat nothing: what a daemon loses is a
// failure.
type load struct {
	ctx      context.Context
	stop     context.CancelFunc
	clients  []*loadClient
	running  sync.WaitGroup
	requests atomic.Int64
	failed   atomic.Int64
	first    atomic.Pointer[string] // of the failures
}

// load start CLIENTS URL [BODY] | load reach COUNT | load restart NODE | load stop: half of the clients keep their
// connection for as long as the server does, half connect for each request. With a body they post it, and the answer
// has to call it valid. Another start adds clients. reach waits until so many more requests were made. restart stops a
// node's PostgreSQL as if it had crashed and starts it, and waits for all that were asked meanwhile; if it was away for
// so long that reads may fail, it forgets what failed and does it again. stop prints how many requests there were and
// how many failed.
func (h *harness) cmdLoad(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case (len(args) == 3 || len(args) == 4) && args[0] == "start":
		clients, err := strconv.Atoi(args[1])
		ts.Check(err)
		u, err := url.Parse(args[2])
		ts.Check(err)
		if s.load == nil {
			s.load = &load{}
			s.load.ctx, s.load.stop = context.WithCancel(context.Background())
			s.cleanup = append(s.cleanup, s.endLoad)
		}
		s.load.add(clients, u, strings.Join(args[3:], ""))
	case len(args) == 2 && args[0] == "restart" && s.load != nil:
		s.load.restart(ts, h.ownNode(ts, args[1]))
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
		ts.Fatalf("usage: load start CLIENTS URL [BODY] | load reach COUNT | load restart NODE | load stop")
	}
}

func (s *session) endLoad() {
	if s.load != nil {
		s.load.stop()
		s.load.running.Wait()
		s.load = nil
	}
}

func (l *load) add(clients int, u *url.URL, body string) {
	for i := range clients {
		c := &loadClient{url: u, body: body, keep: i%2 == 0}
		l.clients = append(l.clients, c)
		l.running.Go(func() { l.run(c) })
	}
}

func (l *load) restart(ts *testscript.TestScript, node *localpg.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	for {
		failed, first := l.failed.Load(), l.first.Load()
		began := time.Now()
		ts.Check(node.Stop(ctx, localpg.Immediate))
		ts.Check(node.Start(ctx))
		away := time.Since(began)
		ts.Check(l.awaitEach(ctx))
		answered := time.Since(began)
		// On a loaded machine the daemon, too, may need a second to reach the server again.
		if away <= shortOutage && (l.failed.Load() == failed || answered < patience) {
			return
		}
		ts.Logf("%s was away for %s, and not all had an answer before %s: once more", node.Name(), away, answered)
		l.failed.Store(failed)
		l.first.Store(first)
	}
}

// awaitEach waits until each client has an answer to a request that it sends after the call.
func (l *load) awaitEach(ctx context.Context) error {
	for _, c := range l.clients {
		// The first may have been sent before.
		for until := c.answers.Load() + 2; c.answers.Load() < until; {
			if ctx.Err() != nil {
				return fmt.Errorf("the load has no answers: %w", ctx.Err())
			}
			time.Sleep(loadPause)
		}
	}
	return nil
}

func (l *load) run(c *loadClient) {
	defer c.end()
	for l.ctx.Err() == nil {
		err := c.request()
		if err != nil {
			l.failed.Add(1)
			text := err.Error()
			l.first.CompareAndSwap(nil, &text)
		}
		l.requests.Add(1)
		c.answers.Add(1)
		time.Sleep(loadPause)
	}
}

// loadClient is one client. net/http's own would repeat a request whose connection ended.
type loadClient struct {
	url     *url.URL
	body    string // posted; "": a GET
	keep    bool
	answers atomic.Int64 // failures too

	// Used by run only.
	conn net.Conn
	in   *bufio.Reader
}

func (c *loadClient) end() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *loadClient) request() error {
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
	response, body, err := c.exchange()
	if err != nil {
		c.end()
		return err
	}
	if !c.keep || response.Close {
		c.end()
	}
	switch {
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("status %d", response.StatusCode)
	case c.body != "" && !bytes.Contains(body, []byte(`"valid":true`)):
		return errors.New("the value is called not valid")
	}
	return nil
}

func (c *loadClient) exchange() (*http.Response, []byte, error) {
	request := &http.Request{Method: http.MethodGet, URL: c.url, Host: c.url.Host}
	if c.body != "" {
		request.Method, request.Header = http.MethodPost, http.Header{"Content-Type": {"application/json"}}
		request.Body, request.ContentLength = io.NopCloser(strings.NewReader(c.body)), int64(len(c.body))
	}
	if err := request.Write(c.conn); err != nil {
		return nil, nil, err
	}
	response, err := http.ReadResponse(c.in, request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, body, err
}
