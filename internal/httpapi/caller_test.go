package httpapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/listen"
	"github.com/hyperiondb/vault/internal/vault"
)

// appNode stands for the local node: it has apps, an epoch that each change replaces, and the secret prod/app/x.
type appNode struct {
	mu        sync.Mutex
	apps      []access.App
	epoch     uuid.UUID
	away      error
	snapshots int
	epochs    int
	opened    int    // values
	beforeGet func() // called before a read takes its row
}

func (n *appNode) ReadSnapshot(context.Context) (access.Snapshot, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.snapshots++
	return access.Snapshot{Epoch: n.epoch, Apps: n.apps}, n.away
}

func (n *appNode) ReadEpoch(context.Context) (uuid.UUID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.epochs++
	return n.epoch, n.away
}

// change replaces the apps and the epoch, as one transaction of the database does.
func (n *appNode) change(apps ...access.App) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.apps, n.epoch = apps, uuid.New()
}

func (n *appNode) get(ctx context.Context, name string, o vault.GetOptions) (*vault.Secret, error) {
	if n.beforeGet != nil {
		n.beforeGet()
	}
	n.mu.Lock()
	epoch := n.epoch
	n.mu.Unlock()
	if o.Permit != nil {
		if err := o.Permit(ctx, epoch); err != nil {
			return nil, fmt.Errorf("reading secret %q: %w", name, err)
		}
	}
	if name != "prod/app/x" {
		return nil, vault.ErrNotFound
	}
	n.mu.Lock()
	n.opened++
	n.mu.Unlock()
	return &vault.Secret{Name: name, Version: 1, VersionID: versionID, Value: []byte("v"), CreatedAt: created}, nil
}

// gated is a world with apps.
type gated struct {
	*world
	*ledger
	node *appNode
	h    http.Handler
}

func newGated(t *testing.T, policy func(*Policy), apps ...access.App) *gated {
	t.Helper()
	w, l := newAuditedWorld(t)
	g := &gated{world: w, ledger: l, node: &appNode{}}
	g.node.change(apps...)
	w.api.apps.source = g.node
	p := w.api.guard.Load().policy
	p.Apps = true
	if policy != nil {
		policy(&p)
	}
	w.api.SetPolicy(p)
	g.h = w.serve(getEndpoint(g.node.get))
	return g
}

func (g *gated) get(t *testing.T, name string, options ...option) *httptest.ResponseRecorder {
	t.Helper()
	return ask(t, g.h, "GET", "/v1/secrets/"+name, "", append(options, header("X-Request-Id", "r1"))...)
}

func ruleFor(t testing.TB, text string, actions ...access.Action) access.Rule {
	t.Helper()
	p, err := access.ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return access.Rule{Pattern: p, Actions: append(actions, access.Read)}
}

func credentialOf(t access.Token) access.Credential {
	return access.Credential{ID: t.ID(), Kind: access.ByToken, TokenSHA256: t.Fingerprint()}
}

func appWith(t testing.TB, token access.Token) access.App {
	return access.App{Name: "billing", Rules: []access.Rule{ruleFor(t, "prod/app/*")},
		Credentials: []access.Credential{credentialOf(token)}}
}

func vaultToken(t access.Token) option { return header("X-Vault-Token", t.Reveal()) }

func bearerToken(t access.Token) option { return header("Authorization", "Bearer "+t.Reveal()) }

