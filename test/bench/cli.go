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

// program is a command that runs as a whole process, and its environment.
type program struct {
	path    string
	environ []string
}

// commands returns the subjects that run vaultctl, one whole process after the other: its start, and what a read and a
// put add to that. Each connects anew, so PostgreSQL plans each statement for the first time in that session.
func (s *env) commands(o options, reads []string) []subject {
	vaultctl := program{filepath.Join(s.bin, "vaultctl"), []string{"VAULTCTL_DATABASE_URL=" + s.url(operator),
		"VAULTCTL_TOKEN=" + s.token.Reveal(), "VAULTCTL_KMS_KEY=" + s.key()}}
	return []subject{
		s.running(cliVersion, vaultctl, func(int) ([]string, []byte) { return []string{"version"}, nil }),
		s.running(cliGet, vaultctl, func(run int) ([]string, []byte) {
			return []string{"get", reads[run%len(reads)]}, nil
		}),
		s.running(cliPut, vaultctl, func(run int) ([]string, []byte) {
			name := fmt.Sprintf("cli/%d", run%10)
			return []string{"put", name, "-"}, valueOf(name, run, o.bytes)
		}),
	}
}

// running is a subject that runs a program again and again, with the arguments and the input of each run.
func (s *env) running(name string, p program, run func(run int) (args []string, input []byte)) subject {
	return subject{name, []int{1}, func(ctx context.Context, _ int, slice time.Duration) (figures, error) {
		l := load{latency: newHistogram()}
		var own time.Duration
		f, err := s.cost(nil, func() (int, error) {
			for began := time.Now(); l.requests == 0 || l.took < slice; l.took = time.Since(began) {
				args, input := run(l.requests)
				took, cpu, err := p.run(ctx, s.dir, input, args...)
				if err != nil {
					return l.requests, fmt.Errorf("%s: %w", name, err)
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

// run runs the program once, and returns its time and the processor time of its process.
func (p program) run(ctx context.Context, home string, input []byte, args ...string) (took, cpu time.Duration,
	err error) {
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Stdin = bytes.NewReader(input)
	var messages bytes.Buffer
	cmd.Stderr = &messages
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, p.environ...)
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, &messages)
	}
	return time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
