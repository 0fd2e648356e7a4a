package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperiondb/vault/client"
	"github.com/hyperiondb/vault/client/clienttest"
)

const (
	name   = "prod/billing/db"
	secret = "canary-value-5b1f0a7c2d9e"
)

// world is a server and what the client was told.
type world struct {
	*clienttest.Server

	mu   sync.Mutex
	told []error
}

func newWorld(t *testing.T) *world {
	w := &world{Server: clienttest.NewServer(map[string]string{name: secret, "prod/billing/key": "k"})}
	t.Cleanup(w.Close)
	return w
}

func (w *world) tell(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, err)
}

func (w *world) mustHear(t *testing.T, want error) {
	t.Helper()
	eventually(t, fmt.Sprintf("OnError gets %v", want), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, err := range w.told {
			if errors.Is(err, want) {
				return true
			}
		}
		return false
	})
}

func (w *world) config() client.Config {
	return client.Config{URL: w.URL, Names: []string{name}, Poll: time.Second, OnError: w.tell}
}

func mustNew(t *testing.T, config client.Config) *client.Client {
	t.Helper()
	before := runtime.NumGoroutine()
	c, err := client.New(within(t, time.Minute), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if t.Failed() {
			return
		}
		eventually(t, "its goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+2 })
	})
	return c
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) { // between two looks
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func wantValue(t *testing.T, s *client.Secret, value string, version int) {
	t.Helper()
	if got := s.Value(); got.String() != value || string(got.Bytes()) != value || got.Version() != version {
		t.Errorf("got version %d with %d bytes, want version %d", got.Version(), len(got.Bytes()), version)
	}
}

func TestARotationArrivesWhileItWaits(t *testing.T) {
	w := newWorld(t)
	c := mustNew(t, w.config())
	s := c.Secret(name)
	wantValue(t, s, secret, 1)
	eventually(t, "it waits", func() bool { return w.Waiting() == 1 })
	requests := w.Requests()
	versions := c.Watch(t.Context(), name)
	w.Set(name, "two")
	if v := <-versions; v.Version() != 2 || v.String() != "two" {
		t.Errorf("got version %d, want 2", v.Version())
	}
	wantValue(t, s, "two", 2)
	eventually(t, "it waits again", func() bool { return w.Waiting() == 1 })
	if got := w.Requests() - requests; got > 2 {
		t.Errorf("got %d requests for one rotation, want the next wait only", got)
	}
	if err := s.Err(); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

func TestAWatcherThatIsSlowGetsTheNewest(t *testing.T) {
	w := newWorld(t)
	c := mustNew(t, w.config())
	ctx, end := context.WithCancel(t.Context())
	versions := c.Watch(ctx, name)
	for _, value := range []string{"two", "three"} {
		w.Set(name, value)
		eventually(t, value, func() bool { return c.Secret(name).String() == value })
	}
	if v := <-versions; v.Version() != 3 {
		t.Errorf("got version %d, want 3", v.Version())
	}
	end()
	if v, open := <-versions; open {
		t.Errorf("got version %d after the end, want a closed channel", v.Version())
	}
}

func TestPollingWithoutWaits(t *testing.T) {
	w := newWorld(t)
	w.SetNoWaits(true)
	c := mustNew(t, w.config())
	w.Set(name, "two")
	eventually(t, "version 2", func() bool { return c.Secret(name).Version() == 2 })
	if err := c.Secret(name).Err(); err != nil {
		t.Errorf("got %v, want no error: a refused wait is polled", err)
	}
}

func TestManyNamesArePolled(t *testing.T) {
	w := newWorld(t)
	config := w.config()
	config.Names = nil
	for i := range 17 {
		config.Names = append(config.Names, fmt.Sprintf("many/s%d", i))
		w.Set(config.Names[i], "one")
	}
	c := mustNew(t, config)
	w.Set("many/s16", "two")
	eventually(t, "version 2", func() bool { return c.Secret("many/s16").Version() == 2 })
	if got := w.Waiting(); got != 0 {
		t.Errorf("got %d requests that wait, want none", got)
	}
}

func TestDeniedAndDeletedKeepTheValueAndTell(t *testing.T) {
	for _, c := range []struct {
		name       string
		take, give func(*world)
		want       error
	}{
		{"denied", func(w *world) { w.Deny(name) }, func(w *world) { w.Allow(name) }, client.ErrDenied},
		{"revoked", func(w *world) { w.SetToken("other") }, func(w *world) { w.SetToken("") }, client.ErrDenied},
		{"deleted", func(w *world) { w.Delete(name) }, func(w *world) { w.Set(name, secret) }, client.ErrNotFound},
		{"away", func(w *world) { w.SetAway(true) }, func(w *world) { w.SetAway(false) }, client.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			held := mustNew(t, w.config())
			s := held.Secret(name)
			eventually(t, "it waits", func() bool { return w.Waiting() == 1 })
			c.take(w)
			w.mustHear(t, c.want)
			eventually(t, "Err tells", func() bool { return errors.Is(s.Err(), c.want) })
			wantValue(t, s, secret, 1)
			var e *client.Error
			if err := held.Refresh(t.Context()); !errors.Is(err, c.want) || !errors.As(err, &e) || e.Name != name ||
				e.Node != w.URL || e.RequestID == "" {
				t.Errorf("Refresh got %v, want %v with name, node and request", err, c.want)
			}
			if _, err := held.Get(t.Context(), name); !errors.Is(err, c.want) {
				t.Errorf("Get got %v, want %v", err, c.want)
			}
			if _, err := held.Verify(t.Context(), name, []byte(secret)); !errors.Is(err, c.want) {
				t.Errorf("Verify got %v, want %v", err, c.want)
			}
			c.give(w)
			eventually(t, "Err is nil again", func() bool { return s.Err() == nil })

			c.take(w)
			limit := time.Minute // New returns at once
			if errors.Is(c.want, client.ErrUnavailable) {
				limit = 2 * time.Second // it tries again until then
			}
			if _, err := client.New(within(t, limit), w.config()); !errors.Is(err, c.want) {
				t.Errorf("New got %v, want %v", err, c.want)
			}
		})
	}
}

func TestGetAndVerify(t *testing.T) {
	w := newWorld(t)
	config := w.config()
	config.Names = nil
	c := mustNew(t, config)
	v, err := c.Get(t.Context(), "prod/billing/key")
	if err != nil || v.String() != "k" || v.Version() != 1 || time.Since(v.CreatedAt()) > time.Minute {
		t.Errorf("got version %d of %s, %v", v.Version(), v.CreatedAt(), err)
	}
	for presented, want := range map[string]bool{secret: true, "other": false} {
		verdict, err := c.Verify(t.Context(), name, []byte(presented))
		if err != nil || verdict.Valid != want || want && (verdict.Match != "current" || verdict.Version != 1) {
			t.Errorf("got %+v, %v, want %v", verdict, err, want)
		}
	}
	for _, bad := range []string{"", strings.Repeat("a", 2000)} {
		if _, err := c.Get(t.Context(), bad); err == nil {
			t.Errorf("a name of %d bytes was taken", len(bad))
		}
	}
	if _, err := c.Verify(t.Context(), name, nil); err == nil {
		t.Error("an empty value was taken")
	}
	defer func() {
		if recover() == nil {
			t.Error("the handle of an unknown name was given")
		}
	}()
	c.Secret("unknown")
}

func TestAnotherNodeAnswers(t *testing.T) {
	const dead = "http://127.0.0.1:1" // no server listens on this port
	first, second := newWorld(t), newWorld(t)
	config := first.config()
	config.URL = dead + ", " + first.URL + "," + second.URL
	c := mustNew(t, config)
	s := c.Secret(name)
	eventually(t, "it waits at the first that lives", func() bool { return first.Waiting() == 1 })

	second.Set(name, "two") // as after a rotation that only this node has
	first.SetAway(true)
	eventually(t, "the other's version", func() bool { return s.String() == "two" })
	eventually(t, "it waits at the other", func() bool { return second.Waiting() == 1 })
	if err := s.Err(); err != nil {
		t.Errorf("got %v, want no error while a node answers", err)
	}

	// The first is asked again after a while: it is behind, and its older version is not taken.
	first.SetAway(false)
	if err := c.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	wantValue(t, s, "two", 2)

	// A name that only one node has, as a new one before replay.
	second.Set("new", "n")
	if v, err := c.Get(t.Context(), "new"); err != nil || v.String() != "n" {
		t.Errorf("got version %d, %v, want the value of the node that has it", v.Version(), err)
	}
}

func TestADeadNodeIsPassedOver(t *testing.T) {
	w := newWorld(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts nothing, and answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var refused sync.WaitGroup
	defer refused.Wait()
	defer silent.Close()
	var connections sync.Map
	refused.Go(func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			connections.Store(conn, true)
			conn.Close()
		}
	})
	config := w.config()
	config.URL = "http://" + silent.Addr().String() + "," + w.URL
	began := time.Now()
	c := mustNew(t, config)
	for range 20 {
		if _, err := c.Get(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	count := 0
	connections.Range(func(any, any) bool { count++; return true })
	// It is passed over for a second, and after each failure for twice as long; net/http tries a new connection once more.
	most := 2
	for down, took := time.Second, time.Since(began); took > 0; down *= 2 {
		most, took = most+2, took-down
	}
	if count > most {
		t.Errorf("the dead node was connected to %d times for 21 reads, want it passed over", count)
	}
}

func TestOverASocket(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: w.Server}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { server.Close(); serving.Wait() })
	config := w.config()
	config.URL = "unix://" + path
	wantValue(t, mustNew(t, config).Secret(name), secret, 1)
}

