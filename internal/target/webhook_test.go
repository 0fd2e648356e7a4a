package target

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/rotation"
)

// receiver is a webhook over TLS that checks calls as docs/ROTATORS.md describes.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	got  []call
	fail error // the first call that a careful receiver would refuse
}

type call struct {
	Once string
	Body map[string]any
}

func newReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err == nil {
			err = verify(request, body)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil && r.fail == nil {
			r.fail = err
		}
		c := call{Once: request.Header.Get("Idempotency-Key")}
		if err := json.Unmarshal(body, &c.Body); err != nil && r.fail == nil {
			r.fail = err
		}
		r.got = append(r.got, c)
		answer(w, request)
	}))
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

// verify computes the signature on its own.
func verify(request *http.Request, body []byte) error {
	if request.Method != http.MethodPost || request.Header.Get("Content-Type") != "application/json" ||
		request.Header.Get("Idempotency-Key") == "" {
		return fmt.Errorf("got %s with %v", request.Method, request.Header)
	}
	at, signed, found := strings.Cut(request.Header.Get("Vault-Signature"), ",")
	at, hasTime := strings.CutPrefix(at, "t=")
	signed, hasSign := strings.CutPrefix(signed, "v1=")
	if !found || !hasTime || !hasSign {
		return fmt.Errorf("got signature %q", request.Header.Get("Vault-Signature"))
	}
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > time.Minute {
		return fmt.Errorf("got the time %q (%v)", at, err)
	}
	m := hmac.New(sha256.New, []byte(hookKey))
	fmt.Fprintf(m, "%d.%s", seconds, body)
	got, err := hex.DecodeString(signed)
	if err != nil || !hmac.Equal(got, m.Sum(nil)) {
		return fmt.Errorf("the signature is wrong (%v)", err)
	}
	return nil
}

// targets may call this receiver, and trust its certificate.
func (r *receiver) targets(allowed ...string) *Targets {
	roots := x509.NewCertPool()
	roots.AddCert(r.Certificate())
	if allowed == nil {
		allowed = []string{r.Listener.Addr().String()}
	}
	return newTargets(Options{WebhookHosts: allowed, RootCAs: roots})
}

func (r *receiver) spec(path string) string {
	return "webhook url=" + r.URL + path + " key=" + hookSecret + " timeout=25s"
}

func (r *receiver) mustBeCalled(t *testing.T, times int) []call {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		t.Error(r.fail)
	}
	if len(r.got) != times {
		t.Fatalf("got %d calls, want %d", len(r.got), times)
	}
	return r.got
}

func done(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

func TestAWebhookIsSignedAndHasTheValue(t *testing.T) {
	r := newReceiver(t, done)
	for i, candidate := range []string{"plain", "q\"\\\x00\x1f\x7f\n\u2028ü</script>", "\xff\x00raw",
		strings.Repeat("\x01", 64<<10)} {
		c := change(candidate)
		mustSet(t, r.targets(), r.spec("/rotate?for=app"), c)
		mustTest(t, r.targets(), r.spec("/rotate?for=app"), c)
		calls := r.mustBeCalled(t, 2*i+2)[2*i:]
		value, encoding := candidate, "utf8"
		if strings.HasPrefix(candidate, "\xff") {
			value, encoding = base64.StdEncoding.EncodeToString([]byte(candidate)), "base64"
		}
		for j, step := range []string{"set", "test"} {
			want := map[string]any{"secret": "app/db", "version": 7.0, "job": 42.0, "attempt": 1.0, "step": step, "value": value,
				"encoding": encoding}
			if diff := cmp.Diff(want, calls[j].Body); diff != "" {
				t.Errorf("the body differs (-want +got):\n%.2000s", diff)
			}
		}
	}
}

// The same key for the same work, another for anything else: a receiver that has seen the key may answer at once.
func TestTheIdempotencyKeyStandsForTheJobsStepAndItsCandidate(t *testing.T) {
	r := newReceiver(t, done)
	first := change("value-1")
	again, otherJob, otherValue := first, first, change("value-2")
	again.Attempt, again.Found = 5, rotation.FoundCandidate
	otherJob.Job = 43
	for _, c := range []rotation.Change{first, again, otherJob, otherValue} {
		mustSet(t, r.targets(), r.spec("/"), c)
	}
	mustTest(t, r.targets(), r.spec("/"), first)
	calls := r.mustBeCalled(t, 5)
	if calls[0].Once != calls[1].Once {
		t.Error("two attempts at the same have different keys")
	}
	seen := map[string]bool{}
	for _, c := range calls[1:] {
		seen[c.Once] = true
	}
	if len(seen) != 4 {
		t.Errorf("got %d keys for four different pieces of work", len(seen))
	}
}

func TestOnlyAnAnswer2xxIsDone(t *testing.T) {
	const candidate = "the-candidate-itself"
	elsewhere := newReceiver(t, done)
	for status, says := range map[int]string{
		500: "answered 500", 404: "answered 404", 401: "answered 401", 304: "redirects are not followed",
		301: "redirects are not followed",
		302: "redirects are not followed", 307: "redirects are not followed", 308: "redirects are not followed",
	} {
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", elsewhere.URL)
			w.Header().Set("X-Echo", candidate)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, candidate)
		})
		for _, err := range []error{
			r.targets().Set(t.Context(), r.spec("/?token=of-the-receiver"), change(candidate)),
			r.targets().Test(t.Context(), r.spec("/?token=of-the-receiver"), change(candidate)),
		} {
			wantRefusal(t, err, says, candidate, "of-the-receiver")
		}
		r.mustBeCalled(t, 2)
	}
	elsewhere.mustBeCalled(t, 0)
}

