package httpapi

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/vault"
)

// twoApps returns a world with two apps that read the same names.
func twoApps(t *testing.T, limits Limits) (g *gated, one, two access.Token) {
	t.Helper()
	one, two = access.NewToken(), access.NewToken()
	other := appWith(t, two)
	other.Name = "other-app"
	return newGated(t, func(p *Policy) { p.Limits = limits }, appWith(t, one), other), one, two
}

func TestRates(t *testing.T) {
	oneAMinute := Limit{Rate: 1.0 / 60}
	for _, c := range []struct {
		about     string
		limits    Limits
		of        string // in the metric
		others    int    // status of another app from another address meanwhile
		sameApp   int    // of the same app from another address
		sameHost  int    // of another app from the same address
		overUnix  int    // of the same app over a unix socket
		untouched int    // of a request that is refused for its name
	}{
		{about: "of an app", limits: Limits{App: oneAMinute}, of: "app_rate", others: 200, sameApp: 429, sameHost: 200,
			overUnix: 429, untouched: 403},
		{about: "of an address", limits: Limits{Address: oneAMinute}, of: "address_rate", others: 200, sameApp: 200,
			sameHost: 429, overUnix: 200, untouched: 429},
		{about: "in all", limits: Limits{Total: oneAMinute}, of: "total_rate", others: 429, sameApp: 429, sameHost: 429,
			overUnix: 429, untouched: 429},
	} {
		synctest.Test(t, func(t *testing.T) {
			g, one, two := twoApps(t, c.limits)
			three := access.NewToken()
			third := appWith(t, three)
			third.Name = "third-app"
			g.node.change(append(g.node.apps, third)...)
			read := func(options ...option) int { return g.get(t, "prod/app/x", options...).Code }
			want := func(what string, got, want int) {
				t.Helper()
				if got != want {
					t.Errorf("%s: %s: got status %d, want %d", c.about, what, got, want)
				}
			}
			want("first", read(vaultToken(one)), 200)
			began := time.Now()
			rec := g.get(t, "prod/app/x", vaultToken(one))
			wantStatus(t, rec, 429, "rate_limited")
			if got := rec.Header().Get("Retry-After"); got != "60" {
				t.Errorf("%s: got Retry-After %q, want 60", c.about, got)
			}
			if took := time.Since(began); took != refusalPause {
				t.Errorf("%s: refused after %v, want %v", c.about, took, refusalPause)
			}
			want("another app elsewhere", read(vaultToken(two), from("192.0.2.50:1")), c.others)
			want("the same app elsewhere", read(vaultToken(one), from("192.0.2.51:1")), c.sameApp)
			want("another app from the same address", read(vaultToken(three)), c.sameHost)
			want("over a unix socket", read(vaultToken(one), overUnix), c.overUnix)
			want("a name outside", g.get(t, "outside", vaultToken(one)).Code, c.untouched)
			if page := g.metrics(t); !strings.Contains(page, `vaultd_http_limited_total{limit="`+c.of+`"}`) {
				t.Errorf("%s: the metric does not count %s", c.about, c.of)
			}
			time.Sleep(time.Minute)
			want("a minute later", read(vaultToken(one)), 200)
		})
	}
}

// held is a read that is not answered before it is let go.
type held struct {
	begun   atomic.Int64
	release chan struct{}
}

func (h *held) get(ctx context.Context, name string, o vault.GetOptions) (*vault.Secret, error) {
	h.begun.Add(1)
	select {
	case <-h.release:
	case <-ctx.Done():
	}
	return &vault.Secret{Name: name, Version: 1, VersionID: versionID, Value: []byte("v"), CreatedAt: created}, nil
}

// One app's requests wait for one another, and not those of another app.
func TestRequestsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, one, two := twoApps(t, Limits{App: Limit{AtOnce: 3}, Address: Limit{AtOnce: 100}, Total: Limit{AtOnce: 100}})
		h := &held{release: make(chan struct{})}
		g.h = g.serve(getEndpoint(h.get))
		answers := make(chan *httptest.ResponseRecorder, 20)
		var all sync.WaitGroup
		read := func(token access.Token, n int) {
			for range n {
				all.Go(func() { answers <- g.get(t, "prod/app/x", vaultToken(token)) })
			}
			synctest.Wait()
		}
		read(one, 5)
		if got := h.begun.Load(); got != 3 {
			t.Errorf("got %d reads of one app, want 3", got)
		}
		read(two, 2)
		if got := h.begun.Load(); got != 5 {
			t.Errorf("got %d reads, want those of the other app too", got)
		}
		time.Sleep(turnWait)
		synctest.Wait()
		for range 2 {
			rec := <-answers
			wantStatus(t, rec, 429, "rate_limited")
			if rec.Header().Get("Retry-After") == "" {
				t.Error("the refusal does not say when to come again")
			}
		}
		read(one, 1)
		h.release <- struct{}{} // one of them, of either app
		h.release <- struct{}{}
		h.release <- struct{}{}
		synctest.Wait()
		close(h.release)
		all.Wait()
		close(answers)
		for rec := range answers {
			wantStatus(t, rec, 200, "")
		}
		l := g.api.guard.Load().limits
		if len(l.app.turns.open)+len(l.address.turns.open)+len(l.total.turns.open) > 0 {
			t.Error("turns of requests that are over take memory")
		}
	})
}

