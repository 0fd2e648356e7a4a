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

	"github.com/hyperiondb/vault/internal/leaks"
)

// chainNode is a store whose chain a test rewrites. (The real one is tested in internal/vault and by the scripts.)
type chainNode struct {
	mu      sync.Mutex
	seals   []Seal
	rows    []Row // not sealed yet
	err     error
	standby bool
}

func (n *chainNode) IsPrimary(context.Context) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.standby, nil
}

func (n *chainNode) SealAudit(_ context.Context, _ int, make func(Window) ([]Seal, error)) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil || len(n.rows) == 0 {
		return 0, n.err
	}
	seals, err := make(Window{FromTx: 1, ToTx: 9, LastHash: Genesis(cluster), Rows: n.rows})
	if err != nil {
		return 0, err
	}
	sealed := len(n.rows)
	n.seals, n.rows = append(n.seals, seals...), nil
	return sealed, nil
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

// The alarm begins when the node loses seals or has others, is logged once, and ends when the node has them again. A
// failing primary does not fail readiness.
func TestSealerKeepsCopies(t *testing.T) {
	defer leaks.None(t)
	copies, err := OpenCopies(filepath.Join(t.TempDir(), "seals"))
	must(t, err)
	defer copies.Close()
	first := sealed(t, someRows(4, 1), Seal{})
	second := sealed(t, someRows(3, 5), first)
	fork := second
	fork.SealedAt = fork.SealedAt.Add(time.Second)
	must(t, fork.Sign(t.Context(), testKey(t, 7)))
	store := &chainNode{}
	var log bytes.Buffer
	here := &Place{Keeper: copies, Where: "here"}
	s := &Sealer{Store: store, Key: testKey(t, 7), Places: []*Place{here}, Log: slog.New(slog.NewTextHandler(&log, nil))}
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
	if got := s.State(); !got.Failing || got.Alarm || s.Check(t.Context()) != nil {
		t.Errorf("got %+v, check %v", got, s.Check(t.Context()))
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	cancel()
	<-done
}

// keyService is a signer that a test makes fail.
type keyService struct {
	Signer
	away    error
	wrong   bool
	allowed time.Duration // that it was given for the last signature
}

func (k *keyService) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if until, ok := ctx.Deadline(); ok {
		k.allowed = time.Until(until)
	}
	if k.wrong {
		message = []byte("something else")
	}
	signature, err := k.Signer.Sign(ctx, message)
	return signature, errors.Join(err, k.away)
}

// A key service that does not answer, or signs another text, only delays sealing: nothing is sealed, the next round
// tries again, and the transaction is never open for longer than the limit.
func TestSealerWithAKeyService(t *testing.T) {
	store, key := &chainNode{rows: someRows(3, 1)}, &keyService{Signer: testKey(t, 7)}
	var log bytes.Buffer
	s := &Sealer{Store: store, Key: key, Log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, step := range []struct {
		what  string
		away  error
		wrong bool
	}{
		{"away", errors.New("throttled (aws request id 1)"), false},
		{"away", errors.New("throttled (aws request id 2)"), false},
		{"another signature", nil, true},
	} {
		key.away, key.wrong, key.allowed = step.away, step.wrong, 0
		s.round(t.Context())
		if got := s.State(); !got.Failing || got.Alarm || got.Sealed != 0 || len(store.seals) != 0 ||
			s.Check(t.Context()) != nil {
			t.Errorf("%s: got %+v and %d seals", step.what, got, len(store.seals))
		}
		if key.allowed <= 0 || key.allowed > SignLimit {
			t.Errorf("%s: the signature was given %v", step.what, key.allowed)
		}
	}
	if n := strings.Count(log.String(), "sealing the audit log failed"); n != 1 {
		t.Errorf("one trouble was logged %d times:\n%s", n, log.String())
	}
	key.away, key.wrong = nil, false
	s.round(t.Context())
	if got := s.State(); got.Failing || got.Sealed != 3 || len(store.seals) != 1 || !store.seals[0].Signed() {
		t.Errorf("got %+v and %d seals", got, len(store.seals))
	}
	if n := strings.Count(log.String(), "key="+testKey(t, 7).public().String()); n != 1 {
		t.Errorf("the key was named %d times:\n%s", n, log.String())
	}
}
