package httpapi

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/listen"
)

// systemdReads does what systemd does for LoadCredential=ID:SOCKET: it connects from an address that names the unit and
// the credential, and reads to the end.
func systemdReads(socket, name string) ([]byte, error) {
	c, err := net.DialUnix("unix", &net.UnixAddr{Name: name}, &net.UnixAddr{Name: socket})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	return io.ReadAll(c)
}

// systemdReadsAs is the same in a process of another user, as far as the kernel tells the socket.
func systemdReadsAs(uid int, socket, name string) (got []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		keep := ^uintptr(0)
		if _, _, failed := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); failed != 0 {
			err = failed
			return
		}
		got, err = systemdReads(socket, name)
	}()
	<-done
	return got, err
}

const unitName = "@adf9d86b6eda275e/unit/billing.service/db"

// units is a gated world that gives systemd credentials. The tests' own user stands for root.
func units(t *testing.T, policy func(*Policy), apps ...access.App) *gated {
	t.Helper()
	g := newGated(t, func(p *Policy) {
		p.Credentials = map[string]string{"billing.service:db": "prod/app/x", "billing.service:gone": "prod/app/gone",
			"billing.service:other": "prod/other", "unknown.service:db": "prod/app/x"}
		if policy != nil {
			policy(p)
		}
	}, apps...)
	g.api.systemd = uint32(os.Getuid())
	g.api.credentials = g.api.credentialHandler(g.node.get)
	return g
}

// ask connects once with read.
func (g *gated) ask(t *testing.T, read func(socket string) ([]byte, error)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "unit")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "credentials")
	listeners, err := listen.Open("unix:"+socket, 0o666)
	if err == nil {
		err = os.Chmod(dir, 0o755) // another user connects, too
	}
	if err != nil {
		t.Fatal(err)
	}
	s := listen.NewOneAnswer(listeners[0], g.api.AnswerCredential)
	served := make(chan struct{})
	go func() { s.Serve(); close(served) }()
	got, err := read(socket)
	if err != nil {
		t.Errorf("reading: %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("shutting down: %v", err)
	}
	<-served
	return string(got)
}

func (g *gated) askFor(t *testing.T, name string) string {
	t.Helper()
	return g.ask(t, func(socket string) ([]byte, error) { return systemdReads(socket, name) })
}

func unitApp(t testing.TB) access.App {
	return access.App{Name: "billing", Rules: []access.Rule{ruleFor(t, "prod/app/*")},
		Credentials: []access.Credential{{ID: uuid.New(), Kind: access.ByUnix, Match: "unit:billing.service"}}}
}

func TestAUnitGetsItsCredential(t *testing.T) {
	app := unitApp(t)
	g := units(t, nil, app)
	if got := g.askFor(t, unitName); got != "v" {
		t.Errorf("got %q, want the value and nothing else", got)
	}
	g.events[0].RequestID = ""
	want := audit.Event{Actor: "app:billing", Action: audit.Read, Secret: "prod/app/x", Version: 1, Outcome: audit.OK,
		Client: "unix", Detail: map[string]any{"credential": app.Credentials[0].ID.String(), "via": "unix", "api": "cred",
			"unit": "billing.service", "unit_credential": "db"}}
	want.Client = g.events[0].Client // a unix socket has no address
	if diff := cmp.Diff([]audit.Event{want}, g.events); diff != "" {
		t.Errorf("the events differ (-want +got):\n%s", diff)
	}
	// systemd may ask several times for one credential.
	if got := g.askFor(t, unitName); got != "v" || len(g.events) != 2 {
		t.Errorf("got %q and %d events the second time", got, len(g.events))
	}
}

