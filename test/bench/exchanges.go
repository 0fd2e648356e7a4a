package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
)

// random returns a function that picks one of the exchanges, in the same sequence in every run.
func random(exchanges []exchange) func() *exchange {
	dice := rand.New(rand.NewPCG(1, uint64(len(exchanges))))
	return func() *exchange { return &exchanges[dice.IntN(len(exchanges))] }
}

// getRequest asks for a name, with the token of an app unless it is "".
func getRequest(name, token string) []byte {
	if token != "" {
		token = "X-Vault-Token: " + token + "\r\n"
	}
	return fmt.Appendf(nil, "GET /v1/secrets/%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", name, token)
}

func verifyRequest(name string, value []byte) []byte {
	body := fmt.Appendf(nil, `{"value":%q}`, value)
	return fmt.Appendf(nil,
		"POST /v1/secrets/%s/verify HTTP/1.1\r\nHost: localhost\r\n"+
			"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", name, len(body), body)
}

// learnReads reads each name from a server once and checks the value. Later answers must equal the first.
func learnReads(ctx context.Context, address string, names []string, version, size int, token string) ([]exchange,
	error) {
	learnt := make([]exchange, 0, len(names))
	for _, name := range names {
		body, err := fetch(ctx, http.MethodGet, "http://"+address+"/v1/secrets/"+name, nil, token)
		if err != nil {
			return nil, err
		}
		var answer struct {
			Name, Value string
			Version     int
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil, fmt.Errorf("what %s answers for %q: %w", address, name, err)
		}
		if answer.Name != name || answer.Version != version || answer.Value != string(valueOf(name, version, size)) {
			return nil, fmt.Errorf("%s answers %q version %d for %q version %d, or another value", address, answer.Name,
				answer.Version, name, version)
		}
		learnt = append(learnt, exchange{request: getRequest(name, token), body: body})
	}
	return learnt, nil
}

// learnVerifies presents every other name's current value and the others' value in grace.
func learnVerifies(ctx context.Context, address string, names []string, size int) ([]exchange, error) {
	learnt := make([]exchange, 0, len(names))
	for i, name := range names {
		version, match := 2, "current"
		if i%2 == 1 {
			version, match = 1, "grace"
		}
		value := valueOf(name, version, size)
		body, err := fetch(ctx, http.MethodPost, "http://"+address+"/v1/secrets/"+name+"/verify",
			fmt.Appendf(nil, `{"value":%q}`, value), "")
		if err != nil {
			return nil, err
		}
		var answer struct {
			Valid   bool
			Version int
			Match   string
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil, fmt.Errorf("what %s answers for %q: %w", address, name, err)
		}
		if !answer.Valid || answer.Version != version || answer.Match != match {
			return nil, fmt.Errorf("%s answers %+v for version %d of %q", address, answer, version, name)
		}
		learnt = append(learnt, exchange{request: verifyRequest(name, value), body: body})
	}
	return learnt, nil
}

func fetch(ctx context.Context, method, url string, body []byte, token string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("X-Vault-Token", token)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: status %d", method, url, answer.StatusCode)
	}
	return got, err
}