// Requests without an app count for their address and in all.
func TestLimitsWithoutAnApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGated(t, func(p *Policy) {
			p.Apps, p.Limits = false, Limits{Address: Limit{AtOnce: 1}, App: Limit{Rate: 1}}
		})
		h := &held{release: make(chan struct{})}
		g.h = g.serve(getEndpoint(h.get))
		var first sync.WaitGroup
		first.Go(func() { wantStatus(t, g.get(t, "a"), 200, "") })
		synctest.Wait()
		wantStatus(t, g.get(t, "a"), 429, "rate_limited")
		close(h.release)
		first.Wait()
		for range 5 {
			wantStatus(t, g.get(t, "a"), 200, "")
		}
	})
}

// A reload that leaves the limits as they are leaves what was spent, too. The health handler has no limits.
func TestLimitsOverAReload(t *testing.T) {
	g, one, _ := twoApps(t, Limits{App: Limit{Rate: 0.001}, Total: Limit{Rate: 1e6}})
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(one)), 200, "")
	p := g.api.guard.Load().policy
	g.api.SetPolicy(p)
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(one)), 429, "rate_limited")
	p.Limits.Total = Limit{Rate: 0.001}
	p.Limits.App = Limit{}
	g.api.SetPolicy(p)
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(one)), 200, "")
	for range 5 {
		if code := ask(t, g.api.HealthHandler(), "GET", "/healthz", "").Code; code != 200 {
			t.Errorf("/healthz: got status %d", code)
		}
	}
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(one)), 429, "rate_limited")
}

func TestTheMemoryOfLimitsIsBounded(t *testing.T) {
	l := newLimits(Limits{App: Limit{Rate: 1, AtOnce: 1}, Address: Limit{Rate: 1, AtOnce: 1}}, nil)
	addr, now := netip.MustParseAddr("10.0.0.0"), time.Unix(1000, 0)
	for i := range limitedClients + 1000 {
		addr = addr.Next()
		c := client{addr: addr}
		if err := l.takeRate(t.Context(), c, now); err != nil {
			t.Fatal(err)
		}
		leave, err := l.enter(t.Context(), c, fmt.Sprint("app-", i), now)
		if err != nil {
			t.Fatal(err)
		}
		leave()
	}
	if a, b := l.app.rate.buckets.Len(), l.address.rate.buckets.Len(); a != limitedClients || b != limitedClients {
		t.Errorf("got %d and %d buckets, want %d", a, b, limitedClients)
	}
	if a, b := len(l.app.turns.open), len(l.address.turns.open); a+b != 0 {
		t.Errorf("got %d and %d turns, want none", a, b)
	}
}

// The metrics name a bounded number of apps, and no secret.
func TestMetricsOfApps(t *testing.T) {
	token := access.NewToken()
	soon, later := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	app := appWith(t, token)
	app.Credentials[0].ExpiresAt = &later
	app.Credentials = append(app.Credentials, access.Credential{ID: uuid.New(), Kind: access.ByToken, ExpiresAt: &soon})
	g := newGated(t, nil, app)
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")
	wantStatus(t, g.get(t, "other", vaultToken(token)), 403, "not_allowed")
	m := g.api.metrics
	for i := range appsInMetrics + 10 {
		m.appReads.of(fmt.Sprint("app-", i)).Inc()
	}
	page := g.metrics(t)
	if got := strings.Count(page, "\nvaultd_app_reads_total{"); got != appsInMetrics+1 {
		t.Errorf("got %d series, want %d", got, appsInMetrics+1)
	}
	for _, want := range []string{
		`vaultd_app_reads_total{app="billing"} 1`, `vaultd_app_reads_total{app="other"} 11`,
		`vaultd_access_denied_total{reason="policy"} 1`, "vaultd_access_apps 1", "vaultd_access_credentials 2",
		fmt.Sprintf(`vaultd_app_credential_expiry_timestamp_seconds{app="billing"} %v`, float64(soon.Unix())),
	} {
		if !strings.Contains(page, "\n"+want+"\n") {
			t.Errorf("the metrics lack %s: %s", want, page)
		}
	}
	if strings.Contains(page, "prod/app") {
		t.Error("the metrics name a secret")
	}
}

func (g *gated) metrics(t *testing.T) string {
	t.Helper()
	return ask(t, g.api.HealthHandler(), "GET", "/metrics", "").Body.String()
}
