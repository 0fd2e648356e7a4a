package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

// tokenCheck stands for the database: it knows one token, and counts how often it is asked.
type tokenCheck struct {
	mu    sync.Mutex
	good  vault.Token
	asked int
	held  chan struct{} // nil: it answers at once
}

func (c *tokenCheck) remove(ctx context.Context, change vault.Change, name string,
	_ time.Duration) (vault.Receipt, error) {
	c.mu.Lock()
	c.asked++
	good := c.good == change.Token
	c.mu.Unlock()
	if c.held != nil {
		<-c.held
	}
	if !good {
		return vault.Receipt{}, &db.Error{Kind: db.ErrRefused, Text: "admin token refused: unknown token", Code: "28000"}
	}
	return vault.Receipt{Name: name}, nil
}

func (c *tokenCheck) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

func with(t vault.Token) option { return header("Authorization", "Bearer "+t.Reveal()) }

// All admin requests reach the database as one role from one address, which is blocked for a minute when that role
// guesses too often. So one client's guesses end here, and keep out neither other clients nor a token that has been
// proven.
func TestGuessesOfATokenEndBeforeTheDatabase(t *testing.T) {
	known := &tokenCheck{good: token}
	h := newWorld(t).serve(deleteEndpoint(known.remove))
	guess := func(options ...option) int {
		return ask(t, h, "DELETE", "/v1/secrets/a", "", append(options, with(vault.NewToken()))...).Code
	}
	wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", bearer()), 200, "")
	for i := range 200 {
		want := http.StatusForbidden
		if i >= guessesAtOnce {
			want = http.StatusTooManyRequests
		}
		if got := guess(); got != want {
			t.Fatalf("guess %d: got status %d, want %d", i, got, want)
		}
	}
	if got := known.count(); got != guessesAtOnce+1 {
		t.Errorf("the database was asked %d times, want %d", got, guessesAtOnce+1)
	}
	rec := ask(t, h, "DELETE", "/v1/secrets/a", "", with(vault.NewToken()))
	wantStatus(t, rec, 429, "rate_limited")
	if got := rec.Header().Get("Retry-After"); got == "" || got == "0" {
		t.Errorf("got Retry-After %q, want some seconds", got)
	}
	wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", bearer()), 200, "") // proven before
	if got := guess(from("192.0.2.9:1")); got != 403 {
		t.Errorf("another client got status %d, want 403", got)
	}
	other := known.good
	known.good = vault.NewToken() // the proven one is revoked
	wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", with(other)), 403, "not_allowed")
	wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", with(other)), 429, "rate_limited")
}

// Guesses that are sent at once are no more than those sent one by one.
func TestGuessesAtOnceAreCountedBeforeTheyAreAnswered(t *testing.T) {
	known := &tokenCheck{good: token, held: make(chan struct{})}
	h := newWorld(t).serve(deleteEndpoint(known.remove))
	statuses := make(chan int, 5*guessesAtOnce)
	for range 5 * guessesAtOnce {
		go func() {
			statuses <- ask(t, h, "DELETE", "/v1/secrets/a", "", with(vault.NewToken())).Code
		}()
	}
	got := map[int]int{}
	deadline := time.After(time.Minute)
	for range 4 * guessesAtOnce { // the others wait for the database
		select {
		case status := <-statuses:
			got[status]++
		case <-deadline:
			close(known.held)
			t.Fatalf("got statuses %v while the database is busy, want %d of 429", got, 4*guessesAtOnce)
		}
	}
	close(known.held)
	for range guessesAtOnce {
		got[<-statuses]++
	}
	if want := map[int]int{403: guessesAtOnce, 429: 4 * guessesAtOnce}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got statuses %v, want %v", got, want)
	}
	if known.count() != guessesAtOnce {
		t.Errorf("the database was asked %d times, want %d", known.count(), guessesAtOnce)
	}
}

// What is refused for another reason than the token is no guess.
func TestOtherRefusalsAreNoGuesses(t *testing.T) {
	p := &primary{}
	h := newWorld(t).serve(deleteEndpoint(p.remove))
	for _, err := range []error{nil, vault.ErrNotFound, vault.ErrUnavailable, vault.ErrOutcomeUnknown,
		&db.Error{Kind: db.ErrRefused, Text: `the scope of token:ci does not cover "a"`, Code: "42501"},
		&db.Error{Kind: db.ErrRefused, Text: "connecting to the database: no pg_hba.conf entry", Code: "28000"}} {
		p.err = err
		for range guessesAtOnce + 1 {
			if got := ask(t, h, "DELETE", "/v1/secrets/a", "", with(vault.NewToken())).Code; got == 429 {
				t.Fatalf("%v: got status 429", err)
			}
		}
	}
}

// A request that panicked has proven nothing.
func TestAPanicProvesNoToken(t *testing.T) {
	w := newWorld(t)
	h := w.serve(deleteEndpoint(func(context.Context, vault.Change, string, time.Duration) (vault.Receipt, error) {
		panic("x")
	}))
	wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", bearer()), 500, "internal")
	if w.api.guesses.proven.Len() != 0 {
		t.Error("the token of a request that panicked counts as proven")
	}
}

func TestGuessesComeBackWithTime(t *testing.T) {
	g := newGuesses()
	c, now := client{}, time.Now()
	for range guessesAtOnce {
		settle, wait := g.admit(c, vault.NewToken(), now)
		if wait > 0 {
			t.Fatal("refused too early")
		}
		settle(wrongToken)
	}
	if _, wait := g.admit(c, vault.NewToken(), now); wait <= 0 || wait > guessEvery {
		t.Errorf("got a wait of %v, want up to %v", wait, guessEvery)
	}
	settle, wait := g.admit(c, vault.NewToken(), now.Add(guessEvery))
	if wait > 0 {
		t.Errorf("got a wait of %v after %v, want none", wait, guessEvery)
	}
	settle(wrongToken)
	if _, wait := g.admit(c, vault.NewToken(), now.Add(guessEvery)); wait <= 0 {
		t.Error("got more than one guess back")
	}
}
