package target

import (
	"errors"
	"net/url"
	"testing"

	"github.com/hyperiondb/vault/internal/rotation"
)

// Only an operator can change what these attempts found; a server that does not answer may come back by itself.
func TestWhatCanNeverWorkSaysSo(t *testing.T) {
	mustRole(t, "app", "password-before")
	via := func(hosts string) *Targets {
		text := "postgres://admin:" + url.PathEscape(adminPassword) + "@/postgres?host=" + url.QueryEscape(hosts)
		return newTargets(Options{Open: secrets{adminSecret: text, hookSecret: hookKey}.open})
	}
	here := node.SocketDir()
	for _, c := range []struct {
		about   string
		targets *Targets
		spec    string
		never   bool
	}{
		{"a superuser", via(here), "postgres-role role=postgres via=" + adminSecret, true},
		{"the administrator itself", via(here), "postgres-role role=admin via=" + adminSecret, true},
		{"a host that is not listed", via("/elsewhere"), "postgres-role role=app via=" + adminSecret, true},
		{"hosts, none of them listed", via("/elsewhere,/other"), "postgres-role role=app via=" + adminSecret, true},
		{"a login elsewhere", via(here),
			"postgres-role role=app via=" + adminSecret + " login=postgres://db.example.com/postgres adopt=yes", true},
		{"a program", via(here), "exec program=other", true},
		{"a webhook", via(here), "webhook url=https://hooks.example.com/x key=" + hookSecret, true},
		{"its own secret", via(here), "postgres-role role=app via=app/db", true},
		{"a rotator of another release", via(here), "carrier-pigeon", true},
		{"a server that is away", via("/nowhere"), "postgres-role role=app via=" + adminSecret, false},
		{"a host that is not listed beside one that is away", via("/elsewhere,/nowhere"),
			"postgres-role role=app via=" + adminSecret, false},
		{"a role that is not there yet", via(here), "postgres-role role=later via=" + adminSecret, false},
		{"another password", via(here), "postgres-role role=app via=" + adminSecret, false},
	} {
		ch := change("password-after")
		ch.Current = []byte("not the password")
		_, err := c.targets.Check(t.Context(), c.spec, ch)
		if err == nil || errors.Is(err, rotation.ErrNever) != c.never {
			t.Errorf("%s: got %v, want an error that passes only by an operator: %t", c.about, err, c.never)
		}
	}
}