func TestTheTokenFileIsReadAgain(t *testing.T) {
	w := newWorld(t)
	w.SetToken("hvr_one")
	config := w.config()
	config.TokenFile = filepath.Join(t.TempDir(), "token")
	if _, err := client.New(t.Context(), config); err == nil || !strings.Contains(err.Error(), "TokenFile") {
		t.Errorf("got %v without the file, want an error about it", err)
	}
	write(t, config.TokenFile, "hvr_one\n", 0o600)
	c := mustNew(t, config)
	eventually(t, "it waits", func() bool { return w.Waiting() == 1 })
	w.SetToken("hvr_second")
	w.mustHear(t, client.ErrDenied)
	write(t, config.TokenFile, "hvr_second\n", 0o600)
	w.Set(name, "two")
	eventually(t, "the new token is used", func() bool { return c.Secret(name).Version() == 2 })

	// A file that is gone or empty for a moment: the token that was read stays.
	write(t, config.TokenFile, "", 0o600)
	if err := c.Refresh(t.Context()); err != nil {
		t.Errorf("got %v with an empty file, want the last token used", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.told {
		if strings.Contains(err.Error(), "hvr_") {
			t.Errorf("an error has the token: %v", err)
		}
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestStartFromTheCache(t *testing.T) {
	w := newWorld(t)
	config := w.config()
	path := filepath.Join(t.TempDir(), "cache")
	config.Cache = client.File(path)
	c := mustNew(t, config)
	w.Set(name, "two")
	eventually(t, "version 2", func() bool { return c.Secret(name).Version() == 2 })
	c.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v, %v, want a file of mode 0600", info, err)
	}

	w.SetAway(true)
	again := mustNew(t, config)
	wantValue(t, again.Secret(name), "two", 2)
	if err := again.Secret(name).Err(); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable beside a cached value", err)
	}
	w.mustHear(t, client.ErrUnavailable)
	w.Set(name, "three")
	w.SetAway(false)
	eventually(t, "the newest", func() bool { return again.Secret(name).Version() == 3 })
	again.Close()

	// A denial is believed, whatever the cache has.
	w.Deny(name)
	if _, err := client.New(within(t, time.Minute), config); !errors.Is(err, client.ErrDenied) {
		t.Errorf("got %v, want ErrDenied", err)
	}
	w.Allow(name)

	// A name that the cache does not have is waited for.
	w.SetAway(true)
	config.Names = append(config.Names, "prod/billing/key")
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := client.New(short, config); !errors.Is(err, client.ErrUnavailable) ||
		!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 of 2 names") {
		t.Errorf("got %v, want ErrUnavailable for one of two names", err)
	}
}

func TestAnOldCacheIsNotUsed(t *testing.T) {
	w := newWorld(t)
	config := w.config()
	config.Cache = client.File(filepath.Join(t.TempDir(), "cache"))
	mustNew(t, config).Close()
	w.SetAway(true)
	config.MaxCacheAge = time.Hour
	mustNew(t, config).Close()
	config.MaxCacheAge = time.Nanosecond
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := client.New(short, config); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable: the cache is older than a nanosecond", err)
	}
}

