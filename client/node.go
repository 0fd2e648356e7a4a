package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	connectTimeout = 2 * time.Second  // to one node, before the next is asked
	answerTimeout  = 10 * time.Second // of one node, beyond what it was asked to wait

	leastDown, mostDown = time.Second, 30 * time.Second // for how long a node that failed is passed over
	noWaitFor           = time.Minute                   // a node that refused a wait is polled

	maxValue = 64 << 10
	maxError = 16 << 10
)

// node is one vaultd.
type node struct {
	shown string   // as in the configuration
	base  *url.URL // of its requests
	http  *http.Client

	mu        sync.Mutex
	downUntil time.Time
	downFor   time.Duration
	pollUntil time.Time
}

func newNode(u *url.URL, secure *tls.Config) *node {
	// A node that vanishes without closing its connections is noticed in about ten seconds.
	alive := net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAliveConfig: alive}
	n := &node{shown: u.String(), base: u}
	transport := &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: secure,
		TLSHandshakeTimeout: connectTimeout, MaxIdleConnsPerHost: maxWaits, IdleConnTimeout: time.Minute,
		DisableCompression: true}
	if u.Scheme == "unix" {
		n.base = &url.URL{Scheme: "http", Host: "localhost"}
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.Path)
		}
	}
	n.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	return n
}

// up is when the node may be asked again.
func (n *node) up() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.downUntil
}

// failed passes the node over for a while, longer after each failure; at least as long as it asked for.
func (n *node) failed(retryAfter time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.downFor = min(max(2*n.downFor, leastDown), mostDown)
	n.downUntil = time.Now().Add(max(n.downFor, min(retryAfter, mostDown)))
}

func (n *node) answered() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.downUntil, n.downFor = time.Time{}, 0
}

func (n *node) mayWait() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Now().After(n.pollUntil)
}

func (n *node) refusedWait() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pollUntil = time.Now().Add(noWaitFor)
}

// call is one request to whichever node answers it.
type call struct {
	name string
	held string        // GET: the version that the caller has; "" = none
	wait time.Duration // GET: how long the node may wait for another; 0 = not
	body []byte        // POST verify; nil: GET
}

// reply is an answer of a node.
type reply struct {
	value   Value   // of a GET; none: unchanged
	verdict Verdict // of a verify
	waited  bool    // the node was asked to wait
}

// send asks one node.
func (n *node) send(ctx context.Context, token string, c call) (reply, error) {
	if c.wait > 0 && (c.held == "" || !n.mayWait()) {
		c.wait = 0
	}
	r, err := n.try(ctx, token, c)
	var e *Error
	if c.wait > 0 && errors.As(err, &e) && (e.Status == http.StatusBadRequest || e.Status == http.StatusTooManyRequests) {
		n.refusedWait() // it is full of waits, or too old to know them
		c.wait = 0
		r, err = n.try(ctx, token, c)
	}
	return r, err
}

func (n *node) try(ctx context.Context, token string, c call) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.wait+answerTimeout)
	defer cancel()
	response, err := n.http.Do(n.request(ctx, token, c))
	if err != nil {
		n.failed(0)
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which the error has as Node and Name
		}
		return reply{}, n.fail(c, nil, ErrUnavailable, text(err.Error()))
	}
	defer response.Body.Close()
	r, err := n.read(c, response)
	r.waited = c.wait > 0
	var e *Error
	if errors.As(err, &e) && errors.Is(e, ErrUnavailable) {
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After")) // 0 if it is not a number
		if !(c.wait > 0 && e.Status == http.StatusTooManyRequests) {
			n.failed(time.Duration(seconds) * time.Second)
		}
	} else {
		n.answered()
	}
	return r, err
}

