package scripttest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// http STATUS METHOD URL [-H 'Key: value'] [-d BODY | -d @FILE] [-unix SOCKET]: the answer's body on stdout, its
// headers on stderr. http later NAME METHOD URL ... sends a request whose answer http STATUS answer NAME waits for;
// http leave NAME closes its connection.
func (h *harness) cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) >= 4 && args[0] == "later":
		s.later(ts, args[1], args[2:])
		return
	case len(args) == 2 && args[0] == "leave":
		s.pending[args[1]].leave()
		return
	case len(args) < 3:
		ts.Fatalf("usage: http STATUS METHOD URL [-H header] [-d body] | http STATUS answer NAME | " +
			"http later NAME METHOD URL | http leave NAME")
	}
	var status int
	var body, headers string
	if p := s.pending[args[2]]; args[1] == "answer" && p != nil {
		<-p.done
		status, body, headers = p.status, p.body, p.headers
	} else {
		status, body, headers = h.request(ts, args[1:])
	}
	fmt.Fprint(ts.Stderr(), headers)
	fmt.Fprint(ts.Stdout(), body)
	if got := strconv.Itoa(status); got != args[0] {
		ts.Fatalf("status %s, want %s: %s", got, args[0], body)
	}
	if status >= 400 && (strings.Contains(body, canary) || strings.Contains(headers, canary)) {
		ts.Fatalf("the error shows the value")
	}
}

// pendingRequest is a request that a script sent and does not wait for. It is answered or left before the script ends.
type pendingRequest struct {
	done  chan struct{}
	leave context.CancelFunc

	// Written before done is closed.
	status        int
	body, headers string
}

func (s *session) later(ts *testscript.TestScript, name string, args []string) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pendingRequest{done: make(chan struct{}), leave: cancel}
	s.pending[name] = p
	s.cleanup = append(s.cleanup, func() { cancel(); <-p.done })
	c, r := prepare(ts, args)
	go func() {
		defer close(p.done)
		p.status, p.body, p.headers = s.send(c, r.WithContext(ctx))
	}()
}

func (h *harness) request(ts *testscript.TestScript, args []string) (int, string, string) {
	return h.of(ts).send(prepare(ts, args))
}

func prepare(ts *testscript.TestScript, args []string) (*http.Client, *http.Request) {
	method, url, rest := args[0], args[1], args[2:]
	var body []byte
	header := http.Header{}
	client := &http.Client{Timeout: waitLimit, CheckRedirect: func(*http.Request,
		[]*http.Request) error {
		return http.ErrUseLastResponse
	}}
	for ; len(rest) >= 2; rest = rest[2:] {
		switch rest[0] {
		case "-H":
			k, v, _ := strings.Cut(rest[1], ":")
			header.Add(k, strings.TrimSpace(v))
		case "-d":
			body = []byte(rest[1])
			if path, ok := strings.CutPrefix(rest[1], "@"); ok {
				body = []byte(ts.ReadFile(path))
			}
		case "-unix":
			path := ts.MkAbs(rest[1])
			client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			}}
		default:
			ts.Fatalf("http: unknown %q", rest[0])
		}
	}
	if body != nil && header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/json")
	}
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	ts.Check(err)
	r.Header, r.Host = header, header.Get("Host") // "" = the host of the url
	return client, r
}

// send compares the answer with docs/openapi.yaml, unless the script has daemons of the previous release; checkSurface
// tells what did not fit.
func (s *session) send(client *http.Client, r *http.Request) (int, string, string) {
	if client.Transport != nil { // of this request alone: a poll would leave a connection open each time
		defer client.CloseIdleConnections()
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, err.Error(), ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error(), ""
	}
	if !s.hasPrevious {
		s.h.surface.check(r, response, text)
	}
	var b strings.Builder
	_ = response.Header.Write(&b)
	return response.StatusCode, string(text), b.String()
}
