package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/listen"
)

const open = `listen = ["127.0.0.1:0"]
allow = ["127.0.0.1"]
`

func TestADaemonWhoseDatabaseIsAwayStartsAndSaysSo(t *testing.T) {
	d := startDaemon(t, open)
	if got := d.status(t); got != http.StatusServiceUnavailable {
		t.Errorf("got status %d for a secret, want 503", got)
	}
	for path, want := range map[string]struct {
		status int
		says   string
	}{
		"/healthz":   {200, `"ok":true`},
		"/livez":     {200, `"ok":true`},
		"/readyz":    {503, `"database":`},
		"/v1/status": {503, `"error":"unavailable"`},
		"/metrics":   {200, "vaultd_http_requests_total"},
	} {
		response, err := d.client.Get(d.urls["VAULTD_HEALTH_URL"] + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != want.status || !strings.Contains(string(body), want.says) {
			t.Errorf("%s: got %d %.200q, %v, want %d with %s", path, response.StatusCode, body, err, want.status, want.says)
		}
	}
	if code := d.end(t); code != exitDone {
		t.Errorf("got exit code %d, want %d", code, exitDone)
	}
}

// asking sends a request that the database keeps waiting, and returns a channel for its status.
func asking(t *testing.T, d *daemon) <-chan int {
	t.Helper()
	d.database.hang()
	answer := make(chan int, 1)
	go func() { answer <- d.status(t) }()
	until(t, "the request waits for the database", func() bool {
		response, err := d.client.Get(d.urls["VAULTD_HEALTH_URL"] + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		page, _ := io.ReadAll(response.Body)
		return strings.Contains(string(page), "vaultd_http_requests_in_flight 2") // and this one
	})
	return answer
}

func TestARequestUnderWayIsAnsweredBeforeTheEnd(t *testing.T) {
	d := startDaemon(t, open+`shutdown_grace = "15s"`)
	answer := asking(t, d)
	d.stop()
	until(t, "nobody is let in any more", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(d.urls["VAULTD_URL"], "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	select {
	case code := <-d.code:
		t.Fatalf("vaultd ended with %d while a request was under way", code)
	case got := <-answer:
		t.Fatalf("the request got %d from a database that hangs", got)
	default:
	}
	d.database.release()
	if got := <-answer; got != http.StatusServiceUnavailable {
		t.Errorf("got status %d, want the request answered", got)
	}
	if code := d.end(t); code != exitDone {
		t.Errorf("got exit code %d, want %d", code, exitDone)
	}
}

func TestARequestOverTheGraceIsCutOff(t *testing.T) {
	d := startDaemon(t, open+`shutdown_grace = "0"`)
	answer := asking(t, d)
	if code := d.end(t); code != exitDone {
		t.Errorf("got exit code %d, want %d", code, exitDone)
	}
	if got := <-answer; got != 0 {
		t.Errorf("got status %d, want no answer", got)
	}
	if !strings.Contains(d.log.String(), "cut off") {
		t.Error("the log does not say that a request was cut off")
	}
}

func TestReloadChangesThePolicyAndABadFileKeepsIt(t *testing.T) {
	d := startDaemon(t, open)
	if got := d.status(t); got != http.StatusServiceUnavailable {
		t.Fatalf("got status %d, want to be let in to a database that is away", got)
	}
	mustWrite(t, d.config, `allow = []`)
	d.hup(t)
	if got := d.status(t); got != http.StatusForbidden {
		t.Fatalf("got status %d, want 403 under the new allowlist", got)
	}
	for i, bad := range []string{"allow = [", `alow = ["127.0.0.1"]`, `allow = ["127.0.0.1/8"]`,
		open + `log_level = "loud"`} {
		mustWrite(t, d.config, bad)
		d.hup(t)
		if got := strings.Count(d.log.String(), "reloading failed"); got != i+1 {
			t.Errorf("%q: got %d failed reloads in the log, want %d", bad, got, i+1)
		}
		if got := d.status(t); got != http.StatusForbidden {
			t.Errorf("%q: got status %d, want the old allowlist", bad, got)
		}
	}
	mustWrite(t, d.config, open)
	d.hup(t)
	if got := d.status(t); got != http.StatusServiceUnavailable {
		t.Errorf("got status %d, want to be let in again", got)
	}
}

// mustCertificate writes a fresh certificate for 127.0.0.1 with this serial number, and its key.
func mustCertificate(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	mustCertificateFor(t, cert, key, serial, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
}

// mustCertificateFor is the same with a time of validity.
func mustCertificateFor(t *testing.T, cert, key string, serial int64, from, until time.Time) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: from, NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"vault.example.org", "*.wild.example.org"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	mustWrite(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

// serial is the serial number of the certificate that a new connection gets.
func serial(t *testing.T, d *daemon) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(d.urls["VAULTD_URL"], "https://"),
		&tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestReloadChangesTheCertificateAndABadOneKeepsIt(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	mustCertificate(t, cert, key, 1)
	d := startDaemon(t, open+"tls_cert = \""+cert+"\"\ntls_key = \""+key+"\"\n")
	if got := serial(t, d); got != 1 {
		t.Fatalf("got certificate %d, want 1", got)
	}
	mustCertificate(t, cert, key, 2)
	d.hup(t)
	if got := serial(t, d); got != 2 {
		t.Errorf("got certificate %d after the reload, want 2", got)
	}
	mustCertificate(t, cert, filepath.Join(dir, "other.pem"), 3) // which does not fit the key
	d.hup(t)
	if got := serial(t, d); got != 2 {
		t.Errorf("got certificate %d, want 2 as long as the new one does not fit its key", got)
	}
	d.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	if got := d.status(t); got != http.StatusServiceUnavailable {
		t.Errorf("got status %d over tls, want the answer of the daemon", got)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	mustCertificate(t, cert, key, 1)
	d := startDaemon(t, open+"tls_cert = \""+cert+"\"\ntls_key = \""+key+"\"\n")
	address := strings.TrimPrefix(d.urls["VAULTD_URL"], "https://")
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11})
	if err == nil {
		conn.Close()
		t.Error("a client with nothing newer than tls 1.1 was let in")
	}
}

func TestTLS12HasNoCBC(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	mustCertificate(t, cert, key, 1)
	d := startDaemon(t, open+"tls_cert = \""+cert+"\"\ntls_key = \""+key+"\"\n")
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) || strings.Contains(suite.Name, "RSA_WITH") {
			continue // of 1.3, or for a key that this daemon does not have
		}
		conn, err := tls.Dial("tcp", strings.TrimPrefix(d.urls["VAULTD_URL"], "https://"),
			&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}})
		if err == nil {
			conn.Close()
		}
		aead := strings.Contains(suite.Name, "GCM") || strings.Contains(suite.Name, "POLY1305")
		if (err == nil) != aead {
			t.Errorf("%s: got %v, want it taken: %t", suite.Name, err, aead)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	// A killed daemon leaves its socket behind.
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()

	d := startDaemon(t, "listen = [\"unix:"+path+"\"]\nsocket_mode = \"0600\"\n")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a socket of mode 0600", info, err)
	}
	if got := d.urls["VAULTD_URL"]; got != "unix:"+path {
		t.Errorf("got address %q, want %q", got, "unix:"+path)
	}
	d.client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	d.urls["VAULTD_URL"] = "http://vaultd"
	if got := d.status(t); got != http.StatusServiceUnavailable {
		t.Errorf("got status %d, want to be let in by the mode of the socket, with no allowlist", got)
	}
	if l, err := listen.Open("unix:"+path, 0o600); err == nil {
		l[0].Close()
		t.Error("the socket of a daemon that lives was taken over")
	}
	if got := d.status(t); got != http.StatusServiceUnavailable {
		t.Errorf("got status %d, want the first daemon still to answer", got)
	}
}

func TestAnAddressInUseEndsTheDaemon(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	t.Setenv("VAULTD_DATABASE_URL", newDatabase(t).url())
	t.Setenv("VAULTD_HEALTH_LISTEN", "")
	t.Setenv("VAULTD_LISTEN", taken.Addr().String())
	var log journal
	if code := execute(t.Context(), nil, io.Discard, &log, nil); code != exitFailed {
		t.Errorf("got exit code %d, want %d: %s", code, exitFailed, &log)
	}
	if !strings.Contains(log.String(), "listening on") {
		t.Errorf("got %s, want the address named", &log)
	}
}