// Which clients read prod/app/x, and what the log says of the others. Every refusal has the same bytes.
func TestTheCallerOfARequest(t *testing.T) {
	good, expired, revoked, bound, other := access.NewToken(), access.NewToken(), access.NewToken(), access.NewToken(),
		access.NewToken()
	past := time.Now().Add(-time.Second)
	app := appWith(t, good)
	app.Credentials = append(app.Credentials,
		access.Credential{ID: expired.ID(), Kind: access.ByToken, TokenSHA256: expired.Fingerprint(), ExpiresAt: &past},
		access.Credential{ID: revoked.ID(), Kind: access.ByToken, TokenSHA256: revoked.Fingerprint(), RevokedAt: &past},
		access.Credential{ID: bound.ID(), Kind: access.ByToken, TokenSHA256: bound.Fingerprint(),
			Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}},
		access.Credential{ID: uuid.New(), Kind: access.ByUnix, Match: "uid:1001"})
	off := access.App{Name: "off", DisabledAt: &past, Rules: []access.Rule{ruleFor(t, "*")},
		Credentials: []access.Credential{credentialOf(other)}}
	g := newGated(t, nil, app, off)
	hash := good.Fingerprint()
	text := good.Reveal()
	var refusal string
	for _, c := range []struct {
		about   string
		name    string
		options []option
		status  int
		reason  string
		app     string
	}{
		{"a token", "prod/app/x", []option{vaultToken(good)}, 200, "", "billing"},
		{"the same as a bearer", "prod/app/x", []option{bearerToken(good)}, 200, "", "billing"},
		{"both", "prod/app/x", []option{vaultToken(good), bearerToken(good)}, 200, "", "billing"},
		{"both, and different", "prod/app/x", []option{vaultToken(good), bearerToken(bound)}, 400, "bad_request", ""},
		{"the same header twice", "prod/app/x", []option{vaultToken(good), vaultToken(good)}, 400, "bad_request", ""},
		{"another scheme beside it", "prod/app/x", []option{vaultToken(good), header("Authorization", "Basic eDp5")}, 200, "",
			"billing"},
		{"a bearer without the word", "prod/app/x", []option{header("Authorization", text)}, 200, "", "billing"},
		{"absent", "prod/app/y", []option{vaultToken(good)}, 404, "not_found", "billing"},
		{"outside", "prod/app", []option{vaultToken(good)}, 403, "policy", "billing"},
		{"outside", "prod/apple/x", []option{vaultToken(good)}, 403, "policy", "billing"},
		{"outside", "PROD/app/x", []option{vaultToken(good)}, 403, "policy", "billing"},
		{"a path that leads outside", "prod/app%2F..%2Fother", []option{vaultToken(good)}, 400, "bad_request", ""},
		{"no credential", "prod/app/x", nil, 403, "no_identity", ""},
		{"no token", "prod/app/x", []option{header("X-Vault-Token", "")}, 403, "bad_token", ""},
		{"cut", "prod/app/x", []option{header("X-Vault-Token", text[:len(text)-1])}, 403, "bad_token", ""},
		{"of another vault", "prod/app/x", []option{vaultToken(access.NewToken())}, 403, "bad_token", ""},
		{"the stored hash", "prod/app/x", []option{header("X-Vault-Token", fmt.Sprintf("%x", hash))}, 403, "bad_token", ""},
		{"an admin token", "prod/app/x", []option{header("Authorization", "Bearer "+vault.NewToken().Reveal())}, 403,
			"bad_token", ""},
		{"expired", "prod/app/x", []option{vaultToken(expired)}, 403, "expired", "billing"},
		{"revoked", "prod/app/x", []option{vaultToken(revoked)}, 403, "revoked", "billing"},
		{"of a disabled app", "prod/app/x", []option{vaultToken(other)}, 403, "disabled", "off"},
		{"from elsewhere", "prod/app/x", []option{vaultToken(bound)}, 403, "network", "billing"},
		{"from its network", "prod/app/x", []option{vaultToken(bound), from("192.0.2.7:1")}, 200, "", "billing"},
		{"a user", "prod/app/x", []option{overUnix, user(1001)}, 200, "", "billing"},
		{"another user", "prod/app/x", []option{overUnix, user(1002)}, 403, "no_identity", ""},
		{"a user of another namespace", "prod/app/x", []option{overUnix, user(65534)}, 403, "no_identity", ""},
		{"a bad token of a good user", "prod/app/x", []option{overUnix, user(1001), vaultToken(access.NewToken())}, 403,
			"bad_token", ""},
		{"bound to a network, over a unix socket", "prod/app/x", []option{overUnix, vaultToken(bound)}, 403, "network",
			"billing"},
	} {
		g.events = nil
		g.api.failures = newLimiter[netip.Prefix](1, 1)
		rec := g.get(t, c.name, c.options...)
		if rec.Code != c.status {
			t.Errorf("%s: got status %d (%s), want %d", c.about, rec.Code, rec.Body, c.status)
			continue
		}
		e := g.events[0]
		if got, _ := e.Detail["reason"].(string); got != c.reason {
			t.Errorf("%s: got reason %q, want %q", c.about, got, c.reason)
		}
		if got := e.Actor == "app:"+c.app; got != (c.app != "") {
			t.Errorf("%s: got actor %q, want app %q", c.about, e.Actor, c.app)
		}
		if c.status != 403 {
			continue
		}
		if refusal == "" {
			refusal = rec.Body.String()
		}
		if rec.Body.String() != refusal || e.Outcome != audit.Denied {
			t.Errorf("%s: got %s and outcome %q, want %s", c.about, rec.Body, e.Outcome, refusal)
		}
	}
	shown := g.log.String() + fmt.Sprint(g.events)
	for _, token := range []access.Token{good, expired, revoked, bound, other} {
		if bytes.Contains([]byte(shown), []byte(token.Reveal()[10:40])) {
			t.Error("a token is in the log or in an event")
		}
	}
}