// Every refusal is nothing on the socket, an error in the log and an event.
func TestEveryRefusalOfACredentialIsEmpty(t *testing.T) {
	past := time.Now().Add(-time.Second)
	ended := func(change func(*access.App)) []access.App {
		app := unitApp(t)
		change(&app)
		return []access.App{app}
	}
	for _, c := range []struct {
		about  string
		name   string
		apps   []access.App
		set    func(*gated)
		reason string
		secret string
	}{
		{about: "a name without a unit", name: "@adf9d86b6eda275e/db", reason: "no_identity"},
		{about: "of a user's unit", name: "@a/user-unit/billing.service/db", reason: "no_identity"},
		{about: "without a random part", name: "@/unit/billing.service/db", reason: "no_identity"},
		{about: "more parts", name: unitName + "/x", reason: "no_identity"},
		{about: "no unit's name", name: "@a/unit/billing/db", reason: "no_identity"},
		{about: "no ID", name: "@a/unit/billing.service/", reason: "no_identity"},
		{about: "not in the configuration", name: "@a/unit/billing.service/none", reason: "policy"},
		{about: "another unit's ID", name: "@a/unit/other.service/db", reason: "policy"},
		{about: "outside the app's rules", name: "@a/unit/billing.service/other", reason: "policy", secret: "prod/other"},
		{about: "absent", name: "@a/unit/billing.service/gone", reason: "not_found", secret: "prod/app/gone"},
		{about: "no app", name: "@a/unit/unknown.service/db", reason: "no_identity", secret: "prod/app/x"},
		{about: "revoked", name: unitName, apps: ended(func(a *access.App) { a.Credentials[0].RevokedAt = &past }),
			reason: "revoked", secret: "prod/app/x"},
		{about: "expired", name: unitName, apps: ended(func(a *access.App) { a.Credentials[0].ExpiresAt = &past }),
			reason: "expired", secret: "prod/app/x"},
		{about: "disabled", name: unitName, apps: ended(func(a *access.App) { a.DisabledAt = &past }), reason: "disabled",
			secret: "prod/app/x"},
		{about: "revoked while it is read", name: unitName, reason: "revoked", secret: "prod/app/x", set: func(g *gated) {
			g.node.beforeGet = func() { g.node.change(ended(func(a *access.App) { a.Credentials[0].RevokedAt = &past })...) }
		}},
		{about: "no node", name: unitName, reason: "internal", secret: "prod/app/x",
			set: func(g *gated) { g.node.away = errors.New("away") }},
		{about: "too many requests", name: unitName, reason: "rate_limited", secret: "prod/app/x", set: func(g *gated) {
			p := g.api.guard.Load().policy
			p.Limits.App = Limit{Rate: 0.0001}
			g.api.SetPolicy(p)
			g.askFor(t, unitName)
			g.events = nil
		}},
		{about: "not systemd's user", name: unitName, reason: "no_identity",
			set: func(g *gated) { g.api.systemd = uint32(os.Getuid()) + 1 }},
	} {
		apps := c.apps
		if apps == nil {
			apps = []access.App{unitApp(t)}
		}
		g := units(t, nil, apps...)
		if c.set != nil {
			c.set(g)
		}
		if got := g.askFor(t, c.name); got != "" {
			t.Errorf("%s: got %q, want nothing", c.about, got)
		}
		if len(g.events) != 1 {
			t.Errorf("%s: got %d events, want 1", c.about, len(g.events))
			continue
		}
		e := g.events[0]
		if e.Outcome == audit.OK || e.Detail["reason"] != c.reason || e.Secret != c.secret || e.Detail["api"] != "cred" {
			t.Errorf("%s: got event %+v, want reason %q and secret %q", c.about, e, c.reason, c.secret)
		}
		if !strings.Contains(g.log.String(), `"level":"ERROR","msg":"request"`) {
			t.Errorf("%s: got the log %s, want an error", c.about, g.log)
		}
	}
}

// What cannot be put on record is not given.
func TestACredentialThatIsNotOnRecordIsEmpty(t *testing.T) {
	g := units(t, nil, unitApp(t))
	g.ledger.broken = audit.ErrUnrecorded
	if got := g.askFor(t, unitName); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}

// Only root is systemd, and a process can name any unit.
func TestOnlySystemdIsBelieved(t *testing.T) {
	g := units(t, nil, unitApp(t))
	as := func(uid int) string {
		return g.ask(t, func(socket string) ([]byte, error) { return systemdReadsAs(uid, socket, unitName) })
	}
	if got := as(os.Getuid()); got != "v" {
		t.Errorf("got %q as the trusted user", got)
	}
	if os.Getuid() != 0 {
		return // only root can be another user
	}
	for _, uid := range []int{overflowUID, 1} {
		g.events = nil
		if got := as(uid); got != "" || g.events[0].Detail["reason"] != "no_identity" || g.events[0].Detail["unit"] != nil {
			t.Errorf("user %d: got %q and event %+v, want a refusal that names no unit", uid, got, g.events)
		}
	}
}

