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

// settleTime is how long a call may take, after its deadline, to end by itself.
const settleTime = 2 * time.Second

// The steps that receivers and programs see.
const (
	stepSet  = "set"
	stepTest = "test"
)

// The other steps: receivers and programs see them as tests and sets of the value in force.
const (
	stepCheck   = "check"
	stepRestore = "restore"
)

// Options of New.
type Options struct {
	// Open reads another secret's value in force. The caller wipes it.
	Open func(ctx context.Context, name string) ([]byte, error)
	// Programs are what an exec rotator may run: a name, and the arguments beginning with an absolute path.
	Programs map[string][]string
	// WebhookHosts are what a webhook rotator may call: HOST or HOST:PORT. None means no webhooks.
	WebhookHosts []string
	// PostgresHosts are where a postgres-role rotator may connect: HOST, HOST:PORT or a socket's /FOLDER. None means
	// nowhere.
	PostgresHosts []string
	// PostgresCA is a file of certificates that verify those servers; "" means the system's.
	PostgresCA string
	// RootCAs verify webhooks; nil means the system's.
	RootCAs *x509.CertPool
	Log     *slog.Logger
}

// Targets makes the changes of rotators. It holds no connection between calls.
type Targets struct {
	open     func(ctx context.Context, name string) ([]byte, error)
	programs map[string][]string
	hooks    *hooks
	postgres postgres
	log      *slog.Logger
}

var _ rotation.Target = (*Targets)(nil)

// New makes Targets of options that Check has accepted.
func New(o Options) *Targets {
	return &Targets{
		open: o.Open, programs: o.Programs, hooks: newHooks(o.WebhookHosts, o.RootCAs), log: o.Log,
		postgres: postgres{hosts: newHosts("postgres_hosts", postgresPort, o.PostgresHosts), ca: o.PostgresCA},
	}
}