func user(uid uint32) option {
	return func(r *http.Request) {
		*r = *r.WithContext(listen.WithPeer(r.Context(), &listen.Peer{UID: uid, Local: true}))
	}
}

func TestTheEventOfAnApp(t *testing.T) {
	token := access.NewToken()
	g := newGated(t, nil, appWith(t, token))
	g.get(t, "prod/app/x", vaultToken(token))
	want := audit.Event{Actor: "app:billing", Client: "192.0.2.1", Action: audit.Read, Secret: "prod/app/x", Version: 1,
		Outcome: audit.OK, RequestID: "r1",
		Detail: map[string]any{"credential": token.ID().String(), "via": "token", "api": "native"}}
	if diff := cmp.Diff(want, g.events[0]); diff != "" {
		t.Errorf("the event differs (-want +got):\n%s", diff)
	}
}

// In the mode "allowlist" a client without a credential reads as before, and one with a bad credential does not.
func TestAModeWithoutApps(t *testing.T) {
	token := access.NewToken()
	byAddress := func(p *Policy) { p.Apps = false }
	g := newGated(t, byAddress, appWith(t, token))
	wantStatus(t, g.get(t, "prod/app/x"), 200, "")
	if e := g.events[0]; e.Actor != "client:192.0.2.1" || e.Detail != nil {
		t.Errorf("got event %+v, want it as without apps", e)
	}
	wantStatus(t, g.get(t, "prod/app/x", overUnix, user(1001)), 200, "")
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(access.NewToken())), 403, "not_allowed")
	wantStatus(t, g.get(t, "other", vaultToken(token)), 403, "not_allowed")
	wantStatus(t, g.get(t, "other"), 404, "not_found")
}

func TestTheAnonymousApp(t *testing.T) {
	g := newGated(t, nil, access.App{Name: access.Anonymous, Rules: []access.Rule{ruleFor(t, "prod/app/*")}})
	wantStatus(t, g.get(t, "prod/app/x"), 200, "")
	wantStatus(t, g.get(t, "other"), 403, "not_allowed")
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(access.NewToken())), 403, "not_allowed")
	want := map[string]any{"via": "none", "api": "native"}
	if e := g.events[0]; e.Actor != "app:anonymous" || !cmp.Equal(e.Detail, want) {
		t.Errorf("got event %+v", e)
	}
}

// A change between the judgement and the read is seen before the value is opened.
func TestAChangeIsSeenWithTheRead(t *testing.T) {
	token := access.NewToken()
	g := newGated(t, nil, appWith(t, token))
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")
	g.node.beforeGet = func() { g.node.change() }
	opened := g.node.opened
	for _, name := range []string{"prod/app/x", "prod/app/absent"} {
		g.node.change(appWith(t, token))
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 403, "not_allowed")
		if e := g.events[len(g.events)-1]; e.Detail["reason"] != "bad_token" || g.node.opened != opened {
			t.Errorf("%s: got event %+v and %d values opened", name, e, g.node.opened-opened)
		}
	}
	// The other way round, the read goes on.
	g.node.beforeGet = func() { g.node.change(appWith(t, token), access.App{Name: "another"}) }
	g.node.change(appWith(t, token))
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")
}

