package scripttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// previousRelease is the commit that upgrades start from: schema version 13.
const previousRelease = "8a91bc4b8bff77086cc8a7a961ce0f37ad68597b"

// buildPrevious builds vaultctl-previous and vaultd-previous from the history of the module's repository, when a script
// first asks for them.
func buildPrevious(module, bin string) func() error {
	return sync.OnceValue(func() error {
		source, err := os.MkdirTemp("", "previous")
		if err != nil {
			return err
		}
		defer os.RemoveAll(source)
		tarball, err := archivePrevious(module)
		if err != nil {
			return err
		}
		unpack := exec.Command("tar", "-x", "-C", source)
		unpack.Stdin = bytes.NewReader(tarball)
		if out, err := unpack.CombinedOutput(); err != nil {
			return fmt.Errorf("unpacking the previous release: %w\n%s", err, out)
		}
		for _, name := range []string{"vaultctl", "vaultd"} {
			build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(bin, name+"-previous"), "./cmd/"+name)
			build.Dir = source
			if out, err := build.CombinedOutput(); err != nil {
				return fmt.Errorf("building the previous release: %w\n%s", err, out)
			}
		}
		return nil
	})
}

// archivePrevious is the source of the previous release as a tar file. If a shallow clone lacks the commit, as in CI,
// it fetches the rest of the history once.
func archivePrevious(module string) ([]byte, error) {
	git := func(args ...string) ([]byte, error) {
		command := exec.Command("git", args...)
		command.Dir = module
		command.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0") // a missing login is an error
		var complaint bytes.Buffer
		command.Stderr = &complaint
		out, err := command.Output()
		if err != nil {
			err = fmt.Errorf("git %s: %w\n%s", args[0], err, complaint.Bytes())
		}
		return out, err
	}
	if _, err := git("cat-file", "-e", previousRelease+"^{commit}"); err != nil {
		if _, err := git("fetch", "--quiet", "--unshallow"); err != nil {
			return nil, fmt.Errorf("commit %s, the previous release, is not in this clone, and cannot be fetched; "+
				"hint: git fetch --unshallow: %w", previousRelease, err)
		}
	}
	return git("archive", previousRelease)
}

func (h *harness) previousVaultd() string { return filepath.Join(h.previousBin, "vaultd-previous") }

// nodeReads is a client that reads through several daemons, and rotations that are always due.
type nodeReads struct {
	stop  context.CancelFunc
	done  sync.WaitGroup
	count atomic.Int64
	moved atomic.Int64 // reads that one daemon did not answer, and the next one did
	mu    sync.Mutex
	why   []string // of the first of these
	lost  []string // reads that no daemon answered
}

// reads start NAME URL... | steady | moved | stop: reads a secret without pause over each of the daemons; where one
// fails, the next one is tried, as clients do. Rotations are due all the time. steady fails if a read went to another
// daemon since the start, or since "reads moved", which forgets those. stop fails if a read got no answer, or none was
// made.
func (h *harness) cmdReads(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) > 2 && args[0] == "start":
		s.startReads(args[1], args[2:])
	case len(args) == 1 && args[0] == "steady":
		before := s.reads.count.Load()
		for start := time.Now(); s.reads.count.Load() < before+200; time.Sleep(time.Millisecond) {
			if time.Since(start) > waitLimit {
				ts.Fatalf("reads: no reads are made")
			}
		}
		if n := s.reads.moved.Load(); n > 0 {
			ts.Fatalf("reads: %d of %d reads went to another daemon:\n%s", n, s.reads.count.Load(), s.reads.complaints())
		}
	case len(args) == 1 && args[0] == "moved":
		s.reads.moved.Store(0)
		s.reads.mu.Lock()
		s.reads.why = nil
		s.reads.mu.Unlock()
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

func (l *nodeReads) complaints() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.why, "\n")
}

func (s *session) startReads(name string, urls []string) {
	ctx, cancel := context.WithCancel(context.Background())
	s.reads = &nodeReads{stop: cancel}
	s.cleanup = append(s.cleanup, func() { cancel(); s.reads.done.Wait() })
	for first := range urls {
		s.reads.done.Go(func() {
			for ctx.Err() == nil {
				s.reads.read(ctx, name, urls, first)
			}
		})
	}
	s.reads.done.Go(func() { s.keepDue(ctx) })
}

func (l *nodeReads) read(ctx context.Context, name string, urls []string, first int) {
	var why []string
	for i := range urls {
		url := urls[(first+i)%len(urls)]
		err := readOnce(ctx, url+"/v1/secrets/"+name)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			l.count.Add(1)
			break
		}
		why = append(why, fmt.Sprintf("%s %s: %v", time.Now().UTC().Format("15:04:05.000"), url, err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(why) == len(urls):
		l.lost = append(l.lost, strings.Join(why, "; "))
	case len(why) > 0:
		l.moved.Add(1)
		if len(l.why) < 10 {
			l.why = append(l.why, why...)
		}
	}
}

func readOnce(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
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