func (n *node) request(ctx context.Context, token string, c call) *http.Request {
	u := *n.base
	u.Path = "/v1/secrets/" + c.name
	r := (&http.Request{Method: http.MethodGet, URL: &u, Header: http.Header{}}).WithContext(ctx)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if c.body != nil {
		u.Path += "/verify"
		r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(bytes.NewReader(c.body)), int64(len(c.body))
		r.Header.Set("Content-Type", "application/octet-stream")
		return r
	}
	r.Header.Set("Accept", "application/octet-stream")
	if c.held != "" {
		r.Header.Set("If-None-Match", `"`+c.held+`"`)
	}
	if c.wait > 0 {
		u.RawQuery = "wait=" + c.wait.String()
	}
	return r
}

func (n *node) read(c call, r *http.Response) (reply, error) {
	switch {
	case r.StatusCode == http.StatusNotModified && c.held != "":
		return reply{}, nil
	case r.StatusCode == http.StatusOK && c.body != nil:
		var v Verdict
		if err := json.NewDecoder(io.LimitReader(r.Body, maxError)).Decode(&v); err != nil {
			return reply{}, n.fail(c, r, ErrUnavailable, "the answer is not vaultd's")
		}
		return reply{verdict: v}, nil
	case r.StatusCode == http.StatusOK:
		v, err := readValue(r)
		if err != nil {
			return reply{}, n.fail(c, r, ErrUnavailable, err.Error())
		}
		return reply{value: v}, nil
	}
	var body struct {
		Error, Message string
	}
	content, _ := io.ReadAll(io.LimitReader(r.Body, maxError))
	ours := json.Unmarshal(content, &body) == nil && body.Error != ""
	if !ours {
		body.Message = "status " + r.Status
	}
	switch {
	case r.StatusCode == http.StatusNotFound && body.Error == "not_found":
		return reply{}, n.fail(c, r, ErrNotFound, body.Message)
	case r.StatusCode == http.StatusForbidden, r.StatusCode == http.StatusUnauthorized:
		return reply{}, n.fail(c, r, ErrDenied, body.Message)
	case ours && (r.StatusCode == http.StatusBadRequest || r.StatusCode == http.StatusRequestEntityTooLarge):
		return reply{}, n.fail(c, r, nil, body.Message)
	}
	return reply{}, n.fail(c, r, ErrUnavailable, body.Message)
}

func (n *node) fail(c call, r *http.Response, kind error, message string) *Error {
	e := &Error{Kind: kind, Name: c.name, Node: n.shown, Message: text(message)}
	if r != nil {
		e.Status, e.RequestID = r.StatusCode, text(r.Header.Get("X-Request-Id"))
	}
	return e
}

// readValue checks that the answer is vaultd's: the page of a proxy must not become a password.
func readValue(r *http.Response) (Value, error) {
	id := strings.Trim(r.Header.Get("ETag"), `"`)
	version, err := strconv.Atoi(r.Header.Get("Vault-Version"))
	if err != nil || version < 1 || !isID(id) || r.Header.Get("Content-Type") != "application/octet-stream" {
		return Value{}, errors.New("the answer is not vaultd's")
	}
	value, err := io.ReadAll(io.LimitReader(r.Body, maxValue+1))
	if err != nil {
		return Value{}, fmt.Errorf("reading the value: %w", err)
	}
	if len(value) > maxValue || len(value) == 0 || r.ContentLength >= 0 && int64(len(value)) != r.ContentLength {
		return Value{}, fmt.Errorf("the value has %d bytes, not 1 to %d", len(value), maxValue)
	}
	s := &stored{value: value, version: version, id: id}
	s.createdAt, _ = time.Parse(time.RFC3339Nano, r.Header.Get("Vault-Created-At")) // zero if there is none
	s.nextRotationAt, _ = time.Parse(time.RFC3339Nano, r.Header.Get("Vault-Next-Rotation-At"))
	return newValue(s), nil
}

// isID: 36 characters of a UUID.
func isID(id string) bool {
	return len(id) == 36 && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r == '-')
	})
}