func TestACacheThatOthersReadIsRefused(t *testing.T) {
	w := newWorld(t)
	config := w.config()
	path := filepath.Join(t.TempDir(), "cache")
	config.Cache = client.File(path)
	mustNew(t, config).Close()
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := client.New(t.Context(), config); err == nil || !strings.Contains(err.Error(), "others can read it") {
			t.Errorf("mode %o: got %v, want a refusal", mode, err)
		}
	}
	// Nonsense is told, and the value is read from a node.
	for _, content := range []string{"", "{", `{"format":2}`, `{"format":1,"secrets":{"` + name + `":{"version":-1}}}`} {
		write(t, path, content, 0o600)
		wantValue(t, mustNew(t, config).Secret(name), secret, 1)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	wantValue(t, mustNew(t, config).Secret(name), secret, 1)
}

func TestValuesDoNotPrint(t *testing.T) {
	w := newWorld(t)
	s := mustNew(t, w.config()).Secret(name)
	v := s.Value()
	type holder struct {
		Shown  client.Value
		hidden client.Value
		handle *client.Secret
		inner  *client.Value
	}
	h := holder{v, v, s, &v}
	_ = h.hidden
	var printed strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		for _, thing := range []any{v, &v, s, *s, h, &h, []client.Value{v}, map[string]client.Value{"a": v}, []any{s, v},
			[]*client.Secret{s}, struct{ client.Value }{v}, struct{ *client.Secret }{s}} {
			fmt.Fprintf(&printed, verb+"\n", thing)
		}
	}
	if got := fmt.Sprint(v); got != "[redacted]" {
		t.Errorf("got %q, want [redacted]", got)
	}
	if got := fmt.Sprintf("%#v %q %s", s, s, *s); got != "[redacted] [redacted] [redacted]" {
		t.Errorf("got %q, want it redacted", got)
	}
	encoded, err := json.Marshal(map[string]any{"v": v, "s": s, "h": h, "p": &v})
	if err != nil {
		t.Fatal(err)
	}
	printed.Write(encoded)
	slog.New(slog.NewJSONHandler(&printed, nil)).Info("x", "v", v, "s", s, "h", h)
	slog.New(slog.NewTextHandler(&printed, nil)).Info("x", "v", v, "s", s, "h", h)
	for _, spelling := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret),
		strings.Trim(fmt.Sprint([]byte(secret)), "[]"), "Y2FuYXJ5LXZhbHVl"} {
		if strings.Contains(printed.String(), spelling) {
			t.Errorf("a value was printed:\n%s", printed.String())
		}
	}
	if v.String() != secret {
		t.Error("String does not give the value")
	}
	var none client.Value
	if none.String() != "" || none.Bytes() != nil || none.Version() != 0 || !none.CreatedAt().IsZero() ||
		!none.NextRotationAt().IsZero() {
		t.Error("the zero Value has something")
	}
	b := v.Bytes()
	b[0] = 'X'
	if v.String() != secret {
		t.Error("a caller could change the value")
	}
}

