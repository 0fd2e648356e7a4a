package seal

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// chainNode is a store whose chain a test rewrites. (The real one is tested in internal/vault and by the scripts.)
type chainNode struct {
	mu    sync.Mutex
	seals []Seal
	err   error
}

func (n *chainNode) SealAudit(context.Context, int, func(Window) ([]Seal, error)) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return 0, n.err
}

func (n *chainNode) SealsAfter(_ context.Context, id int64, limit int) (seals []Seal, at *Hash, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.seals {
		if s.ID == id {
			at = &s.Hash
		} else if s.ID > id && len(seals) < limit {
			seals = append(seals, s)
		}
	}
	return seals, at, nil
}

// The alarm rises when the node loses seals or has others, is logged once, goes when the node has them again, and a failing
// primary is none of readiness.
func TestSealerKeepsCopies(t *testing.T) {
	defer goleak.VerifyNone(t)
	copies, err := OpenCopies(filepath.Join(t.TempDir(), "seals"))
	must(t, err)
	defer copies.Close()
	first := sealed(t, someRows(4, 1), Seal{})
	second := sealed(t, someRows(3, 5), first)
	fork := second
	fork.SealedAt = fork.SealedAt.Add(time.Second)
	testKey(t, 7).Sign(&fork)
	store := &chainNode{}
	var log bytes.Buffer
	s := &Sealer{Store: store, Key: testKey(t, 7), Copies: copies, Log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, step := range []struct {
		what  string
		seals []Seal
		alarm string
	}{
		{"nothing yet", nil, ""},
		{"two seals", []Seal{first, second}, ""},
		{"the newest is gone", []Seal{first}, "seal 2 was seen here and the node does not have it"},
		{"still", []Seal{first}, "seal 2 was seen here and the node does not have it"},
		{"it is another", []Seal{first, fork}, "seal 2 is not the one that was seen here"},
		{"all is well again", []Seal{first, second}, ""},
	} {
		store.seals = step.seals
		s.round(t.Context())
		err := s.Check(t.Context())
		if step.alarm == "" && err != nil || step.alarm != "" && (err == nil || !strings.Contains(err.Error(), step.alarm)) {
			t.Errorf("%s: got %v, want %q", step.what, err, step.alarm)
		}
	}
	if n := strings.Count(log.String(), "do not fit those seen before"); n != 2 {
		t.Errorf("the alarms were logged %d times, want 2:\n%s", n, log.String())
	}
	store.err = errors.New("the primary is away")
	s.round(t.Context())
	if _, failing, alarm := s.State(); !failing || alarm || s.Check(t.Context()) != nil {
		t.Errorf("failing %v, alarm %v, check %v", failing, alarm, s.Check(t.Context()))
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	cancel()
	<-done
}
