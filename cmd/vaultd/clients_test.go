package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates of clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	a := authority{cert: &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	a.cert, a.key = a.sign(t, a.cert, name)
	return a
}

func (a authority) sign(t *testing.T, template *x509.Certificate, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(1), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// write puts the authority's certificate into a file.
func (a authority) write(t *testing.T, path string) {
	t.Helper()
	mustWrite(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
}

// client shows a certificate of the authority, if there is one. It keeps its session.
func (a authority) client(t *testing.T, sessions tls.ClientSessionCache) *http.Client {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: sessions}
	if a.cert != nil {
		cert, key := a.sign(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, "billing")
		// GetClientCertificate shows it to a server that asks for another authority's, too.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}, nil
		}
	}
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// answer is the status of a read, or "refused" if the handshake ended it.
func answer(t *testing.T, d *daemon, client *http.Client) string {
	t.Helper()
	response, err := client.Get(d.urls["VAULTD_URL"] + "/v1/secrets/a")
	if err != nil {
		if !strings.Contains(err.Error(), "tls:") {
			t.Fatalf("got %v, want a refusal in the handshake", err)
		}
		return "refused"
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(response.StatusCode)
}

// The database of this daemon does not answer. So 503 means that the certificate is to be judged, or that none is
// needed; 403 that it does not count.
func TestAuthoritiesOfClientsAreReloaded(t *testing.T) {
	dir := t.TempDir()
	cert, key, ca := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")
	mustCertificate(t, cert, key, 1)
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	ours.write(t, ca)
	settings := open + fmt.Sprintf("tls_cert = %q\ntls_key = %q\ntls_client_ca = %q\n", cert, key, ca)
	d := startDaemon(t, settings)
	none := authority{}
	for about, c := range map[string]struct {
		by   authority
		want string
	}{"ours": {ours, "503"}, "another authority's": {others, "refused"}, "none": {none, "503"}} {
		if got := answer(t, d, c.by.client(t, nil)); got != c.want {
			t.Errorf("a certificate of %s: got %s, want %s", about, got, c.want)
		}
	}

	sessions := tls.NewLRUClientSessionCache(8)
	kept, resumed := ours.client(t, nil), ours.client(t, sessions)
	if a, b := answer(t, d, kept), answer(t, d, resumed); a != "503" || b != "503" {
		t.Fatalf("got %s and %s, want both judged", a, b)
	}
	if _, ok := sessions.Get("127.0.0.1"); !ok {
		t.Fatal("the client has no session to resume")
	}
	resumed.CloseIdleConnections()
	others.write(t, ca)
	d.hup(t)
	if got := answer(t, d, kept); got != "403" {
		t.Errorf("a connection from before: got %s, want 403: %s", got, d.log)
	}
	if got := answer(t, d, resumed); got != "403" && got != "refused" {
		t.Errorf("a session from before: got %s, want it refused", got)
	}
	if got := answer(t, d, others.client(t, nil)); got != "503" {
		t.Errorf("a certificate of the new authority: got %s, want it judged", got)
	}

	mustWrite(t, d.config, settings+"tls_client_auth = \"require\"\n")
	d.hup(t)
	if got := answer(t, d, none.client(t, nil)); got != "refused" {
		t.Errorf("no certificate where one is required: got %s", got)
	}
	mustWrite(t, ca, "nothing")
	d.hup(t)
	if got := answer(t, d, others.client(t, nil)); got != "503" {
		t.Errorf("after a reload that failed: got %s, want the settings of before", got)
	}
	if !strings.Contains(d.log.String(), "holds no certificate") {
		t.Error("the log does not say why the reload failed")
	}
}

func TestSettingsOfAccessThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	mustCertificate(t, cert, key, 1)
	withTLS := fmt.Sprintf("tls_cert = %q\ntls_key = %q\n", cert, key)
	ca := filepath.Join(dir, "ca.pem")
	newAuthority(t, "ours").write(t, ca)
	clientCA := fmt.Sprintf("tls_client_ca = %q\n", ca)
	for settings, want := range map[string]string{
		`access = "app"`: `access "app": allowlist or apps`,
		`access = ""`:    `access "": allowlist or apps`,
		withTLS + clientCA + `tls_client_auth = "maybe"`: `tls_client_auth "maybe": request or require`,
		clientCA:                                "clients show certificates over TLS only",
		withTLS + `tls_client_auth = "require"`: "set tls_client_ca",
		withTLS + fmt.Sprintf("tls_client_ca = %q", cert): "is not an authority's",
		withTLS + fmt.Sprintf("tls_client_ca = %q", key):  "it should hold certificates only",
		withTLS + `tls_client_ca = "/nowhere.pem"`:        "tls_client_ca: open /nowhere.pem",
		"app_rate = -1.0":    "app_rate = -1",
		"total_at_once = -1": "total_at_once = -1",
		"address_rate = nan": "address_rate = NaN",
	} {
		path := mustWrite(t, filepath.Join(dir, "vaultd.toml"), open+settings+"\n")
		if _, err := loadConfig(path, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", settings, err, want)
		}
	}
}