// Without access = "apps" the configuration alone decides about a unit that no app has. One that an app has is judged.
func TestCredentialsByAllowlist(t *testing.T) {
	g := units(t, func(p *Policy) { p.Apps = false }, unitApp(t))
	if got := g.askFor(t, "@a/unit/unknown.service/db"); got != "v" || g.events[0].Actor != "client:unix" {
		t.Errorf("got %q and event %+v", got, g.events[0])
	}
	if got := g.askFor(t, "@a/unit/billing.service/other"); got != "" {
		t.Errorf("got %q for a secret that the unit's app may not read", got)
	}
}

func TestAnAPIBelievesRootAlone(t *testing.T) {
	if got := newWorld(t).api.systemd; got != 0 {
		t.Errorf("an API believes user %d", got)
	}
	g := units(t, nil, unitApp(t))
	g.api.AnswerCredential(t.Context(), listen.Peer{Name: unitName}, io.Discard) // a system without SO_PEERCRED
	if g.events[0].Detail["reason"] != "no_identity" {
		t.Errorf("got event %+v for a peer without a user", g.events[0])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var got strings.Builder
	g.api.AnswerCredential(ctx, listen.Peer{UID: g.api.systemd, Local: true, Name: "@a/unit/x.service/y"}, &got)
	if got.Len() > 0 {
		t.Errorf("got %q from a daemon that stops", got.String())
	}
}

func TestCheckCredentials(t *testing.T) {
	good := map[string]string{"billing.service:db": "prod/billing/db", "a:b@1.service:x.y": "x"}
	if err := CheckCredentials(good); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2]string{{"billing.service", "x"}, {"billing:db", "x"}, {"billing.service:", "x"},
		{"billing.service:a/b", "x"}, {"billing.service:..", "x"}, {"billing.service:a b", "x"}, {":db", "x"},
		{"billing.service:" + strings.Repeat("a", 256), "x"},
		{"billing.service:" + strings.Repeat("a", 70), "x"}, {"billing.service:db", ""}, {"billing.service:db", "a//b"}} {
		if err := CheckCredentials(map[string]string{bad[0]: bad[1]}); err == nil {
			t.Errorf("%q = %q is taken", bad[0], bad[1])
		}
	}
}

// A name is read in one way, and what it names can stand in the configuration and at an app.
func FuzzUnitName(f *testing.F) {
	for _, seed := range []string{unitName, "", "@", "@a/unit/b.service/c", "@a/unit/b.service/c/d", "a/unit/b.service/c",
		"@a/unit/../x", "@a/unit/b@.service/c", "@a/unit/b.service/:", "@a//unit/b.service/c", "@\x00/unit/b.service/c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		u := unitRequestOf(listen.Peer{Local: true, Name: name}, 0)
		if u.refused != nil {
			if u.unit != "" || u.id != "" {
				t.Errorf("%q: refused, and read as %q", name, u.credential())
			}
			return
		}
		random, rest, _ := strings.Cut(name, "/")
		if rest != "unit/"+u.unit+"/"+u.id || !strings.HasPrefix(random, "@") {
			t.Errorf("%q is read as %q", name, u.credential())
		}
		err := CheckCredentials(map[string]string{u.credential(): "x"})
		if err != nil && len(u.unit)+len(u.id) <= access.MaxUnitAndID {
			t.Errorf("%q: the configuration cannot have it: %v", name, err)
		}
		if match, err := access.ParseMatch(access.ByUnix, u.identity().Matches[0]); err != nil || match != "unit:"+u.unit {
			t.Errorf("%q: an app cannot have it: %v", name, err)
		}
		other := unitRequestOf(listen.Peer{Local: true, Name: name, UID: 1}, 0)
		if other.refused == nil {
			t.Errorf("%q is believed of user 1", name)
		}
	})
}
