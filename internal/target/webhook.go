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
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/rotation"
)

const (
	minHookKey  = 16       // bytes
	maxAnswer   = 16 << 10 // bytes of header; nothing else of an answer is read
	headerSign  = "Vault-Signature"
	headerOnce  = "Idempotency-Key"
	contentType = "application/json"
)

// hooks calls the hosts that vaultd's configuration names, directly: no proxy out of the environment sees a value.
type hooks struct {
	allowed map[string]bool // host:port
	client  *http.Client
}

func newHooks(hosts []string, roots *x509.CertPool) *hooks {
	h := &hooks{allowed: map[string]bool{}}
	for _, text := range hosts {
		if address, err := parseHost(text); err == nil {
			h.allowed[address] = true
		}
	}
	h.client = &http.Client{
		// An answer 3xx is an error: whoever answers would choose who gets the value.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxAnswer,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		},
	}
	return h
}

// parseHost reads HOST or HOST:PORT and returns it with its port, in lower case.
func parseHost(text string) (string, error) {
	u, err := url.Parse("https://" + text)
	if err != nil || u.Host != text || u.Hostname() == "" || strings.ContainsAny(text, "*,") {
		return "", fmt.Errorf("%q is not HOST or HOST:PORT", text)
	}
	return addressOf(u), nil
}

func addressOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// webhook is one signed call. What it promises the receiver: the same Idempotency-Key means the same candidate and step, and
// the signature covers the whole body and the time.
func (t *Targets) webhook(ctx context.Context, step string, s Spec, c rotation.Change) error {
	u, err := url.Parse(s.url)
	if err != nil {
		return errors.New("url= is not a URL with a host")
	}
	if !t.hooks.allowed[addressOf(u)] {
		return fmt.Errorf("%q is not among webhook_hosts in vaultd's configuration", addressOf(u))
	}
	key, err := t.openSecret(ctx, s.key)
	if err != nil {
		return err
	}
	defer clear(key)
	if len(key) < minHookKey {
		return fmt.Errorf("the value of %q is too short to sign with: want %d bytes at least", s.key, minHookKey)
	}
	body := hookBody(step, c)
	defer clear(body)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("url= is not a URL with a host")
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("User-Agent", "hyperiondb-vault")
	request.Header.Set(headerSign, signature(key, time.Now(), body))
	request.Header.Set(headerOnce, onceKey(key, step, c))
	if err := inTime(ctx); err != nil {
		return err
	}
	if err := t.hooks.call(request); err != nil {
		return err
	}
	// An answer that crosses the deadline says nothing: a receiver that gives up when the connection closes may send a 200.
	return inTime(ctx)
}

func (h *hooks) call(request *http.Request) error {
	answer, err := h.client.Do(request)
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
	return fmt.Errorf("%s answered %d", request.URL.Host, answer.StatusCode)
}

// hookBody makes the JSON in one buffer of its own, which never moves. Names of secrets need no escaping.
func hookBody(step string, c rotation.Change) []byte {
	value, encoding := c.Candidate, "utf8"
	if !isText(value) {
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

// onceKey is the same for every attempt of one job's step. It depends on the candidate as well, because after a failover that
// lost the last transactions another job can get the same number: a receiver must not take it for done.
func onceKey(key []byte, step string, c rotation.Change) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "idempotency\n%s\n%d\n%d\n%s\n", c.Secret, c.Version, c.Job, step)
	mac.Write(c.Candidate)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
