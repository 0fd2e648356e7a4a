package target

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/hyperiondb/vault/internal/rotation"
)

const (
	hookPort          = "443"
	minHookKey        = 16       // bytes
	maxAnswer         = 16 << 10 // bytes of header; nothing else of an answer is read
	headerSignature   = "Vault-Signature"
	headerIdempotency = "Idempotency-Key"
	contentType       = "application/json"
)

// hooks calls the hosts that vaultd's configuration lists, directly: no proxy of the environment gets a value.
type hooks struct {
	hosts  hosts
	client *http.Client
	plain  *http.Client // of http, which is for this machine alone
}

func newHooks(list []string, roots *x509.CertPool) *hooks {
	h := &hooks{hosts: newHosts("webhook_hosts", hookPort, list)}
	h.client = newHookClient(roots, h.hosts.dial)
	h.plain = newHookClient(nil, loopbackOnly(h.hosts.dial))
	return h
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// loopbackOnly is for plain http: the name localhost may resolve to another machine.
func loopbackOnly(dial dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if to, ok := conn.RemoteAddr().(*net.TCPAddr); !ok || !to.IP.IsLoopback() {
			_ = conn.Close() // nothing was sent
			return nil, errors.New("plain http leads to another machine, use https")
		}
		return conn, nil
	}
}

func newHookClient(roots *x509.CertPool, dial dialer) *http.Client {
	return &http.Client{
		// An answer 3xx is an error: a receiver must not choose another one for the value.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dial, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxAnswer,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		},
	}
}

// placeOf is the host and port of a URL, in the form that hosts compares.
func placeOf(u *url.URL) (string, bool) {
	return place(u.Hostname(), u.Port(), map[string]string{"http": "80", "https": hookPort}[u.Scheme])
}

// webhook makes one signed call. The same Idempotency-Key means the same candidate and step, and the signature covers
// the whole body and the time.
func (t *Targets) webhook(ctx context.Context, step string, s Spec, c rotation.Change) error {
	body := hookBody(step, c)
	defer clear(body)
	request, err := t.hookRequest(ctx, step, s, c, body)
	if err == nil {
		err = inTime(ctx)
	}
	if err != nil {
		return untouched{err}
	}
	if err := t.hooks.call(request); err != nil {
		return err
	}
	// An answer after the deadline does not count: a receiver that gives up when the connection closes may send a 200.
	return inTime(ctx)
}

func (t *Targets) hookRequest(ctx context.Context, step string, s Spec, c rotation.Change, body []byte) (*http.Request,
	error) {
	u, err := url.Parse(s.url)
	if err != nil {
		return nil, errors.New("url= is not a URL with a host")
	}
	at, ok := placeOf(u)
	if !ok {
		return nil, errors.New("url= is not a URL with a host")
	}
	if err := t.hooks.hosts.allow(at); err != nil {
		return nil, never{err}
	}
	key, err := t.openSecret(ctx, s.key)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if len(key) < minHookKey {
		return nil, fmt.Errorf("the value of %q is too short to sign with: want %d bytes at least", s.key, minHookKey)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("url= is not a URL with a host")
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("User-Agent", "hyperiondb-vault")
	request.Header.Set(headerSignature, signature(key, time.Now(), body))
	request.Header.Set(headerIdempotency, onceKey(key, step, c))
	return request, nil
}

func (h *hooks) call(request *http.Request) error {
	client := h.client
	if request.URL.Scheme == "http" {
		client = h.plain
	}
	answer, err := client.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // without the URL, whose query may be a receiver's token
		}
		return fmt.Errorf("calling %s: %w", request.URL.Host, err)
	}
	_ = answer.Body.Close() // unread: it may repeat the value
	switch {
	case answer.StatusCode >= 200 && answer.StatusCode < 300:
		return nil
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return fmt.Errorf("%s answered %d: redirects are not followed", request.URL.Host, answer.StatusCode)
	}
	return notAccepted{fmt.Errorf("%s answered %d", request.URL.Host, answer.StatusCode)}
}

// hookBody writes the JSON into one buffer that never grows, so that no copy of the value is left. Names of secrets
// need no escaping.
func hookBody(step string, c rotation.Change) []byte {
	value, encoding := c.Candidate, "utf8"
	if !utf8.Valid(value) {
		encoding = "base64"
		value = base64.StdEncoding.AppendEncode(make([]byte, 0, base64.StdEncoding.EncodedLen(len(c.Candidate))), c.Candidate)
		defer clear(value)
	}
	head := fmt.Sprintf(`{"secret":"%s","version":%d,"step":"%s","job":%d,"attempt":%d,"encoding":"%s","value":`,
		c.Secret, c.Version, step, c.Job, c.Attempt, encoding)
	body := append(make([]byte, 0, len(head)+jsonRoom(value)+1), head...)
	return append(appendJSON(body, value), '}')
}

// signature is t=UNIX,v1=HEX: HMAC-SHA256 over the time, a dot and the body.
func signature(key []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// onceKey is the same for every attempt of one job to set the candidate, until a test fails: then the value in force is
// set again, and the candidate has to be set anew. It depends on the candidate as well, because after a failover that
// lost the last transactions another job can get the same number, and a receiver must not take it for done. A test has
// a key for each attempt, since its result depends on the time.
func onceKey(key []byte, step string, c rotation.Change) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "idempotency\n%s\n%d\n%d\n%s\n", c.Secret, c.Version, c.Job, step)
	if !mayRepeat(step, c) {
		fmt.Fprintf(mac, "attempt %d\n", c.Attempt)
	}
	mac.Write(c.Candidate)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// mayRepeat reports whether an earlier attempt may have made the same call.
func mayRepeat(step string, c rotation.Change) bool {
	return step == stepSet && (c.Attempt == 1 || c.Found == rotation.FoundCandidate) && !bytes.Equal(c.Candidate,
		c.Current)
}
