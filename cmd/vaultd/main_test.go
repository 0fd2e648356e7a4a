package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) {
	os.Setenv("VAULTD_STATE_DIR", "") // the default folder belongs to the machine
	leaks.Main(m)
}

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func mustWrite(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// until polls a condition, and fails the test if it does not come true.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// database is a host that drops every connection, like a server that restarts, until the test makes it hang.
type database struct {
	listener net.Listener
	done     sync.WaitGroup

	mu    sync.Mutex
	hangs bool
	held  []net.Conn
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &database{listener: l}
	d.done.Go(d.accept)
	t.Cleanup(func() {
		l.Close()
		d.release()
		d.done.Wait()
	})
	return d
}

func (d *database) accept() {
	for {
		conn, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		if d.hangs {
			d.held = append(d.held, conn)
		} else {
			conn.Close()
		}
		d.mu.Unlock()
	}
}

func (d *database) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hangs = true
}

// release drops the connections that hang, and those that come from now on.
func (d *database) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hangs = false
	for _, conn := range d.held {
		conn.Close()
	}
	d.held = nil
}

func (d *database) url() string {
	return "postgres://vaultd@" + d.listener.Addr().String() + "/vault?sslmode=disable"
}

// daemon is a vaultd in this process, on ports of its own.
type daemon struct {
	database *database
	config   string // path
	log      *journal
	reload   chan os.Signal
	stop     context.CancelFunc
	code     chan int
	urls     map[string]string // as in the address file
	client   *http.Client
}

// startDaemon runs vaultd with these settings and those that every test needs, and waits until it serves.
func startDaemon(t *testing.T, settings string) *daemon {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{
		database: newDatabase(t), config: filepath.Join(dir, "vaultd.toml"), log: &journal{}, reload: make(chan os.Signal),
		code: make(chan int, 1), client: &http.Client{Transport: &http.Transport{}, Timeout: time.Minute},
	}
	addresses := filepath.Join(dir, "addresses")
	t.Setenv("VAULTD_DATABASE_URL", d.database.url())
	t.Setenv("VAULTD_HEALTH_LISTEN", "127.0.0.1:0")
	t.Setenv("VAULTD_ADDRESS_FILE", addresses)
	t.Setenv("VAULTD_AUDIT_SPOOL", filepath.Join(dir, "spool"))
	t.Setenv("VAULTD_ROTATION_WORKERS", "0")
	if !strings.Contains(settings, "drain_delay") {
		t.Setenv("VAULTD_DRAIN_DELAY", "0")
	}
	mustWrite(t, d.config, settings)

	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	go func() { d.code <- execute(ctx, []string{"--config", d.config}, &journal{}, d.log, d.reload) }()
	t.Cleanup(func() {
		d.database.release()
		d.end(t)
		d.client.CloseIdleConnections()
	})
	until(t, "the addresses are written", func() bool {
		select {
		case code := <-d.code:
			d.code <- code
			t.Fatalf("vaultd ended with %d: %s", code, d.log)
		default:
		}
		text, err := os.ReadFile(addresses)
		d.urls = map[string]string{}
		for line := range strings.Lines(string(text)) {
			key, url, _ := strings.Cut(strings.TrimSpace(line), "=")
			d.urls[key] = url
		}
		return err == nil
	})
	return d
}

// end stops the daemon and returns its exit code. It may be called more than once.
func (d *daemon) end(t *testing.T) int {
	t.Helper()
	d.stop()
	select {
	case code := <-d.code:
		d.code <- code
		return code
	case <-time.After(time.Minute):
		t.Fatalf("vaultd does not end: %s", d.log)
		return -1
	}
}

// status requests a secret; 0 means no answer.
func (d *daemon) status(t *testing.T) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.urls["VAULTD_URL"]+"/v1/secrets/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := d.client.Do(r)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// hup reloads, and returns when that is done.
func (d *daemon) hup(t *testing.T) {
	t.Helper()
	before := strings.Count(d.log.String(), "reload")
	d.reload <- os.Interrupt // the channel takes any signal
	until(t, "the reload is logged", func() bool { return strings.Count(d.log.String(), "reload") > before })
}