func TestAnswersThatAreNotVaultds(t *testing.T) {
	w := newWorld(t)
	for what, answer := range map[string]http.HandlerFunc{
		"a page": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>log in")
		},
		"a 404 of a proxy": func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) },
		"a redirect": func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, w.URL+r.URL.Path, http.StatusTemporaryRedirect)
		},
		"too many bytes": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("ETag", `"0192d5a4-5b5e-7000-8000-0000000000aa"`)
			w.Header().Set("Vault-Version", "9")
			_, _ = w.Write(make([]byte, 64<<10+1))
		},
		"half of it": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.Header().Set("ETag", `"0192d5a4-5b5e-7000-8000-0000000000aa"`)
			w.Header().Set("Vault-Version", "9")
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("half"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			other := httptest.NewServer(answer)
			defer other.Close()
			config := w.config()
			config.Names, config.URL = nil, other.URL
			c := mustNew(t, config)
			if v, err := c.Get(t.Context(), name); !errors.Is(err, client.ErrUnavailable) {
				t.Errorf("got version %d, %v, want ErrUnavailable", v.Version(), err)
			}
			config.URL = other.URL + "," + w.URL
			v, err := mustNew(t, config).Get(t.Context(), name)
			if err != nil || v.String() != secret {
				t.Errorf("got %v, want the value of the node behind it", err)
			}
		})
	}
}

