package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/rotation"
)

// faultyTarget is a target that a test can break. Each step calls fault when it begins (early: the step failed) and
// when it is done (late: the reply was lost).
type faultyTarget struct {
	fakeTarget
	fault func(step, when string) error
	steps []string
}

func (f *faultyTarget) step(name string, do func() error) error {
	f.mu.Lock()
	f.steps = append(f.steps, name)
	f.mu.Unlock()
	if err := f.fault(name, "early"); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return f.fault(name, "late")
}

func (f *faultyTarget) Check(ctx context.Context, spec string, c rotation.Change) (found rotation.Found, err error) {
	err = f.step("check", func() (err error) { found, err = f.fakeTarget.Check(ctx, spec, c); return err })
	return found, err
}

func (f *faultyTarget) Set(ctx context.Context, spec string, c rotation.Change) error {
	return f.step("set", func() error { return f.fakeTarget.Set(ctx, spec, c) })
}

func (f *faultyTarget) Test(ctx context.Context, spec string, c rotation.Change) error {
	return f.step("test", func() error { return f.fakeTarget.Test(ctx, spec, c) })
}

func (f *faultyTarget) Restore(ctx context.Context, spec string, c rotation.Change) error {
	return f.step("restore", func() error { return f.fakeTarget.Restore(ctx, spec, c) })
}

// at fails one step, at one of its two times.
func at(step, when string, err error) func(string, string) error {
	return func(s, w string) error {
		if s == step && w == when {
			return err
		}
		return nil
	}
}

func and(faults ...func(string, string) error) func(string, string) error {
	return func(step, when string) error {
		for _, f := range faults {
			if err := f(step, when); err != nil {
				return err
			}
		}
		return nil
	}
}

// For every step of an attempt the pair "failed" and "done, but the reply was lost". In each case the target has the
// value that readers get afterwards, or the job says that it may not; and a later attempt without the fault ends with
// both on the candidate.
func TestAnAttemptThatFailsLeavesReadersWithWhatWorks(t *testing.T) {
	s := newScene(t)

	broken, untouched := errors.New("broken"), errors.Join(errors.New("refused"), rotation.ErrUntouched)
	panics := func(step, _ string) error {
		if step == "test" {
			panic("a bug in the target")
		}
		return nil
	}
	var takeOver func()
	for name, c := range map[string]struct {
		fault    func(string, string) error
		says     string
		steps    string // of the attempt with the fault
		ahead    bool   // the target has the candidate, readers do not
		stored   bool   // the candidate is in the job
		inTheEnd string // the steps of the attempt after it
	}{
		"check failed": {fault: at("check", "early", broken), says: "checking the target, before any change: broken",
			steps: "check", inTheEnd: "check set test"},
		"check lost": {fault: at("check", "late", broken), says: "checking the target, before any change: broken",
			steps: "check", inTheEnd: "check set test"},
		"set untouched": {fault: at("set", "early", untouched), says: "setting the new value at its target: refused",
			steps: "check set", stored: true, inTheEnd: "check set test"},
		"set failed": {fault: at("set", "early", broken), says: "broken; the value in force is in place",
			steps: "check set restore", stored: true, inTheEnd: "check set test"},
		"set lost": {fault: at("set", "late", broken), says: "broken; the value in force is in place",
			steps: "check set restore", stored: true, inTheEnd: "check set test"},
		"test failed": {fault: at("test", "early", broken),
			says: "testing the new value at its target: broken; the value in force is in place", steps: "check set test restore",
			stored: true, inTheEnd: "check set test"},
		"test lost": {fault: at("test", "late", broken), says: "broken; the value in force is in place",
			steps: "check set test restore", stored: true, inTheEnd: "check set test"},
		"test panics": {fault: panics, says: "panic of type string; the value in force is in place",
			steps: "check set test restore", stored: true, inTheEnd: "check set test"},
		"restore failed": {fault: and(at("test", "early", broken), at("restore", "early", broken)),
			says: "the target may have the new value, which readers get only when a rotation succeeds " +
				"(vaultctl rotation retry app/",
			steps: "check set test restore", stored: true, ahead: true, inTheEnd: "check set test"},
		"restore lost": {fault: and(at("set", "late", broken), at("restore", "late", broken)),
			says: "the target may have the new value", steps: "check set restore", stored: true, inTheEnd: "check set test"},
		"taken over early": {fault: func(step, when string) error {
			if step == "test" && when == "early" {
				takeOver()
				return broken
			}
			return nil
		}, steps: "check set test", ahead: true, stored: true},
	} {
		t.Run(name, func(t *testing.T) {
			secret := "app/" + strings.ReplaceAll(name, " ", "-")
			s.mustPut(t, secret)
			target := &faultyTarget{fakeTarget: fakeTarget{value: []byte("one")}, fault: c.fault}
			takeOver = func() {
				s.MustExec(t, `UPDATE vault.rotation_jobs SET attempt = attempt + 1 WHERE name = '`+secret+`'`)
			}
			_, wait := s.work(t, target, 1)
			s.mustRequest(t, secret)
			if c.says != "" {
				waitUntil(t, s.Store, `SELECT count(*) FROM vault.rotation_jobs
					WHERE name = '`+secret+`' AND state = 'queued' AND last_error IS NOT NULL`, "1")
			} else {
				waitUntil(t, s.Store, `SELECT attempt FROM vault.rotation_jobs WHERE name = '`+secret+`'`, "2")
			}
			wait()

			if said := s.MustQuery(t,
				`SELECT coalesce(last_error, '') FROM vault.rotation_jobs WHERE name = '`+secret+`'`); !strings.Contains(said,
				c.says) {
				t.Errorf("got %q, want it to say %q", said, c.says)
			}
			if got := strings.Join(target.steps, " "); got != c.steps {
				t.Errorf("got steps %q, want %q", got, c.steps)
			}
			want := map[bool]string{true: "1", false: "0"}[c.stored]
			if got := s.MustQuery(t,
				`SELECT count(*) FROM vault.rotation_candidates WHERE name = '`+secret+`'`); got != want {
				t.Errorf("got %s candidates stored, want %s", got, want)
			}
			if opens := string(target.value) == "one"; opens == c.ahead {
				t.Errorf("what readers have opens the target: got %v, want %v", opens, !c.ahead)
			}
			if c.says == "" {
				return
			}
			target.fault, target.steps = func(string, string) error { return nil }, nil
			_, wait = s.work(t, target, 1)
			defer wait()
			s.mustRetry(t, secret)
			waitUntil(t, s.Store, `SELECT state FROM vault.rotation_jobs WHERE name = '`+secret+`'`, "done")
			value := s.mustGet(t, secret)
			if !bytes.Equal(value, target.value) || !bytes.HasPrefix(value, []byte("shaped ")) {
				t.Error("readers get another value than the one that opens the target")
			}
			if got := strings.Join(target.steps, " "); got != c.inTheEnd {
				t.Errorf("in the end: got steps %q, want %q", got, c.inTheEnd)
			}
		})
	}
}

