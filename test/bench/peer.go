package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"
)

// peer is a running Vault-compatible server to compare with.
type peer struct {
	address string
	request exchange // with the token: never shown
	client  program  // its command, for an operator; of a peer that was started
}

// peerFrom reads BENCH_PEER_URL, BENCH_PEER_TOKEN and BENCH_PEER_PATH: all of them, or none.
func peerFrom(environ []string) (*peer, error) {
	given := map[string]string{}
	for _, entry := range environ {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "BENCH_PEER_") && value != "" {
			given[name] = value
		}
	}
	if len(given) == 0 {
		return nil, nil
	}
	base, token, path := given["BENCH_PEER_URL"], given["BENCH_PEER_TOKEN"], given["BENCH_PEER_PATH"]
	if base == "" || token == "" || path == "" || len(given) > 3 {
		return nil, errors.New("BENCH_PEER_URL, BENCH_PEER_TOKEN and BENCH_PEER_PATH go together")
	}
	if strings.ContainsAny(token, "\r\n ") {
		return nil, errors.New("BENCH_PEER_TOKEN: not a token")
	}
	u, err := url.Parse(strings.TrimSuffix(base, "/") + "/")
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.User != nil {
		return nil, errors.New("BENCH_PEER_URL: want http://HOST:PORT, without TLS as the others are driven")
	}
	u = u.JoinPath(path)
	port := u.Port()
	if port == "" {
		port = "80"
	}
	return &peer{
		address: net.JoinHostPort(u.Hostname(), port),
		request: exchange{request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\n\r\n",
			u.RequestURI(), u.Host, token)},
	}, nil
}

const (
	peerDatabase = "peer"
	peerSecret   = "v1/secret/data/bench"
)

// startPeer runs the program of a Vault-compatible server, such as OpenBao's bao, as an operator would beside this
// vault: on a database of the same cluster with 32 idle connections, its audit file on, one secret in KV version 2.
func (s *env) startPeer(ctx context.Context, command string) (*peer, *process, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil { // the server takes the port over
		return nil, nil, err
	}
	if err := s.cluster.Primary().Exec(ctx, "postgres", "CREATE DATABASE "+peerDatabase); err != nil {
		return nil, nil, err
	}
	// Vault's documentation has these; OpenBao makes them itself.
	if err := s.cluster.Primary().Exec(ctx, peerDatabase,
		`CREATE TABLE public.peer_kv (parent_path text COLLATE "C" NOT NULL,
			path text COLLATE "C", key text COLLATE "C", value bytea, CONSTRAINT peer_kv_pkey PRIMARY KEY (path, key))`,
		`CREATE INDEX peer_kv_parent ON public.peer_kv (parent_path)`); err != nil {
		return nil, nil, err
	}
	config := fmt.Sprintf(`disable_mlock = true
unsafe_allow_api_audit_creation = true # of OpenBao
storage "postgresql" {
  connection_url       = %q
  table                = "peer_kv"
  max_parallel         = 128
  max_idle_connections = 32
  ha_enabled           = "false"
}
listener "tcp" {
  address     = %q
  tls_disable = true
}
`, s.cluster.Primary().URL(peerDatabase, superuser), address)
	if err := os.WriteFile(s.file("peer.hcl"), []byte(config), 0o600); err != nil {
		return nil, nil, err
	}
	p, err := s.start(ctx, peerRead, exec.Command(command, "server", "-config="+s.file("peer.hcl")),
		func(p *process) (bool, error) {
			p.address = address
			answer, err := get(ctx, "http://"+address+"/v1/sys/init")
			if err != nil {
				return false, nil // not yet
			}
			return answer.StatusCode == http.StatusOK, answer.Body.Close()
		})
	if err != nil {
		return nil, nil, err
	}
	token, err := s.preparePeer(ctx, "http://"+address)
	if err != nil {
		return nil, nil, fmt.Errorf("preparing the peer: %w", err)
	}
	made, err := peerFrom([]string{"BENCH_PEER_URL=http://" + address, "BENCH_PEER_PATH=" + peerSecret,
		"BENCH_PEER_TOKEN=" + token})
	if err != nil {
		return nil, nil, err
	}
	made.client = program{command, []string{"VAULT_ADDR=http://" + address, "VAULT_TOKEN=" + token}} // OpenBao's too
	return made, p, nil
}

// preparePeer returns the root token of a server that it has initialised.
func (s *env) preparePeer(ctx context.Context, url string) (token string, err error) {
	var keys struct {
		Keys []string `json:"keys"`
		Root string   `json:"root_token"`
	}
	call := func(method, path, token, body string, into any) error {
		return callPeer(ctx, method, url+"/v1/"+path, token, body, into)
	}
	if err := call("PUT", "sys/init", "", `{"secret_shares":1,"secret_threshold":1}`, &keys); err != nil {
		return "", err
	}
	if len(keys.Keys) != 1 || keys.Root == "" {
		return "", errors.New("sys/init has answered no key or no token")
	}
	unseal, err := json.Marshal(map[string]string{"key": keys.Keys[0]})
	if err != nil {
		return "", err
	}
	audit, err := json.Marshal(map[string]any{"type": "file",
		"options": map[string]string{"file_path": s.file("peer.audit")}})
	if err != nil {
		return "", err
	}
	for _, step := range []struct{ method, path, body string }{
		{"PUT", "sys/unseal", string(unseal)},
		{"POST", "sys/mounts/secret", `{"type":"kv","options":{"version":"2"}}`},
		{"PUT", "sys/audit/file", string(audit)},
		{"POST", strings.TrimPrefix(peerSecret, "v1/"),
			fmt.Sprintf(`{"data":{"value":"%s"}}`, valueOf("bench", 1, scaleBytes))},
	} {
		// A server that was just unsealed, or an engine that was just mounted, refuses requests for a moment.
		var last error
		err := poll(ctx, startTimeout, longPause, func() (bool, error) {
			last = call(step.method, step.path, keys.Root, step.body, nil)
			return last == nil, nil
		})
		if err != nil {
			return "", fmt.Errorf("%w: %w", err, last)
		}
	}
	return keys.Root, nil
}

func callPeer(ctx context.Context, method, url, token, body string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("X-Vault-Token", token)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: status %d: %.300s", method, request.URL.Path, answer.StatusCode, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// next returns the one request; the peer must answer 200, with any body.
func (p *peer) next() *exchange { return &p.request }