func TestConfigurationsThatCannotWork(t *testing.T) {
	for what, change := range map[string]func(*client.Config){
		"client: URL 1 of 1: want https":                      func(c *client.Config) { c.URL = "" },
		"client: URL 1 of 1: want":                            func(c *client.Config) { c.URL = "db1:8400" },
		"client: URL 2 of 2: want":                            func(c *client.Config) { c.URL += "," },
		"client: URL 1 of 1: it is not":                       func(c *client.Config) { c.URL = "http://[::1" },
		"client: URL 1 of 1: it has a path":                   func(c *client.Config) { c.URL += "/v1" },
		"client: URL 1 of 1: it has more":                     func(c *client.Config) { c.URL = "https://u:canary-value@h" },
		"client: URL 1 of 1: the path":                        func(c *client.Config) { c.URL = "unix://run/vaultd.sock" },
		"client: URL 1 of 1: values":                          func(c *client.Config) { c.URL = "http://db1:8400" },
		"client: Poll is 1ms":                                 func(c *client.Config) { c.Poll = time.Millisecond },
		"client: MaxCacheAge is -1ns":                         func(c *client.Config) { c.MaxCacheAge = -1 },
		"client: Names[1] is empty":                           func(c *client.Config) { c.Names = []string{name, ""} },
		`client: "prod/billing/db" is in Names twice`:         func(c *client.Config) { c.Names = []string{name, name} },
		"client: Token and TokenFile are both":                func(c *client.Config) { c.Token, c.TokenFile = "a", "b" },
		"client: Token: it is empty, too long, or has charac": func(c *client.Config) { c.Token = "canary-value\r\nX: y" },
	} {
		w := newWorld(t)
		config := w.config()
		change(&config)
		_, err := client.New(t.Context(), config)
		if err == nil || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v, want %q", err, what)
		}
	}
	config := newWorld(t).config()
	config.Insecure, config.URL = true, config.URL+",http://db1.invalid:8400"
	mustNew(t, config)
}

func TestUpdater(t *testing.T) {
	w := newWorld(t)
	config := w.config()
	config.Poll = time.Hour // a value that does not work is not tried again while the test runs
	c := mustNew(t, config)
	makes := 0
	u, err := client.NewUpdater(c, name, func(v client.Value) (string, error) {
		makes++
		if v.String() == "bad" {
			return "", errors.New("does not work")
		}
		return "made of " + v.String(), nil
	})
	if err != nil || u.Get() != "made of "+secret || makes != 1 {
		t.Fatalf("got %d makes, %v", makes, err)
	}
	set := func(value string) {
		versions := c.Watch(t.Context(), name)
		w.Set(name, value)
		<-versions
	}
	set("bad")
	for range 3 {
		if got := u.Get(); got != "made of "+secret {
			t.Errorf("got %q of a value that does not work, want the old one", got)
		}
	}
	if makes != 2 {
		t.Errorf("got %d makes of a value that does not work, want one in the time of Poll", makes-1)
	}
	eventually(t, "it is told", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.told) == 1 && strings.Contains(w.told[0].Error(), "version 2: the new value was not put to use")
	})
	set("three")
	if got := u.Get(); got != "made of three" {
		t.Errorf("got %q, want the new one", got)
	}
	if _, err := client.NewUpdater(c, name, func(client.Value) (int, error) { return 0, errors.New("no") }); err == nil {
		t.Error("an updater without a first thing was made")
	}
}
