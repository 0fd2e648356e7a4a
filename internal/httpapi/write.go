package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
)

type (
	putFunc    func(ctx context.Context, r vault.PutRequest) (vault.Receipt, error)
	rotateFunc func(ctx context.Context, r vault.RotateRequest) (vault.Receipt, error)
	deleteFunc func(ctx context.Context, c vault.Change, name string, window time.Duration) (vault.Receipt, error)

	// specFunc returns the generator of a secret, "" for a manual one.
	specFunc func(ctx context.Context, name string) (string, error)
)

// defaultWindow is how long a deleted secret can be restored when the request does not say.
const defaultWindow = 7 * 24 * time.Hour

// writeBody is the body of the routes that store a value.
type writeBody struct {
	given
	name     *string // of a create
	generate *string
	every    *string
	grace    *string
	cas      *int // of a put
}

// createEndpoint stores a secret that must not exist yet.
func createEndpoint(put putFunc) *endpoint {
	return &endpoint{
		name: "POST /v1/secrets", action: "put", body: true, admin: true, timeout: WriteTimeout,
		do: func(ctx context.Context, q *request) (answer, error) {
			var b writeBody
			defer b.wipe()
			if err := readJSON(q.http, b.fields("name")); err != nil {
				return answer{}, err
			}
			if b.name == nil {
				return answer{}, badRequest(`field "name" is missing`)
			}
			if err := envelope.CheckName(*b.name); err != nil {
				return answer{}, err
			}
			q.secret = *b.name
			return b.put(ctx, put, vault.PutRequest{Change: q.changed(), Name: *b.name, CreateOnly: true})
		},
	}
}

// putEndpoint stores a new version of a secret, or its first.
func putEndpoint(put putFunc) *endpoint {
	return &endpoint{
		name: "PUT /v1/secrets/{name}", action: "put", named: true, body: true, admin: true, timeout: WriteTimeout,
		do: func(ctx context.Context, q *request) (answer, error) {
			var b writeBody
			defer b.wipe()
			if err := readJSON(q.http, b.fields("cas")); err != nil {
				return answer{}, err
			}
			return b.put(ctx, put, vault.PutRequest{Change: q.changed(), Name: q.secret, CAS: b.cas})
		},
	}
}

// fields returns the fields of both routes, and the one that only this route has.
func (b *writeBody) fields(own string) fields {
	into := b.into(fields{"generate": &b.generate, "rotate_every": &b.every, "grace": &b.grace})
	into[own] = map[string]any{"name": &b.name, "cas": &b.cas}[own]
	return into
}

func (b *writeBody) put(ctx context.Context, put putFunc, r vault.PutRequest) (answer, error) {
	var err error
	if r.Settings.RotateEvery, err = interval("rotate_every", b.every); err != nil {
		return answer{}, err
	}
	if r.Settings.Grace, err = interval("grace", b.grace); err != nil {
		return answer{}, err
	}
	if err := b.misplaced(); err != nil {
		return answer{}, err
	}
	if r.Value, r.Settings.Generator, err = b.value(); err != nil {
		return answer{}, err
	}
	defer envelope.Wipe(r.Value)
	receipt, err := put(ctx, r)
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if receipt.Version == 1 {
		status = http.StatusCreated
	}
	return receiptAnswer(status, receipt), nil
}

// value returns the given value, or a generated one and the canonical spec of its generator, to be stored.
func (b *writeBody) value() ([]byte, *string, error) {
	switch {
	case b.generate != nil && b.present() == 0:
		g, err := rotation.ParseGenerator(*b.generate)
		if err != nil {
			return nil, nil, badRequest(err.Error())
		}
		spec := g.String()
		return g.Generate(), &spec, nil
	case b.generate == nil && b.present() == 1:
		value, err := b.bytes()
		return value, nil, err
	}
	return nil, nil, badRequest(`want exactly one of "value", "value_base64" and "generate"`)
}

func interval(field string, text *string) (*time.Duration, error) {
	if text == nil {
		return nil, nil
	}
	d, err := rotation.ParseInterval(*text)
	if err != nil {
		return nil, fieldError(field, err)
	}
	return &d, nil
}

func deleteEndpoint(remove deleteFunc) *endpoint {
	return &endpoint{
		name: "DELETE /v1/secrets/{name}", action: "delete", named: true, query: []string{"window"}, admin: true,
		timeout: WriteTimeout,
		do: func(ctx context.Context, q *request) (answer, error) {
			window, err := windowOf(q.params)
			if err != nil {
				return answer{}, err
			}
			receipt, err := remove(ctx, q.changed(), q.secret, window)
			if err != nil {
				return answer{}, err
			}
			return receiptAnswer(http.StatusOK, receipt), nil
		},
	}
}

func windowOf(params url.Values) (time.Duration, error) {
	if !params.Has("window") {
		return defaultWindow, nil
	}
	window, err := rotation.ParseInterval(params.Get("window"))
	if err != nil {
		return 0, fieldError("window", err)
	}
	return window, nil
}

// rotateEndpoint replaces the value by the one given, else by one from the secret's generator.
func rotateEndpoint(rotate rotateFunc, spec specFunc) *endpoint {
	return &endpoint{
		name: "POST /v1/secrets/{name}/rotate", action: "rotate", named: true, body: true, admin: true, timeout: WriteTimeout,
		do: func(ctx context.Context, q *request) (answer, error) {
			var b writeBody
			defer b.wipe()
			if q.http.ContentLength != 0 {
				if err := readJSON(q.http, b.into(fields{"grace": &b.grace})); err != nil {
					return answer{}, err
				}
			}
			r := vault.RotateRequest{Change: q.changed(), Name: q.secret}
			var err error
			if r.Grace, err = interval("grace", b.grace); err != nil {
				return answer{}, err
			}
			if r.Value, err = b.nextValue(ctx, q.secret, spec); err != nil {
				return answer{}, err
			}
			defer envelope.Wipe(r.Value)
			receipt, err := rotate(ctx, r)
			if err != nil {
				return answer{}, err
			}
			return receiptAnswer(http.StatusOK, receipt), nil
		},
	}
}

func (b *writeBody) nextValue(ctx context.Context, name string, spec specFunc) ([]byte, error) {
	if err := b.misplaced(); err != nil {
		return nil, err
	}
	switch b.present() {
	case 1:
		return b.bytes()
	case 2:
		return nil, badRequest(`want at most one of "value" and "value_base64"`)
	}
	stored, err := spec(ctx, name)
	if err != nil {
		return nil, err
	}
	if stored == "" {
		return nil, badRequest(`this secret has no generator: give "value" or "value_base64"`)
	}
	g, err := rotation.ParseGenerator(stored)
	if err != nil {
		return nil, err // a 500: the client cannot correct a stored generator
	}
	return g.Generate(), nil
}

// receiptAnswer converts the database's times to UTC. It repeats the position as a header, for the X-Vault-Min-LSN of a
// later read.
func receiptAnswer(status int, r vault.Receipt) answer {
	for _, t := range []**time.Time{&r.CreatedAt, &r.PreviousExpiresAt, &r.NextRotationAt, &r.RestoreUntil} {
		*t = inUTC(*t)
	}
	ans := jsonAnswer(status, r)
	if r.LSN != "" {
		ans.header.Set("Vault-LSN", r.LSN)
	}
	return ans
}