// Check refuses invalid options before New; the error names the host or program.
func Check(o Options) error {
	for _, list := range []struct {
		setting, port string
		hosts         []string
	}{{"webhook_hosts", hookPort, o.WebhookHosts}, {"postgres_hosts", postgresPort, o.PostgresHosts}} {
		for _, host := range list.hosts {
			if _, err := readPlace(host, list.port); err != nil {
				return fmt.Errorf("%s: %w", list.setting, err)
			}
		}
	}
	for name, argv := range o.Programs {
		if err := checkProgram(name, argv); err != nil {
			return fmt.Errorf("exec_rotators: %w", err)
		}
	}
	return checkCA(o.PostgresCA)
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

// Check tries the value in force at the target, and if it is not accepted the candidate.
func (t *Targets) Check(ctx context.Context, spec string, c rotation.Change) (rotation.Found, error) {
	return t.step(ctx, stepCheck, spec, c)
}

// Set makes the target accept the candidate.
func (t *Targets) Set(ctx context.Context, spec string, c rotation.Change) error {
	_, err := t.step(ctx, stepSet, spec, c)
	return err
}

// Test fails unless the target accepts the candidate.
func (t *Targets) Test(ctx context.Context, spec string, c rotation.Change) error {
	_, err := t.step(ctx, stepTest, spec, c)
	return err
}

// Restore makes the target accept the value in force again.
func (t *Targets) Restore(ctx context.Context, spec string, c rotation.Change) error {
	_, err := t.step(ctx, stepRestore, spec, c)
	return err
}

func (t *Targets) step(ctx context.Context, step, spec string, c rotation.Change) (found rotation.Found, err error) {
	s, err := parseStored(spec)
	if err != nil {
		return 0, untouched{never{err}}
	}
	if s.Opens() == c.Secret {
		return 0, untouched{never{fmt.Errorf("%s: %q cannot be rotated with its own value", s.kind, c.Secret)}}
	}
	do, ok := map[string]doStep{kindPostgresRole: t.postgresRole, kindWebhook: stepsOf(t.webhook),
		kindExec: stepsOf(t.exec)}[s.kind]
	if !ok {
		panic("target: a spec of a kind without an implementation was parsed")
	}
	limit := s.timeout
	if step == stepCheck || step == stepRestore {
		limit *= 2 // two uses of the target, at most
	}
	// A channel and not a shared variable: a call that could not be stopped may still write its result.
	results := make(chan rotation.Found, 1)
	err = bounded(ctx, limit, c, func(ctx context.Context, c rotation.Change) error {
		found, err := do(ctx, step, s, c)
		results <- found
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %s: %w", s.kind, step, err)
	}
	return <-results, nil
}

// doStep does one step at a target of its kind.
type doStep func(ctx context.Context, step string, s Spec, c rotation.Change) (rotation.Found, error)

// stepsOf makes the steps of a target that has only two calls, set and test, each with a value.
func stepsOf(call func(ctx context.Context, step string, s Spec, c rotation.Change) error) doStep {
	return func(ctx context.Context, step string, s Spec, c rotation.Change) (rotation.Found, error) {
		switch step {
		case stepCheck:
			return s.findAccepted(c, func(value []byte) error { return call(ctx, stepTest, s, changeTo(c, value)) })
		case stepTest:
			return 0, call(ctx, stepTest, s, c)
		}
		if c.Held != nil {
			if err := c.Held(ctx); err != nil {
				return 0, untouched{err}
			}
		}
		if step == stepSet {
			return 0, call(ctx, stepSet, s, c)
		}
		if c.Current == nil {
			return 0, errors.New("there is no value in force")
		}
		inForce := changeTo(c, c.Current)
		if err := call(ctx, stepSet, s, inForce); err != nil {
			return 0, err
		}
		return 0, call(ctx, stepTest, s, inForce)
	}
}

// changeTo is the change as a receiver sees it, for one of its two values.
func changeTo(c rotation.Change, value []byte) rotation.Change {
	if bytes.Equal(value, c.Current) {
		c.Version--
	}
	c.Candidate = value
	return c
}

// findAccepted finds which value the target accepts: the one in force or, after an attempt that ended between set and
// finish, the candidate. A target that accepts neither has one that the vault does not have, and an application may be
// using it.
func (s Spec) findAccepted(c rotation.Change, use func(value []byte) error) (rotation.Found, error) {
	why := error(notAccepted{errors.New("there is no value in force")})
	if c.Current != nil {
		why = use(c.Current)
	}
	if why == nil {
		return rotation.FoundCurrent, nil
	}
	if !errors.As(why, new(notAccepted)) {
		return 0, fmt.Errorf("the value in force: %w", why)
	}
	if c.Candidate != nil {
		err := use(c.Candidate)
		if err == nil {
			return rotation.FoundCandidate, nil
		}
		if r := new(refusal); errors.As(err, &r) && r.proven {
			err = inPlace{err}
		}
		if !errors.As(err, new(notAccepted)) {
			return 0, fmt.Errorf("the new value: %w", err)
		}
	}
	if s.adopt {
		return rotation.FoundNeither, nil
	}
	return 0, fmt.Errorf("the target accepts no value that the vault has: %w; "+
		"put the one that works there, or let the rotator replace it (adopt=yes)", why)
}

// notAccepted is a target's definite answer that a value is not the one it has.
type notAccepted struct{ error }

func (n notAccepted) Unwrap() error { return n.error }

// untouched is the error of a Set that changed nothing.
type untouched struct{ error }

func (u untouched) Unwrap() []error { return []error{u.error, rotation.ErrUntouched} }

// never is an error that passes only if an operator changes something.
type never struct{ error }

func (n never) Unwrap() []error { return []error{n.error, rotation.ErrNever} }

// inPlace is the error of a Check that cannot be tested at a target that has the candidate.
type inPlace struct{ error }

func (i inPlace) Unwrap() []error { return []error{i.error, rotation.ErrCandidateInPlace} }

// bounded runs f until the timeout, in its own goroutine and on copies of the values: if it cannot be stopped (a disk
// that hangs, a server that asks for a billion hash rounds) bounded returns without it, and the worker continues.
func bounded(ctx context.Context, timeout time.Duration, c rotation.Change,
	f func(context.Context, rotation.Change) error) error {
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
		return withTimeout(ctx, err)
	case <-ctx.Done():
	}
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	select {
	case err := <-done:
		return withTimeout(ctx, err)
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

// withTimeout adds that the deadline has passed, since the libraries word it differently.
func withTimeout(ctx context.Context, err error) error {
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
