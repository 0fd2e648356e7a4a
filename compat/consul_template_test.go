package compat_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// consulTemplate is the command with a template, not started. The token is in its environment.
func consulTemplate(t *testing.T, ctx context.Context, d daemon, token, template string, args ...string) (cmd *exec.Cmd,
	rendered string) {
	t.Helper()
	dir := t.TempDir()
	source, rendered := filepath.Join(dir, "in.ctmpl"), filepath.Join(dir, "out")
	if err := os.WriteFile(source, []byte(template), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(ctx, "../bin/consul-template", append([]string{"-vault-addr", d.url,
		"-vault-retry=false", "-template", source + ":" + rendered}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	if token != "" {
		cmd.Env = append(cmd.Env, "VAULT_TOKEN="+token)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second // for a busy machine
	return cmd, rendered
}

// templates renders once: names with and without "data/", versions, objects and lists; and refusals.
func (w *world) templates(t *testing.T, d daemon) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd, rendered := consulTemplate(t, ctx, d, w.good,
		`{{ with secret "secret/prod/app/text" }}{{ .Data.data.value }}{{ end }}
{{ with secret "secret/data/prod/app/text?version=1" }}{{ .Data.data.value }}{{ end }}
{{ with secret "secret/data/prod/app/object" }}{{ .Data.data.user }} {{ .Data.data.port }}{{ end }}
{{ with secret "secret/data/prod/app/bytes" }}{{ .Data.data.value_base64 }}{{ end }}
{{ range secrets "secret/prod/app" }}{{ . }} {{ end }}
{{ range secrets "secret/metadata" }}{{ . }} {{ end }}
{{ with secret "secret/metadata/prod/app/text" }}{{ .Data.current_version }}{{ end }}`, "-once")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(rendered)
	if err != nil {
		t.Fatal(err)
	}
	if want := "two\none\nbilling 5432\nAP+A\nbytes object rotated sub/ text \nprod/ \n2"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for about, c := range map[string]struct{ token, path, says string }{
		"forbidden":       {w.good, "prod/other", "permission denied"},
		"missing":         {w.good, "prod/app/none", "no secret exists"},
		"deleted":         {w.good, "prod/app/gone", "no secret exists"},
		"a revoked token": {w.revoked, "prod/app/text", "permission denied"},
		"an expired one":  {w.expired, "prod/app/text", "permission denied"},
	} {
		cmd, _ := consulTemplate(t, ctx, d, c.token, `{{ with secret "secret/data/`+c.path+`" }}{{ end }}`, "-once")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%s: got %v, want that it says %q:\n%s", about, err, c.says, out)
		}
	}
}

// rotation: a running consul-template has the new value some seconds after the rotation, not after five minutes.
func (w *world) rotation(t *testing.T) {
	for ahead := 4 * time.Second; !w.rotatesWhileItRuns(t, ahead); ahead *= 2 {
		if ahead > 30*time.Second {
			t.Fatal("consul-template took longer than half a minute for its first version")
		}
	}
}

// rotatesWhileItRuns has a rotation so much later, and waits until consul-template has the new version. It returns
// false if consul-template was too late to have the version before.
func (w *world) rotatesWhileItRuns(t *testing.T, ahead time.Duration) bool {
	t.Helper()
	const current = `SELECT current_version FROM vault.secrets WHERE name = 'prod/app/rotated'`
	before := w.MustQuery(t, current)
	w.MustExec(t, fmt.Sprintf(`UPDATE vault.secrets SET next_rotation_at = now() + interval '%d seconds'
		WHERE name = 'prod/app/rotated'`, int(ahead.Seconds())))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd, rendered := consulTemplate(t, ctx, w.primary, w.good,
		`{{ with secret "secret/prod/app/rotated" }}{{ .Data.metadata.version }}{{ end }}`)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // it was interrupted
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	version := func() string {
		got, _ := os.ReadFile(rendered)
		return string(got)
	}
	until(t, "a version", func() bool { return version() != "" })
	if version() != before {
		return false
	}
	until(t, "the rotation", func() bool { return w.MustQuery(t, current) != before })
	after := w.MustQuery(t, current)
	until(t, "the version "+after, func() bool { return version() == after })
	return true
}