// While 1,000 changes are made, no read that begins after a revocation was made is answered with the value.
func TestNoValueAfterARevocation(t *testing.T) {
	token := access.NewToken()
	allowed, revoked := appWith(t, token), appWith(t, token)
	now := time.Now()
	revoked.Credentials = []access.Credential{credentialOf(token)}
	revoked.Credentials[0].RevokedAt = &now
	g := newGated(t, nil, allowed)
	g.api.recorder = nil
	g.api.failures = newLimiter[netip.Prefix](1e9, 1e9)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var answered, refused atomic.Int64
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if g.get(t, "prod/app/x", vaultToken(token)).Code == 200 {
					answered.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	for i := range 1000 {
		g.node.change(revoked)
		if i%50 == 0 {
			// The question before this 403 may wait for askEvery.
			if code := g.get(t, "prod/app/x", vaultToken(token)).Code; code != 403 {
				t.Errorf("change %d: got status %d after the revocation", i, code)
			}
		}
		g.node.change(allowed)
		if code := g.get(t, "prod/app/x", vaultToken(token)).Code; code != 200 {
			t.Errorf("change %d: got status %d after it was allowed again", i, code)
		}
	}
	close(stop)
	readers.Wait()
	if answered.Load() == 0 {
		t.Error("no read was answered meanwhile")
	}
	t.Logf("%d reads answered and %d refused meanwhile; %d snapshots", answered.Load(), refused.Load(), g.node.snapshots)
}

// A new app works with its first request, and a flood of refusals asks the node ten times a second.
func TestTheNodeIsAskedBeforeARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := access.NewToken()
		g := newGated(t, nil)
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 403, "not_allowed")
		g.node.change(appWith(t, token))
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")

		begin, asked, snapshots := time.Now(), g.node.epochs, g.node.snapshots
		var flood sync.WaitGroup
		for range 50 {
			flood.Go(func() {
				for time.Since(begin) < 2*time.Second {
					if code := g.get(t, "other", vaultToken(token)).Code; code != 403 {
						t.Errorf("got status %d", code)
					}
				}
			})
		}
		flood.Wait()
		if got := g.node.epochs - asked; got > 22 || got < 10 || g.node.snapshots != snapshots {
			t.Errorf("got %d questions and %d snapshots in two seconds", got, g.node.snapshots-snapshots)
		}
	})
}

// Without a copy of the apps nothing is judged; with one, a node that is away does not end what it allows.
func TestANodeThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := access.NewToken()
		g := newGated(t, nil, appWith(t, token))
		g.node.away = vault.ErrUnavailable
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 503, "unavailable")
		if err := g.api.checkApps(t.Context()); err == nil {
			t.Error("ready without a copy of the apps")
		}
		g.node.away = nil
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")
		g.node.away = vault.ErrUnavailable
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")
		wantStatus(t, g.get(t, "other", vaultToken(token)), 503, "unavailable")
		if err := g.api.checkApps(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A pool that reaches an older server does not bring back what was revoked.
func TestAnOlderCopyIsNotUsed(t *testing.T) {
	token := access.NewToken()
	g := newGated(t, nil, appWith(t, token))
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")
	before := access.Snapshot{Epoch: g.node.epoch, Apps: g.node.apps}
	g.node.change(appWith(t, token), access.App{Name: "another"})
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")
	g.node.change(appWith(t, token), access.App{Name: "a third"})
	g.api.apps.source = older{g.node, before}
	wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 503, "unavailable")
}

type older struct {
	*appNode
	snapshot access.Snapshot
}

func (o older) ReadSnapshot(context.Context) (access.Snapshot, error) { return o.snapshot, nil }

