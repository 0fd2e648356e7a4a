package scripttest

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// canary is the value that scripts store. After all of them it must be in no log, error or audit row.
const canary = "canary-value-5b1f0a7c2d9e"

// anyToken is the text of a token of an operator or an app.
var anyToken = regexp.MustCompile(`hv[ar]_[a-z2-7]{84}`)

// checkCanary looks for the value and for tokens in everything that was logged: by the commands on stderr, by vaultd,
// by PostgreSQL with every statement and parameter logged, and in the audit rows.
func (h *harness) checkCanary(t *testing.T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	places := map[string]string{"stderr and vaultd's logs": h.transcript.String(),
		"PostgreSQL logs of single scripts": strings.Join(h.logs, "")}
	for _, node := range h.program.Shared.Nodes() {
		text, err := os.ReadFile(node.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		places["PostgreSQL log of "+node.Name()] = string(text)
	}
	for _, name := range h.databases {
		rows, err := query(h.program.Shared.Primary().URL(name, vaulttest.Superuser),
			`SELECT a FROM vault.audit_log a; SELECT r FROM vault.requests r; SELECT j FROM vault.rotation_jobs j;
				SELECT c FROM vault.app_credentials c`)
		if err != nil {
			t.Fatal(err)
		}
		places["audit rows of "+name] = rows
		stale, err := query(h.program.Shared.Primary().URL(name, vaulttest.Superuser), vaulttest.StaleCopies)
		if err != nil {
			t.Fatal(err)
		}
		if stale = strings.TrimSpace(stale); stale != "" && stale != "app/lost" {
			t.Errorf("%s: stale copies in the versions of: %s", name, stale)
		}
	}
	// Scripts with "vault own" leave the shared cluster alone, and may be the only ones that ran.
	if len(h.databases) > 0 && !strings.Contains(places["PostgreSQL log of primary"], "vault.authorize_proof") {
		t.Error("PostgreSQL does not log the statements this check looks through")
	}
	secrets := map[string]string{"the value": canary, "the token": vaulttest.Token,
		"the token's secret": vaulttest.TokenSecret, "the token's secret in hex": fmt.Sprintf("%x", vaulttest.TokenSecret),
		"the value in hex": fmt.Sprintf("%x", canary)}
	for place, text := range places {
		if anyToken.MatchString(text) {
			t.Errorf("a token is in %s", place)
		}
		text = strings.ToLower(text)
		for what, secret := range secrets {
			if strings.Contains(text, strings.ToLower(secret)) {
				t.Errorf("%s is in %s", what, place)
			}
		}
	}
}
