package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// repetitions of each operation: far more than the rounds that a daemon makes meanwhile.
const repetitions = 100

// operation is one of those that are measured.
type operation struct {
	name   string
	stored bool // on a secret that exists
	one    bool // on the same secret each time
	do     func(ctx context.Context, e *env, d *daemon, secret string) error
}

// secret is the name that a repetition is for.
func (o operation) secret(i int) string {
	if o.one {
		i = 0
	}
	return fmt.Sprintf("%s/%d", strings.ReplaceAll(o.name, " ", "-"), i)
}

var operations = []operation{
	{"first read", true, false, get},
	{"read again", true, true, get}, // its row and its key are in memory
	{"put", false, false, func(ctx context.Context, _ *env, d *daemon, secret string) error {
		return d.request(ctx, http.MethodPut, secret, `{"value":"one"}`, http.StatusCreated)
	}},
	{"rotation", true, false, func(ctx context.Context, e *env, _ *daemon, secret string) error {
		if _, err := e.vault.RequestRotation(ctx, vault.Change{Token: e.token}, secret); err != nil {
			return err
		}
		return await(ctx, func() (bool, error) {
			row, err := e.vault.Describe(ctx, secret)
			return row.CurrentVersion == 2, err
		})
	}},
}

func get(ctx context.Context, _ *env, d *daemon, secret string) error {
	return d.request(ctx, http.MethodGet, secret, "", http.StatusOK)
}

// prepare stores the secrets of an operation that wants them.
func (e *env) prepare(ctx context.Context, o operation) error {
	if !o.stored {
		return nil
	}
	generator := "hex:32"
	for i := range repetitions {
		if i > 0 && o.one {
			return nil
		}
		if _, err := e.vault.Put(ctx, vault.PutRequest{Change: vault.Change{Token: e.token}, Name: o.secret(i),
			Value: []byte("one"), Settings: vault.Settings{Generator: &generator}}); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) request(ctx context.Context, method, secret, body string, want int) error {
	request, err := http.NewRequestWithContext(ctx, method, d.url+"/v1/secrets/"+secret, strings.NewReader(body))
	if err != nil {
		return err
	}
	if body != "" {
		request.Header.Set("Authorization", "Bearer "+vaulttest.Token)
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != want {
		return fmt.Errorf("%s of %q: got status %d, want %d", method, secret, response.StatusCode, want)
	}
	return nil
}

const (
	awaitLimit = time.Minute
	awaitPause = 2 * time.Millisecond
)

// await calls look until it is done, for awaitLimit at most.
func await(ctx context.Context, look func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	again := time.NewTicker(awaitPause)
	defer again.Stop()
	for {
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not done after %s", awaitLimit)
		case <-again.C:
		}
	}
}
