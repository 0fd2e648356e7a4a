package target

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hyperiondb/vault/internal/rotation"
)

// settleTime is what a call has, after its deadline, to end by itself.
const settleTime = 2 * time.Second

// The steps that reach out, as receivers and programs are told.
const (
	stepSet  = "set"
	stepTest = "test"
)

// Options of New.
type Options struct {
	// Open reads another secret's value in force. The caller wipes it.
	Open func(ctx context.Context, name string) ([]byte, error)
	// Programs are what an exec rotator may run: a name, and the arguments beginning with an absolute path.
	Programs map[string][]string
	// WebhookHosts are who a webhook rotator may call: HOST or HOST:PORT. None means nobody.
	WebhookHosts []string
	// RootCAs verify webhooks; nil means the system's.
	RootCAs *x509.CertPool
	Log     *slog.Logger
}

// Targets does what rotators say. It holds no connection between calls.
type Targets struct {
	open     func(ctx context.Context, name string) ([]byte, error)
	programs map[string][]string
	hooks    *hooks
	log      *slog.Logger
}

var _ rotation.Target = (*Targets)(nil)

// New makes Targets of options that Check has accepted.
func New(o Options) *Targets {
	return &Targets{open: o.Open, programs: o.Programs, hooks: newHooks(o.WebhookHosts, o.RootCAs), log: o.Log}
}

// Check refuses a configuration that New is not made for; the error names the host or program.
func Check(webhookHosts []string, programs map[string][]string) error {
	for _, host := range webhookHosts {
		if _, err := parseHost(host); err != nil {
			return fmt.Errorf("webhook_hosts: %w", err)
		}
	}
	for name, argv := range programs {
		if err := checkProgram(name, argv); err != nil {
			return fmt.Errorf("exec_rotators: %w", err)
		}
	}
	return nil
}

// Shape makes the value that is stored: the generated one itself or, for a pair of roles, JSON that names the role.
func (t *Targets) Shape(spec string, current, generated []byte) ([]byte, error) {
	s, err := parseStored(spec)
	if err != nil {
		return nil, err
	}
	if s.kind != kindPostgresRole {
		return bytes.Clone(generated), nil
	}
	return s.shapePassword(current, generated)
}

// Set makes the target accept the candidate.
func (t *Targets) Set(ctx context.Context, spec string, c rotation.Change) error {
	return t.step(ctx, stepSet, spec, c)
}

// Test fails unless the target accepts the candidate.
func (t *Targets) Test(ctx context.Context, spec string, c rotation.Change) error {
	return t.step(ctx, stepTest, spec, c)
}

func (t *Targets) step(ctx context.Context, step, spec string, c rotation.Change) error {
	s, err := parseStored(spec)
	if err != nil {
		return err
	}
	if s.Opens() == c.Secret {
		return fmt.Errorf("%s: %q cannot be rotated with its own value", s.kind, c.Secret)
	}
	do, ok := map[string]func(context.Context, string, Spec, rotation.Change) error{
		kindPostgresRole: t.postgresRole, kindWebhook: t.webhook, kindExec: t.exec,
	}[s.kind]
	if !ok {
		panic("target: a spec of a kind that nothing does was parsed")
	}
	err = bounded(ctx, s.timeout, c, func(ctx context.Context, c rotation.Change) error { return do(ctx, step, s, c) })
	if err != nil {
		return fmt.Errorf("%s: %s: %w", s.kind, step, err)
	}
	return nil
}

// bounded runs f until the timeout, in a goroutine of its own and on copies of the values: if it cannot be stopped (a disk that
// hangs, a server that asks for a billion hash rounds) it is left behind, and the worker goes on.
func bounded(ctx context.Context, timeout time.Duration, c rotation.Change, f func(context.Context, rotation.Change) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c.Candidate, c.Current = bytes.Clone(c.Candidate), bytes.Clone(c.Current)
	done := make(chan error, 1)
	go func() {
		defer clear(c.Candidate)
		defer clear(c.Current)
		done <- recovered(func() error { return f(ctx, c) })
	}()
	select {
	case err := <-done:
		return late(ctx, err)
	case <-ctx.Done():
	}
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	select {
	case err := <-done:
		return late(ctx, err)
	case <-settled.C:
		return errors.New("not done in time, and it cannot be stopped")
	}
}

func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic of type %T", p) // its text may hold anything
		}
	}()
	return f()
}

// late says it plainly when the reason is the deadline, whichever library noticed.
func late(ctx context.Context, err error) error {
	if err == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("not done in time: %w", err)
}

// openSecret reads the secret a spec names. The caller wipes it.
func (t *Targets) openSecret(ctx context.Context, name string) ([]byte, error) {
	value, err := t.open(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", name, err)
	}
	return value, nil
}
