package compat_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	vaultapi "github.com/hashicorp/vault/api"
	baoapi "github.com/openbao/openbao/api/v2"
)

// request is what a client is asked to do, and of which daemon.
type request struct {
	URL     string `json:"url"`
	Socket  string `json:"socket"` // "" = over TCP
	Token   string `json:"token"`
	Op      string `json:"op"` // read, metadata, list, lookup, renew, write or health
	Path    string `json:"path"`
	Version int    `json:"version"` // 0 = current
}

// result is what the client makes of the answer.
type result struct {
	Status  int            `json:"status"` // of an error, as the client reports it
	Error   string         `json:"error"`
	Data    map[string]any `json:"data"`
	Version int            `json:"version"`
	Keys    []string       `json:"keys"`
}

// client is one library.
type client interface {
	ask(t *testing.T, r request) result
}

func failed(status int, err error) result { return result{Status: status, Error: err.Error()} }

// hashicorp is github.com/hashicorp/vault/api.
type hashicorp struct{}

func (hashicorp) ask(t *testing.T, r request) result {
	t.Helper()
	config := vaultapi.DefaultConfig()
	config.Address, config.MaxRetries = r.URL, 0
	if r.Socket != "" {
		config.Address = "unix://" + r.Socket
	}
	c, err := vaultapi.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(r.Token)
	got, err := hashicorpAsk(t.Context(), c, r)
	var response *vaultapi.ResponseError
	switch {
	case errors.As(err, &response):
		return failed(response.StatusCode, err)
	case errors.Is(err, vaultapi.ErrSecretNotFound):
		return failed(404, err)
	case err != nil:
		return failed(0, err)
	}
	return got
}

func hashicorpAsk(ctx context.Context, c *vaultapi.Client, r request) (got result, err error) {
	kv := c.KVv2("secret")
	switch r.Op {
	case "read":
		read := func() (*vaultapi.KVSecret, error) { return kv.Get(ctx, r.Path) }
		if r.Version != 0 {
			read = func() (*vaultapi.KVSecret, error) { return kv.GetVersion(ctx, r.Path, r.Version) }
		}
		s, err := read()
		if err != nil {
			return got, err
		}
		return result{Data: s.Data, Version: s.VersionMetadata.Version}, nil
	case "metadata":
		m, err := kv.GetMetadata(ctx, r.Path)
		if err != nil {
			return got, err
		}
		got.Version = m.CurrentVersion
		for v := range m.Versions {
			got.Keys = append(got.Keys, v)
		}
		slices.Sort(got.Keys)
		return got, nil
	case "list":
		s, err := c.Logical().ListWithContext(ctx, "secret/metadata/"+r.Path)
		if err == nil && s == nil {
			err = vaultapi.ErrSecretNotFound
		}
		if err != nil {
			return got, err
		}
		got.Keys, err = texts(s.Data["keys"])
		return got, err
	case "lookup":
		s, err := c.Auth().Token().LookupSelfWithContext(ctx)
		if err != nil {
			return got, err
		}
		got.Keys, err = texts(s.Data["policies"])
		got.Data = map[string]any{"id": s.Data["id"]}
		return got, err
	case "renew":
		_, err := c.Auth().Token().RenewSelfWithContext(ctx, 60)
		return got, err
	case "write":
		_, err := kv.Put(ctx, r.Path, map[string]any{"a": "b"})
		return got, err
	case "health":
		h, err := c.Sys().HealthWithContext(ctx)
		if err != nil {
			return got, err
		}
		s, err := c.Sys().SealStatusWithContext(ctx)
		if err != nil {
			return got, err
		}
		got.Data = map[string]any{"ready": h.Initialized && !s.Sealed}
		return got, nil
	}
	return got, errors.New("unknown " + r.Op)
}

// openbao is github.com/openbao/openbao/api/v2.
type openbao struct{}

func (openbao) ask(t *testing.T, r request) result {
	t.Helper()
	config := baoapi.DefaultConfig()
	config.Address, config.MaxRetries = r.URL, 0
	if r.Socket != "" {
		config.Address = "unix://" + r.Socket
	}
	c, err := baoapi.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(r.Token)
	got, err := openbaoAsk(t.Context(), c, r)
	var response *baoapi.ResponseError
	switch {
	case errors.As(err, &response):
		return failed(response.StatusCode, err)
	case errors.Is(err, baoapi.ErrSecretNotFound):
		return failed(404, err)
	case err != nil:
		return failed(0, err)
	}
	return got
}

func openbaoAsk(ctx context.Context, c *baoapi.Client, r request) (got result, err error) {
	kv := c.KVv2("secret")
	switch r.Op {
	case "read":
		read := func() (*baoapi.KVSecret, error) { return kv.Get(ctx, r.Path) }
		if r.Version != 0 {
			read = func() (*baoapi.KVSecret, error) { return kv.GetVersion(ctx, r.Path, r.Version) }
		}
		s, err := read()
		if err != nil {
			return got, err
		}
		return result{Data: s.Data, Version: s.VersionMetadata.Version}, nil
	case "metadata":
		versions, err := kv.GetVersionsAsList(ctx, r.Path)
		if err != nil {
			return got, err
		}
		for _, v := range versions {
			got.Version = v.Version
			got.Keys = append(got.Keys, strconv.Itoa(v.Version))
		}
		return got, nil
	case "list":
		l, err := kv.List(ctx, r.Path)
		if err == nil && l == nil {
			err = baoapi.ErrSecretNotFound
		}
		if err != nil {
			return got, err
		}
		return result{Keys: l.Keys}, nil
	case "lookup":
		s, err := c.Auth().Token().LookupSelfWithContext(ctx)
		if err != nil {
			return got, err
		}
		got.Keys, err = texts(s.Data["policies"])
		got.Data = map[string]any{"id": s.Data["id"]}
		return got, err
	case "renew":
		_, err := c.Auth().Token().RenewSelfWithContext(ctx, 60)
		return got, err
	case "write":
		_, err := kv.Put(ctx, r.Path, map[string]any{"a": "b"})
		return got, err
	case "health":
		// What External Secrets asks before its first read.
		mount, err := c.Sys().MountInfoWithContext(ctx, "secret")
		if err != nil {
			return got, err
		}
		h, err := c.Sys().HealthWithContext(ctx)
		if err != nil {
			return got, err
		}
		got.Data = map[string]any{"ready": h.Initialized && mount.Type == "kv" && mount.Options["version"] == "2"}
		return got, nil
	}
	return got, errors.New("unknown " + r.Op)
}

func texts(from any) (all []string, err error) {
	list, ok := from.([]any)
	if !ok {
		return nil, errors.New("no list")
	}
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return nil, errors.New("not a text in a list")
		}
		all = append(all, s)
	}
	return all, nil
}

// program is a client in another language: client.py or client.js.
type program struct {
	stdin  io.WriteCloser
	stdout *bufio.Scanner
}

func start(t *testing.T, command ...string) *program {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // ends it
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", strings.Join(command, " "), err)
		}
	})
	return &program{stdin, bufio.NewScanner(stdout)}
}

func (p *program) ask(t *testing.T, r request) (got result) {
	t.Helper()
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.stdin.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	if !p.stdout.Scan() {
		t.Fatalf("the client has ended: %v", p.stdout.Err())
	}
	if err := json.Unmarshal(p.stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	return got
}