func TestAnEndlessAnswerIsNotRead(t *testing.T) {
	body := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	mustSet(t, body.targets(), body.spec("/"), change("value"))
	header := newReceiver(t, func(w http.ResponseWriter,
		_ *http.Request) {
		w.Header().Set("X", strings.Repeat("x", 1<<20))
	})
	wantRefusal(t, header.targets().Set(t.Context(), header.spec("/"), change("the-candidate-itself")), "calling",
		"the-candidate-itself")
}

func TestOnlyConfiguredHostsAreCalled(t *testing.T) {
	r := newReceiver(t, done)
	_, port, err := net.SplitHostPort(r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, allowed := range [][]string{{}, {"127.0.0.1"}, {"localhost:" + port}, {"hooks.example.com", "127.0.0.1:1"}} {
		wantRefusal(t, r.targets(allowed...).Set(t.Context(), r.spec("/"), change("the-candidate-itself")),
			"not among webhook_hosts", "the-candidate-itself")
	}
	r.mustBeCalled(t, 0)
	mustSet(t, r.targets("hooks.example.com", "127.0.0.1:"+port), r.spec("/"), change("value"))
}

func TestAHostIsComparedWithItsPort(t *testing.T) {
	for url, allowed := range map[string]string{
		"https://Hooks.example.com/x": "hooks.example.com", "https://hooks.example.com:443": "HOOKS.example.com",
		"https://[::1]/":                  "[::1]:443",
		"https://hooks.example.com:8443/": "hooks.example.com:8443",
	} {
		targets := newTargets(Options{WebhookHosts: []string{allowed}, Open: secrets{}.open})
		// It fails at the key, which does not exist: the check of the host has passed.
		wantRefusal(t, targets.Set(t.Context(), "webhook url="+url+" key=k", change("value")), "does not exist")
	}
	for _, bad := range []string{"", "https://h", "h/path", "u@h", "*.example.com", "h:port", "a b", "h,i", "h?x", "h#x"} {
		if err := Check(Options{WebhookHosts: []string{bad}}); err == nil || !strings.Contains(err.Error(),
			"webhook_hosts") {
			t.Errorf("%q: got %v, want a complaint about webhook_hosts", bad, err)
		}
	}
}

func TestACertificateThatIsNotTrustedEndsTheCall(t *testing.T) {
	r := newReceiver(t, done)
	targets := newTargets(Options{WebhookHosts: []string{r.Listener.Addr().String()}})
	wantRefusal(t, targets.Set(t.Context(), r.spec("/"), change("the-candidate-itself")), "certificate",
		"the-candidate-itself")
	r.mustBeCalled(t, 0)
}

func TestAKeyThatIsTooShortOrAwaySignsNothing(t *testing.T) {
	r := newReceiver(t, done)
	for value, says := range map[string]string{"short": "too short", "": "does not exist"} {
		targets := r.targets()
		targets.open = secrets{hookSecret: value}.open
		if value == "" {
			targets.open = secrets{}.open
		}
		wantRefusal(t, targets.Set(t.Context(), r.spec("/"), change("the-candidate-itself")), says, "the-candidate-itself")
	}
	r.mustBeCalled(t, 0)
}

func TestAReceiverThatHangsEndsWithTheDeadline(t *testing.T) {
	over := make(chan struct{})
	r := newReceiver(t, func(_ http.ResponseWriter, request *http.Request) {
		select {
		case <-request.Context().Done():
		case <-over:
		}
	})
	defer close(over)
	spec := strings.Replace(r.spec("/"), "timeout=25s", "timeout=5s", 1)
	wantRefusal(t, r.targets().Set(t.Context(), spec, change("the-candidate-itself")), "not done in time",
		"the-candidate-itself")
	r.mustBeCalled(t, 1)
}

// Many servers send a 200 for a handler that returns without a word, as one does whose client is gone.
func TestAnAnswerAfterTheDeadlineIsNoSuccess(t *testing.T) {
	targets := newTargets(Options{WebhookHosts: []string{"receiver.example"}})
	targets.hooks.client.Transport = transport(func(request *http.Request) (*http.Response, error) {
		<-request.Context().Done()
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: request}, nil
	})
	err := targets.Set(t.Context(), "webhook url=https://receiver.example/ key="+hookSecret+" timeout=1s",
		change("the-candidate-itself"))
	wantRefusal(t, err, "not done in time", "the-candidate-itself")
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(request *http.Request) (*http.Response, error) { return t(request) }

// A reply that is lost is an error; the next attempt carries the same key, by which the receiver knows it.
func TestAReplyThatIsLostIsAskedForAgain(t *testing.T) {
	var lost sync.Once
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		lost.Do(func() { panic(http.ErrAbortHandler) })
		done(w, nil)
	})
	c := change("the-candidate-itself")
	wantRefusal(t, r.targets().Set(t.Context(), r.spec("/"), c), "calling", "the-candidate-itself")
	c.Attempt, c.Found = c.Attempt+1, rotation.FoundCandidate // as its check would say
	mustSet(t, r.targets(), r.spec("/"), c)
	if calls := r.mustBeCalled(t, 2); calls[0].Once != calls[1].Once {
		t.Error("the second attempt cannot be known by its key")
	}
}