// A credential that only an older copy of the apps refuses is good, also from an address that has used up its failures,
// and is not counted; neither is one that could not be judged by the newest.
func TestACredentialIsCountedAfterTheNewestCopyRefusedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token, later := access.NewToken(), access.NewToken()
		g := newGated(t, nil, appWith(t, token))
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")
		for range failuresAtOnce {
			wantStatus(t, g.get(t, "prod/app/x", header("X-Vault-Token", "hvr_nothing")), 403, "not_allowed")
		}
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(access.NewToken())), 429, "rate_limited")
		g.node.change(appWith(t, later))
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(later)), 200, "")

		other := from("192.0.2.8:1")
		g.node.away = vault.ErrUnavailable
		for range failuresAtOnce + 1 {
			wantStatus(t, g.get(t, "prod/app/x", vaultToken(token), other), 503, "unavailable")
		}
		g.node.away = nil
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(token), other), 403, "not_allowed")
	})
}

// An address that presents many bad credentials has to wait; a good one from the same address does not.
func TestFailedCredentialsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := access.NewToken()
		g := newGated(t, nil, appWith(t, token))
		for i := range 60 {
			want, code := 403, "not_allowed"
			if i >= failuresAtOnce {
				want, code = 429, "rate_limited"
			}
			bad := header("X-Vault-Token", "hvr_nothing")
			rec := g.get(t, "prod/app/x", bad)
			wantStatus(t, rec, want, code)
			if got := rec.Header().Get("Retry-After"); (got == "1") != (want == 429) {
				t.Errorf("attempt %d: got Retry-After %q", i, got)
			}
		}
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(access.NewToken())), 429, "rate_limited")
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(token)), 200, "")
		wantStatus(t, g.get(t, "other", vaultToken(token)), 403, "not_allowed")
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(access.NewToken()), from("192.0.2.8:1")), 403, "not_allowed")
		time.Sleep(time.Second)
		wantStatus(t, g.get(t, "prod/app/x", vaultToken(access.NewToken())), 403, "not_allowed")
	})
}

// authorityOf makes an authority, and certificates of it.
type authorityOf struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authorityOf {
	t.Helper()
	return authorityOf{}.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
}

// sign makes a certificate, signed by itself if there is no authority.
func (a authorityOf) sign(t *testing.T, template *x509.Certificate) authorityOf {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore = big.NewInt(1), time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authorityOf{cert, key}
}

// shown is a connection whose handshake has verified the certificate.
func (a authorityOf) shown(client authorityOf) option {
	return func(r *http.Request) {
		chains := [][]*x509.Certificate{{client.cert, a.cert}}
		*r = *r.WithContext(listen.WithPeer(r.Context(), &listen.Peer{
			Certificates: func() [][]*x509.Certificate { return chains },
		}))
	}
}

