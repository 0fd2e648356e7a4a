package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/access/accessdb"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	credentialsPer = 10
	mostAtCreation = 8  // credentials that an app can be made with
	floodConns     = 64 // of the app that floods
	floodRate      = 200.0
)

// fillApps makes apps with ten tokens each, every one of which may read all that is read. It returns a token of the
// first app and one of the last.
func (s *env) fillApps(ctx context.Context, apps int) (first, last access.Token, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	first, last = access.NewToken(), access.NewToken()
	for i := range apps {
		tokens := make([]access.Token, credentialsPer)
		for j := range tokens {
			tokens[j] = access.NewToken()
		}
		switch i {
		case 0:
			tokens[0] = first
		case apps - 1:
			tokens[credentialsPer-1] = last
		}
		group.Go(func() error { return s.createApp(ctx, "app-"+strconv.Itoa(i), tokens) })
	}
	return first, last, group.Wait()
}

func (s *env) createApp(ctx context.Context, name string, tokens []access.Token) error {
	rules := []accessdb.Rule{{Pattern: "read/*", Actions: access.DefaultActions}}
	for i := range 3 {
		rules = append(rules, accessdb.Rule{Pattern: fmt.Sprintf("%s/part-%d/*", name, i), Actions: access.DefaultActions})
	}
	var credentials []accessdb.NewCredential
	for _, t := range tokens {
		credentials = append(credentials, accessdb.NewCredential{ID: t.ID(), Kind: access.ByToken,
			Fingerprint: t.Fingerprint()})
	}
	change := func() vault.Change { return vault.Change{Token: s.token, RequestID: uuid.New()} }
	_, err := s.vault.CreateApp(ctx, change(), name, rules, credentials[:mostAtCreation])
	for _, c := range credentials[mostAtCreation:] {
		if err == nil {
			_, err = s.vault.AddAppCredential(ctx, change(), name, c)
		}
	}
	return err
}

// tokenReaders start after the daemons without apps, which hold none: their memory differs by the apps.
func (s *env) tokenReaders(ctx context.Context, o options, reads []string) ([]subject, error) {
	first, last, err := s.fillApps(ctx, o.apps)
	if err != nil {
		return nil, fmt.Errorf("making apps: %w", err)
	}
	settings := append(noBackgroundWork, `access = "apps"`, `audit_sync = "interval"`)
	p, err := s.startVaultd(ctx, readToken, s.url(daemon), o.profiled(readToken, settings)...)
	if err != nil {
		return nil, err
	}
	learnt, err := recordReads(ctx, p.address, reads, 1, o.bytes, last.Reveal())
	if err != nil {
		return nil, err
	}
	limited, err := s.startVaultd(ctx, readFlooded, s.url(daemon),
		append(settings, fmt.Sprintf("app_rate = %.1f", floodRate), "app_at_once = 16")...)
	if err != nil {
		return nil, err
	}
	return []subject{
		{readToken, o.at, func(ctx context.Context, n int, slice time.Duration) (figures, error) {
			return s.drive(ctx, slice, p, true, n, random(learnt))
		}},
		{readPaced, []int{1}, func(ctx context.Context, n int, slice time.Duration) (figures, error) {
			return s.drive(ctx, slice, limited, true, n, paced(random(learnt)))
		}},
		{readFlooded, []int{1}, func(ctx context.Context, n int, slice time.Duration) (figures, error) {
			stop := flood(ctx, limited.address, getRequest(reads[0], first.Reveal()))
			l, err := driveFor(ctx, slice, limited.address, n, paced(random(learnt)))
			if err = errors.Join(err, stop()); err != nil {
				return nil, err
			}
			return l.figures(), shipped(ctx, limited)
		}},
	}, nil
}

// paced keeps one reader far below the limit of its app.
func paced(next func() *exchange) func() *exchange {
	return func() *exchange { time.Sleep(time.Second / (floodRate / 2)); return next() }
}

// flood sends a request on many connections, each as soon as the one before is answered, until stop. It returns when
// the first was refused: the app then has used up its rate. stop fails if none was within half a minute, or if an
// answer is neither the value nor 429.
func flood(ctx context.Context, address string, request []byte) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var group errgroup.Group
	var mu sync.Mutex
	answers := map[int]int{}
	limited := make(chan struct{})
	for range floodConns {
		group.Go(func() error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			defer conn.Close()
			from := bufio.NewReader(conn)
			for ctx.Err() == nil {
				if _, err := conn.Write(request); err != nil {
					return err
				}
				answer, err := http.ReadResponse(from, nil)
				if err != nil {
					return err
				}
				if _, err := io.Copy(io.Discard, answer.Body); err != nil {
					return err
				}
				mu.Lock()
				answers[answer.StatusCode]++
				if answer.StatusCode == http.StatusTooManyRequests && answers[answer.StatusCode] == 1 {
					close(limited)
				}
				mu.Unlock()
			}
			return nil
		})
	}
	select {
	case <-limited:
	case <-time.After(30 * time.Second):
	case <-ctx.Done():
	}
	return func() error {
		cancel()
		err := group.Wait()
		refused := answers[http.StatusTooManyRequests]
		if refused == 0 || len(answers) > 2 {
			err = errors.Join(err, fmt.Errorf("the flood was answered %v", answers))
		}
		return err
	}
}
