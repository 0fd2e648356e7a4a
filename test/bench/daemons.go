package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// startVaultd runs a daemon beside the primary, on its socket, with further lines of configuration.
func (s *env) startVaultd(ctx context.Context, name, url string, lines ...string) (*process, error) {
	return s.startProgram(ctx, filepath.Join(s.bin, "vaultd"), name, url, lines...)
}

// startProgram is startVaultd with another build of it.
func (s *env) startProgram(ctx context.Context, program, name, url string, lines ...string) (*process, error) {
	base := s.file(name)
	config := fmt.Sprintf(`database_url = %q
listen = ["127.0.0.1:0"]
health_listen = "127.0.0.1:0"
address_file = %q
state_dir = %q
audit_spool = %q
allow = ["127.0.0.0/8"]
kms_keys = [%q]
verify_rate = 0
%s
`, url, base+".addresses", base+".state", base+".spool", s.key(), strings.Join(lines, "\n"))
	if err := os.WriteFile(base+".toml", []byte(config), 0o600); err != nil {
		return nil, err
	}
	if err := os.Remove(base + ".addresses"); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that has ended
		return nil, err
	}
	daemon := exec.Command(program, "--config", base+".toml")
	return s.start(ctx, name, daemon, func(p *process) (bool, error) {
		return vaultdReady(ctx, p, base+".addresses")
	})
}

func vaultdReady(ctx context.Context, p *process, addresses string) (bool, error) {
	text, err := os.ReadFile(addresses)
	if err != nil {
		return false, nil // not yet
	}
	for line := range strings.Lines(string(text)) {
		key, url, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "VAULTD_URL":
			p.address = strings.TrimPrefix(url, "http://")
		case "VAULTD_HEALTH_URL":
			p.health = url
		}
	}
	answer, err := get(ctx, p.health+"/readyz")
	if err != nil {
		return false, nil
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK, nil
}

func get(ctx context.Context, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(request)
}

// startBaseline runs this program as a baseline server, whose log begins with its address.
func (s *env) startBaseline(ctx context.Context, name string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return s.start(ctx, name, exec.Command(self, append([]string{"serve", name}, args...)...),
		func(p *process) (bool, error) {
			text, err := os.ReadFile(p.log)
			line, _, whole := bytes.Cut(text, []byte("\n"))
			p.address = string(line)
			return whole, err
		})
}

func (s *env) start(ctx context.Context, name string, cmd *exec.Cmd,
	ready func(*process) (bool, error)) (*process, error) {
	p, err := start(ctx, name, filepath.Join(s.dir, name+".log"), cmd, ready)
	if err == nil {
		s.processes = append(s.processes, p)
	}
	return p, err
}

// shipped waits until all records of a daemon have arrived at the primary.
func shipped(ctx context.Context, p *process) error {
	if err := endWindow(ctx, p); err != nil {
		return err
	}
	return poll(ctx, 10*time.Minute, longPause, func() (bool, error) {
		left, err := waiting(ctx, p)
		return left == 0, err
	})
}

// waiting is how many records of a daemon the primary does not have.
func waiting(ctx context.Context, p *process) (int, error) {
	answer, err := get(ctx, p.health+"/v1/status")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	var status struct {
		Audit struct {
			Waiting int    `json:"waiting"`
			Failing string `json:"failing"`
			Ships   string `json:"shipping_fails"`
		} `json:"audit"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&status); err != nil {
		return 0, fmt.Errorf("%s: %w", p.name, err)
	}
	if trouble := status.Audit.Failing + status.Audit.Ships; trouble != "" {
		return 0, fmt.Errorf("%s does not ship its reads: %s", p.name, trouble)
	}
	return status.Audit.Waiting, nil
}

// endWindow makes a daemon ship the reads of this audit_window now, in the same rows as at the window's end: the record
// of a read that fails does not wait, and those before it go with it. Each has a name of its own, because a second
// failure of a name within a minute is counted and gets no record.
func endWindow(ctx context.Context, p *process) error {
	answer, err := get(ctx, fmt.Sprintf("http://%s/v1/secrets/absent/%d", p.address, time.Now().UnixNano()))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusNotFound, http.StatusForbidden: // the latter from a daemon that wants tokens
		return nil
	}
	return fmt.Errorf("%s: reading a name that does not exist: status %d", p.name, answer.StatusCode)
}