// An earlier attempt has set the candidate at the target and crashed, and the target can no longer be set. The
// candidate is tested and finished all the same, as readers have a value that does not work.
func TestWhatATargetHasAlreadyIsFinishedThoughItCannotBeSet(t *testing.T) {
	s := newScene(t)
	s.mustPut(t, "app/target")
	broken := errors.New("broken")
	target := &faultyTarget{fakeTarget: fakeTarget{value: []byte("one")},
		fault: and(at("set", "late", broken), at("restore", "early", broken))}
	_, wait := s.work(t, target, 1)
	s.mustRequest(t, "app/target")
	waitUntil(t, s.Store,
		`SELECT count(*) FROM vault.rotation_jobs WHERE state = 'queued' AND last_error IS NOT NULL`, "1")
	wait()
	target.fault = at("set", "early", errors.Join(broken, rotation.ErrUntouched))
	_, wait = s.work(t, target, 1)
	defer wait()
	s.mustRetry(t, "app/target")
	waitUntil(t, s.Store, `SELECT state FROM vault.rotation_jobs`, "done")
	if !bytes.Equal(s.mustGet(t, "app/target"), target.value) {
		t.Error("readers get another value than the one that opens the target")
	}
}

// An earlier attempt has brought the candidate to the target and crashed, and meanwhile the test cannot pass: the value
// in force comes back, as readers would have one that does not work until the last attempt.
func TestWhatACrashedAttemptSetIsTakenBackWhereItCannotBeTested(t *testing.T) {
	s := newScene(t)
	s.mustPut(t, "app/target")
	broken := errors.New("broken")
	target := &faultyTarget{fakeTarget: fakeTarget{value: []byte("one")}}
	for _, attempt := range []struct {
		fault func(step, when string) error
		says  string
		opens bool // what readers have opens the target
	}{
		{and(at("set", "late", broken), at("restore", "early", broken)), "%putting the value in force back: broken", false},
		{at("check", "late", broken), "%before any change: broken", false}, // not known what the target has
		{at("check", "late", errors.Join(rotation.ErrCandidateInPlace, broken)), "%the value in force is in place", true},
	} {
		target.fault = attempt.fault
		_, wait := s.work(t, target, 1)
		if string(target.value) == "one" {
			s.mustRequest(t, "app/target")
		} else {
			s.mustRetry(t, "app/target")
		}
		waitUntil(t, s.Store,
			`SELECT count(*) FROM vault.rotation_jobs WHERE state = 'queued' AND last_error LIKE '`+attempt.says+`'`, "1")
		wait()
		if got := string(target.value) == "one"; got != attempt.opens {
			t.Errorf("after %q: what readers have opens the target: got %v, want %v", attempt.says, got, attempt.opens)
		}
	}
}
