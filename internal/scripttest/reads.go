package scripttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// nodeReads is a client that reads through several daemons, and rotations that are always due.
type nodeReads struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	count atomic.Int64

	mu     sync.Mutex
	forgot int      // how often "reads moved" was run
	moved  int      // reads that began since, which one daemon did not answer and the next one did
	why    []string // of the first of these
	lost   []string // reads that no daemon answered
}

// reads start NAME URL... | steady | moved | stop: reads a secret again and again over each of the daemons; where one
// fails, the next one is tried, as clients do. Rotations are due all the time. steady fails if a read went to another
// daemon since the start, or since "reads moved", which forgets the reads that have begun. stop fails if a read got no
// answer, or none was made.
func (h *harness) cmdReads(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) > 2 && args[0] == "start":
		s.startReads(args[1], args[2:])
	case s.reads == nil:
		ts.Fatalf("reads: none were started")
	case len(args) == 1 && args[0] == "steady":
		before := s.reads.count.Load()
		for start := time.Now(); s.reads.count.Load() < before+200; time.Sleep(time.Millisecond) {
			if time.Since(start) > waitLimit {
				ts.Fatalf("reads: no reads are made")
			}
		}
		if n, why := s.reads.complaints(); n > 0 {
			ts.Fatalf("reads: %d of %d reads went to another daemon:\n%s", n, s.reads.count.Load(), why)
		}
	case len(args) == 1 && args[0] == "moved":
		s.reads.forgetMoved()
	case len(args) == 1 && args[0] == "stop":
		s.reads.stop()
		s.reads.done.Wait()
		fmt.Fprintf(ts.Stdout(), "%d reads, %d without an answer\n", s.reads.count.Load(), len(s.reads.lost))
		if len(s.reads.lost) > 0 || s.reads.count.Load() == 0 {
			ts.Fatalf("reads: %d reads, and without an answer:\n%s", s.reads.count.Load(), strings.Join(s.reads.lost, "\n"))
		}
	default:
		ts.Fatalf("usage: reads start NAME URL... | reads steady | reads moved | reads stop")
	}
}

// forgetMoved forgets the reads that moved, and leaves out those under way that will.
func (r *nodeReads) forgetMoved() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgot++
	r.moved, r.why = 0, nil
}

func (r *nodeReads) timesForgotten() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.forgot
}

func (r *nodeReads) complaints() (moved int, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.moved, strings.Join(r.why, "\n")
}

func (s *session) startReads(name string, urls []string) {
	ctx, cancel := context.WithCancel(context.Background())
	s.reads = &nodeReads{stop: cancel}
	s.cleanup = append(s.cleanup, func() { cancel(); s.reads.done.Wait() })
	for first := range urls {
		s.reads.done.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(loadPause) {
				s.reads.read(ctx, name, urls, first)
			}
		})
	}
	s.reads.done.Go(func() { s.keepDue(ctx) })
}

func (r *nodeReads) read(ctx context.Context, name string, urls []string, first int) {
	var why []string
	began := r.timesForgotten()
	for i := range urls {
		url := urls[(first+i)%len(urls)]
		err := readOnce(ctx, url+"/v1/secrets/"+name)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			r.count.Add(1)
			break
		}
		why = append(why, fmt.Sprintf("%s %s: %v", time.Now().UTC().Format("15:04:05.000"), url, err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(why) == len(urls):
		r.lost = append(r.lost, strings.Join(why, "; "))
	case len(why) > 0 && began == r.forgot:
		r.moved++
		if len(r.why) < 10 {
			r.why = append(r.why, why...)
		}
	}
}

// readOnce waits longer than vaultd does for its database: what counts is the daemon's deadline, ten seconds.
func readOnce(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", answer.StatusCode, bytes.TrimSpace(body))
	}
	if !bytes.Contains(body, []byte(canary)) {
		return errors.New("status 200 without the value")
	}
	return nil
}

// keepDue makes every automatic secret due again as soon as its rotation has ended.
func (s *session) keepDue(ctx context.Context) {
	conn, err := pgx.Connect(ctx, s.store.URL(vaulttest.Superuser))
	if err != nil {
		return
	}
	defer conn.Close(context.Background())
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_, _ = conn.Exec(ctx, `UPDATE vault.secrets SET next_rotation_at = now() - interval '1 second'
				WHERE kind = 'automatic' AND next_rotation_at > now()`)
		}
	}
}