func TestCertificates(t *testing.T) {
	ca, other := newAuthority(t, "ours"), newAuthority(t, "others")
	uri := func(texts ...string) (all []*url.URL) {
		for _, text := range texts {
			u, _ := url.Parse(text)
			all = append(all, u)
		}
		return all
	}
	app := access.App{Name: "billing", Rules: []access.Rule{ruleFor(t, "prod/app/*")}}
	for _, match := range []string{"spiffe://example.org/billing", "dns:billing.example.org", "cn:billing"} {
		app.Credentials = append(app.Credentials, access.Credential{ID: uuid.New(), Kind: access.ByCert, Match: match})
	}
	second := access.App{Name: "second", Credentials: []access.Credential{
		{ID: uuid.New(), Kind: access.ByCert, Match: "dns:second.example.org"}}}
	token := access.NewToken()
	third := access.App{Name: "third", Rules: app.Rules, Credentials: []access.Credential{credentialOf(token)}}
	g := newGated(t, func(p *Policy) {
		p.ClientCAs = []*x509.Certificate{ca.cert}
		p.TrustedProxies = mustNetworks(t, "192.0.2.99")
	}, app, second, third)
	for _, c := range []struct {
		about  string
		by     authorityOf
		cert   x509.Certificate
		more   []option
		status int
		reason string
	}{
		{"a SPIFFE id", ca, x509.Certificate{URIs: uri("spiffe://example.org/billing")}, nil, 200, ""},
		{"two SPIFFE ids", ca, x509.Certificate{URIs: uri("spiffe://example.org/billing", "spiffe://example.org/x")}, nil,
			403, "no_identity"},
		{"a DNS name", ca, x509.Certificate{DNSNames: []string{"x.example.org", "Billing.example.org"}}, nil, 200, ""},
		{"DNS names of two apps", ca, x509.Certificate{DNSNames: []string{"second.example.org", "billing.example.org"}}, nil,
			403, "no_identity"},
		{"a common name", ca, x509.Certificate{Subject: pkix.Name{CommonName: "billing"}}, nil, 200, ""},
		{"a common name beside another", ca, x509.Certificate{Subject: pkix.Name{CommonName: "billing"},
			EmailAddresses: []string{"a@example.org"}}, nil, 403, "no_identity"},
		{"of no app", ca, x509.Certificate{DNSNames: []string{"x.example.org"}}, nil, 403, "no_identity"},
		{"of an authority that is not in force", other, x509.Certificate{DNSNames: []string{"billing.example.org"}}, nil, 403,
			"no_identity"},
		{"expired since the handshake", ca, x509.Certificate{DNSNames: []string{"billing.example.org"},
			NotAfter: time.Now().Add(-time.Minute)}, nil, 403, "expired"},
		{"of a proxy, for another client", ca, x509.Certificate{DNSNames: []string{"billing.example.org"}},
			[]option{from("192.0.2.99:1"), header("X-Forwarded-For", "192.0.2.1")}, 403, "no_identity"},
		{"of a proxy, for itself", ca, x509.Certificate{DNSNames: []string{"billing.example.org"}},
			[]option{from("192.0.2.99:1")}, 200, ""},
		{"with a bad token", ca, x509.Certificate{DNSNames: []string{"billing.example.org"}},
			[]option{vaultToken(access.NewToken())}, 403, "bad_token"},
		{"with a token of another app", ca, x509.Certificate{DNSNames: []string{"second.example.org"}},
			[]option{vaultToken(token)}, 200, ""},
	} {
		g.events = nil
		g.api.failures = newLimiter[netip.Prefix](1, 1)
		rec := g.get(t, "prod/app/x", append(c.more, c.by.shown(c.by.sign(t, &c.cert)))...)
		if rec.Code != c.status {
			t.Errorf("%s: got status %d (%s), want %d", c.about, rec.Code, rec.Body, c.status)
			continue
		}
		if got, _ := g.events[0].Detail["reason"].(string); got != c.reason {
			t.Errorf("%s: got reason %q, want %q", c.about, got, c.reason)
		}
	}
}

// A listing is judged by what its names begin with, be there any or not; another endpoint by a valid credential alone.
func TestListingsAndValidCredentials(t *testing.T) {
	lists, reads := access.NewToken(), access.NewToken()
	app := access.App{Name: "lists", Rules: []access.Rule{ruleFor(t, "prod/app/*", access.List)},
		Credentials: []access.Credential{credentialOf(lists)}}
	g := newGated(t, nil, app, appWith(t, reads))
	list := &endpoint{name: "GET /list", action: "list", access: access.List, api: "kv2",
		do: func(_ context.Context, q *request) (answer, error) {
			return jsonAnswer(http.StatusOK, map[string]string{"folder": q.folder}), nil
		}}
	g.h = g.serve(list)
	for folder, want := range map[string]int{"": 200, "prod/": 200, "prod/app/": 200, "prod/app/absent/": 200,
		"prod/apple/": 403, "stage/": 403} {
		if got := g.get(t, folder, vaultToken(lists)).Code; got != want {
			t.Errorf("listing %q: got status %d, want %d", folder, got, want)
		}
		if got := g.get(t, folder, vaultToken(reads)).Code; got != 403 {
			t.Errorf("listing %q without a rule to list: got status %d, want 403", folder, got)
		}
	}
	if e := g.events[len(g.events)-1]; e.Detail["api"] != "kv2" {
		t.Errorf("got event %+v, want the interface in it", e)
	}
	g.h = g.serve(&endpoint{name: "GET /self", identified: true, do: func(context.Context, *request) (answer, error) {
		return jsonAnswer(http.StatusOK, nil), nil
	}})
	wantStatus(t, g.get(t, "x", vaultToken(reads)), 200, "")
	wantStatus(t, g.get(t, "x", vaultToken(access.NewToken())), 403, "not_allowed")
	wantStatus(t, g.get(t, "x"), 403, "not_allowed")
}
