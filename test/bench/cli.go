package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// commands returns the subjects that run vaultctl, one whole process after the other: its start, and what a read and a
// put add to that. Each connects anew, so PostgreSQL plans each statement for the first time in that session.
func (s *env) commands(o options, reads []string) []subject {
	command := func(name string, args func(run int) (args []string, input []byte)) subject {
		return subject{name, []int{1}, func(ctx context.Context, _ int, slice time.Duration) (figures, error) {
			l := load{latency: newHistogram()}
			var own time.Duration
			f, err := s.cost(nil, func() (int, error) {
				for began := time.Now(); l.requests == 0 || l.took < slice; l.took = time.Since(began) {
					words, input := args(l.requests)
					took, cpu, err := s.vaultctl(ctx, input, words...)
					if err != nil {
						return l.requests, err
					}
					own += cpu
					l.requests++
					if err := l.latency.RecordValue(int64(took)); err != nil {
						return l.requests, err
					}
				}
				return l.requests, nil
			})
			if err != nil {
				return nil, err
			}
			f[daemonCPU] = each(own, l.requests)
			return f.with(l), nil
		}}
	}
	return []subject{
		command(cliVersion, func(int) ([]string, []byte) { return []string{"version"}, nil }),
		command(cliGet, func(run int) ([]string, []byte) { return []string{"get", reads[run%len(reads)]}, nil }),
		command(cliPut, func(run int) ([]string, []byte) {
			name := fmt.Sprintf("cli/%d", run%10)
			return []string{"put", name, "-"}, valueOf(name, run, o.bytes)
		}),
	}
}

// vaultctl runs one command as the operator, and returns its time and the processor time of its process.
func (s *env) vaultctl(ctx context.Context, input []byte, args ...string) (took, cpu time.Duration, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "vaultctl"), args...)
	cmd.Stdin = bytes.NewReader(input)
	var messages bytes.Buffer
	cmd.Stderr = &messages
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "VAULTCTL_DATABASE_URL=" + s.url(operator),
		"VAULTCTL_TOKEN=" + s.token.Reveal(), "VAULTCTL_KMS_KEY=" + s.key()}
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("vaultctl %s: %w\n%s", args[0], err, &messages)
	}
	return time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