func TestAPlainWebhookOnThisMachineIsAllowed(t *testing.T) {
	var calls int
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls++ }))
	defer plain.Close()
	targets := newTargets(Options{WebhookHosts: []string{plain.Listener.Addr().String()}})
	mustSet(t, targets, "webhook url="+plain.URL+" key="+hookSecret, change("value"))
	if calls != 1 {
		t.Errorf("got %d calls, want 1", calls)
	}
}

func TestNoProxyOfTheEnvironmentSeesAValue(t *testing.T) {
	r := newReceiver(t, done)
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	if r.targets().hooks.client.Transport.(*http.Transport).Proxy != nil {
		t.Error("the environment chooses a proxy")
	}
	mustSet(t, r.targets(), r.spec("/"), change("value"))
}

func TestAPanicAndAHangOfATargetAreItsErrors(t *testing.T) {
	const candidate = "the-candidate-itself"
	targets := newTargets(Options{Open: func(context.Context, string) ([]byte, error) { panic(candidate) }})
	spec := "postgres-role role=app via=" + adminSecret
	wantRefusal(t, targets.Set(t.Context(), spec, change(candidate)), "panic of type string", candidate)

	release := make(chan struct{})
	ended := make(chan string)
	err := bounded(t.Context(), 10*time.Millisecond, change(candidate), func(_ context.Context, c rotation.Change) error {
		<-release // it ignores its context
		ended <- string(c.Candidate)
		return nil
	})
	wantRefusal(t, err, "cannot be stopped", candidate)
	close(release)
	if got := <-ended; got != candidate {
		t.Errorf("what was left behind lost its candidate: %q", got)
	}
}
