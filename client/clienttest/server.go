// Package clienttest has a stand-in for vaultd, so that the tests of a program that uses package client need no vault.
// It answers as vaultd does: versions and ETags, 304, requests that wait for a change, 403, 404 and 503.
package clienttest

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Server is a vaultd with secrets in memory. It is safe for concurrent use.
type Server struct {
	URL string // for client.Config

	http *httptest.Server

	mu      sync.Mutex
	secrets map[string]*secret
	token   string // "" = any request is admitted
	denied  map[string]bool
	away    bool
	noWaits bool
	waiting int
	reads   int
	changed chan struct{} // closed at the next change of anything above
}

type secret struct {
	value   []byte
	version int
	id      string
	created time.Time
}

// NewServer starts a server with these secrets, each at version 1. The caller closes it.
func NewServer(secrets map[string]string) *Server {
	s := &Server{secrets: map[string]*secret{}, denied: map[string]bool{}, changed: make(chan struct{})}
	for name, value := range secrets {
		s.Set(name, value)
	}
	s.http = httptest.NewServer(s)
	s.URL = s.http.URL
	return s
}

// Close ends waiting requests, and the server.
func (s *Server) Close() {
	s.SetAway(true)
	s.http.Close()
}

// change runs f under the lock and has waiting requests look again.
func (s *Server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Set stores a new version, as a rotation does.
func (s *Server) Set(name, value string) {
	s.change(func() {
		next := &secret{value: []byte(value), version: 1, id: newID(), created: time.Now().UTC()}
		if old := s.secrets[name]; old != nil {
			next.version = old.version + 1
		}
		s.secrets[name] = next
	})
}

// Delete makes a name absent: 404.
func (s *Server) Delete(name string) { s.change(func() { delete(s.secrets, name) }) }

// Deny answers 403 for a name from now on, existing or not; Allow ends that.
func (s *Server) Deny(name string) { s.change(func() { s.denied[name] = true }) }

// Allow ends Deny.
func (s *Server) Allow(name string) { s.change(func() { delete(s.denied, name) }) }

// SetToken makes every request with another token a 403; "" admits any.
func (s *Server) SetToken(token string) { s.change(func() { s.token = token }) }

// SetAway answers 503 while it is true, as a vaultd whose database is away.
func (s *Server) SetAway(away bool) { s.change(func() { s.away = away }) }

// SetNoWaits refuses requests that wait while it is true (429), as a vaultd that has too many of them.
func (s *Server) SetNoWaits(none bool) { s.change(func() { s.noWaits = none }) }

// Waiting is how many requests wait for a change now.
func (s *Server) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// Requests is how many requests came so far.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.reads++
	s.mu.Unlock()
	w.Header().Set("X-Request-Id", newID())
	w.Header().Set("Cache-Control", "no-store")
	name, ok := strings.CutPrefix(r.URL.Path, "/v1/secrets/")
	if !ok || name == "" {
		fail(w, http.StatusBadRequest, "bad_request", "unknown route")
		return
	}
	if r.Method == http.MethodPost && strings.HasSuffix(name, "/verify") {
		s.verify(w, r, strings.TrimSuffix(name, "/verify"))
		return
	}
	if r.Method != http.MethodGet {
		fail(w, http.StatusMethodNotAllowed, "method_not_allowed", "this path does not have that method")
		return
	}
	s.get(w, r, name)
}

// admit returns the secret, or answers the request.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, name string) *secret {
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	found := s.secrets[name]
	switch {
	case s.away:
		w.Header().Set("Retry-After", "1")
		fail(w, http.StatusServiceUnavailable, "unavailable", "the database does not answer")
	case s.token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) != 1, s.denied[name]:
		fail(w, http.StatusForbidden, "not_allowed", "permission denied")
	case found == nil:
		fail(w, http.StatusNotFound, "not_found", "no such secret or version")
	default:
		return found
	}
	return nil
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, name string) {
	held := strings.Trim(r.Header.Get("If-None-Match"), `"`)
	var over <-chan time.Time
	if text := r.URL.Query().Get("wait"); text != "" {
		wait, err := time.ParseDuration(text)
		if err != nil || wait < time.Second || wait > 5*time.Minute || held == "" {
			fail(w, http.StatusBadRequest, "bad_request", "wait is not a time from 1s to 5m, or has no If-None-Match")
			return
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		over = timer.C
	}
	for {
		s.mu.Lock()
		found := s.admit(w, r, name)
		if found == nil || found.id != held {
			s.mu.Unlock()
			if found != nil {
				answer(w, r, name, found)
			}
			return
		}
		if over != nil && s.noWaits {
			s.mu.Unlock()
			w.Header().Set("Retry-After", "10")
			fail(w, http.StatusTooManyRequests, "too_many_waits", "too many requests wait for a change")
			return
		}
		if over == nil {
			s.mu.Unlock()
			break
		}
		changed := s.changed
		s.waiting++
		s.mu.Unlock()
		select {
		case <-changed:
		case <-over:
			over = nil
		case <-r.Context().Done():
			over = nil
		}
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}
	w.Header().Set("ETag", `"`+held+`"`)
	w.WriteHeader(http.StatusNotModified)
}

func answer(w http.ResponseWriter, r *http.Request, name string, v *secret) {
	w.Header().Set("ETag", `"`+v.id+`"`)
	created := v.created.Format(time.RFC3339Nano)
	if strings.Contains(r.Header.Get("Accept"), "application/octet-stream") {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Vault-Version", strconv.Itoa(v.version))
		w.Header().Set("Vault-Created-At", created)
		_, _ = w.Write(v.value)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": name, "version": v.version, "version_id": v.id,
		"value": string(v.value), "encoding": "utf8", "created_at": created, "rotated_at": created, "next_rotation_at": nil,
		"expires_at": nil})
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request, name string) {
	presented, err := io.ReadAll(io.LimitReader(r.Body, 64<<10+1))
	if err != nil || len(presented) == 0 || len(presented) > 64<<10 {
		fail(w, http.StatusBadRequest, "bad_request", "a value has 1 byte to 64 KiB")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.admit(w, r, name)
	if found == nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !bytes.Equal(presented, found.value) {
		fmt.Fprintln(w, `{"valid":false}`)
		return
	}
	fmt.Fprintf(w, `{"valid":true,"version":%d,"match":"current","expires_at":null}`+"\n", found.version)
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "message": message,
		"request_id": w.Header().Get("X-Request-Id")})
}

// newID makes a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it does not fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
