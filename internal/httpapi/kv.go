package httpapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

// The part of HashiCorp Vault's HTTP API that clients need to read secrets of its KV engine, version 2. It maps to the
// same reads as the native API: kv.go has the routes and errors, kv_answer.go the answers.
//
// OpenBao has the same API. docs/KV.md has the routes and what differs from Vault.

const (
	apiKV      = "kv2"
	apiPrefix  = "/v1/"
	methodList = "LIST"

	// KVVersion is what clients are told of the server. Some compare it with what they need.
	KVVersion = "1.15.0+hyperiondb"

	maxKeys     = 10_000 // in one answer to a listing
	maxVersions = 1000   // in the metadata of a secret: the newest
)

// CheckKVMount returns nil if the routes can be below this path: it is written as the name of a secret, and its first
// part is not one that the API has itself.
func CheckKVMount(text string) error {
	if err := envelope.CheckName(text); err != nil {
		return fmt.Errorf("%q is no mount: %w", text, err)
	}
	first, _, _ := strings.Cut(text, "/")
	if slices.Contains([]string{"secrets", "status", "sys", "auth", "cubbyhole", "identity"}, first) {
		return fmt.Errorf("%q is no mount: /v1/%s is another part of the API; hint: kv_mount = \"secret\"", text, first)
	}
	return nil
}

// kvError is an error of a path of this part of the API that has no endpoint.
type kvError struct{ error }

func (e kvError) Unwrap() error { return e.error }

// speaksKV reports whether the path is of this part of the API, which has its own form of errors.
func speaksKV(find router, r *http.Request) bool {
	e, _, err := find(r)
	var of kvError
	return e != nil && e.api == apiKV || errors.As(err, &of)
}

// withKV hands all paths of version 1 to kv, but for those of the native API.
func withKV(native, kv router) router {
	return func(r *http.Request) (*endpoint, string, error) {
		if _, own := below(r.URL.Path, secretsPath); own || !strings.HasPrefix(r.URL.Path, apiPrefix) {
			return native(r)
		}
		e, secret, err := kv(r)
		if err != nil {
			err = kvError{err}
		}
		return e, secret, err
	}
}

var errPermission = notForClients()

func kvRoutes(o Options) router {
	k := &kv{mount: o.KVMount, ready: &readyCache{checks: o.Checks}}
	return k.routes(kvSource{o.Vault.Get, o.Vault.Summary, o.Vault.Folder})
}

// kvSource is what the endpoints read.
type kvSource struct {
	get     getFunc
	summary summaryFunc
	folder  folderFunc
}

func (k *kv) routes(from kvSource) router {
	data := byMethod{http.MethodGet: k.dataEndpoint(from.get)}
	metadata := byMethod{http.MethodGet: k.metadataEndpoint(from.summary), methodList: k.listEndpoint(from.folder)}
	mounts := byMethod{http.MethodGet: k.mountEndpoint()}
	fixed := map[string]byMethod{
		"auth/token/lookup-self": {http.MethodGet: k.lookupEndpoint()},
		"auth/token/renew-self":  k.tokenChange("renew-self", "lease is not renewable"),
		"auth/token/revoke-self": k.tokenChange("revoke-self", "a token is revoked with vaultctl app revoke"),
		"sys/health":             {http.MethodGet: k.healthEndpoint()},
		"sys/seal-status":        {http.MethodGet: k.sealEndpoint()},
		"sys/init":               {http.MethodGet: initEndpoint()},
	}
	return func(r *http.Request) (*endpoint, string, error) {
		method, path := kvMethod(r), strings.TrimPrefix(r.URL.Path, apiPrefix)
		if rest, ok := below(path, k.mount); ok {
			return k.inMount(method, rest, data, metadata)
		}
		if methods := fixed[path]; methods != nil {
			e, err := methods.find(method)
			return e, "", err
		}
		if mount, ok := mountPath(path); ok {
			if _, ours := below(mount, k.mount); !ours {
				return nil, "", k.noRoute()
			}
			e, err := mounts.find(method)
			return e, "", err
		}
		switch {
		case strings.HasPrefix(path, "sys/"):
			return nil, "", errPermission
		case strings.HasPrefix(path, "auth/"):
			return nil, "", badRequest("there is no login: the client needs the token of an app (vaultctl app create)")
		}
		return nil, "", k.noRoute()
	}
}

// inMount finds the endpoint of what follows the mount.
func (k *kv) inMount(method, rest string, data, metadata byMethod) (*endpoint, string, error) {
	verb, name, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	switch verb {
	case "data":
		e, err := data.find(method)
		return e, name, err
	case "metadata":
		if name == "" && (method == http.MethodGet || method == http.MethodHead) {
			return nil, "", badRequest("no name; a folder is listed with the method LIST, or GET and ?list=true")
		}
		e, err := metadata.find(method)
		return e, name, err
	case "delete", "undelete", "destroy":
		return nil, "", noSuchMethod("")
	}
	return nil, "", k.noRoute()
}

// mountPath returns what a client wants to know the mount of.
func mountPath(path string) (string, bool) {
	for _, prefix := range []string{"sys/internal/ui/mounts/", "sys/mounts/"} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			return rest, true
		}
	}
	return "", false
}

// kvMethod is LIST also for a GET with ?list=true, which clients send where a method of their own may not pass.
func kvMethod(r *http.Request) string {
	if r.Method == http.MethodGet && strings.Contains(r.URL.RawQuery, "list") {
		if params, err := url.ParseQuery(r.URL.RawQuery); err == nil {
			if list, err := strconv.ParseBool(params.Get("list")); err == nil && list {
				return methodList
			}
		}
	}
	return r.Method
}

// checkListParam refuses a ?list= that is neither true nor false. True does not come here: it makes another method.
func checkListParam(params url.Values) error {
	if _, err := strconv.ParseBool(params.Get("list")); err != nil && params.Has("list") {
		return badRequest("list is neither true nor false")
	}
	return nil
}

// checkKVHeaders refuses what a client would otherwise take as done.
func checkKVHeaders(h http.Header) error {
	if h.Get("X-Vault-Namespace") != "" {
		return badRequest("there are no namespaces: leave out X-Vault-Namespace (VAULT_NAMESPACE)")
	}
	if h.Get("X-Vault-Wrap-Ttl") != "" {
		return badRequest("answers are not wrapped: leave out X-Vault-Wrap-TTL")
	}
	return nil
}

// folderOf reads what stands behind "metadata/" in the path of a listing. The root is "", others end with a slash.
func folderOf(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	name := strings.TrimSuffix(text, "/")
	if err := envelope.CheckName(name); err != nil {
		return "", err
	}
	return name + "/", nil
}

// kv is the mount and what its endpoints share.
type kv struct {
	mount string
	ready *readyCache
}

func (k *kv) noRoute() error {
	return badRequest(fmt.Sprintf("unknown path; the one mount is of KV version 2: %[1]s/data/NAME, %[1]s/metadata/NAME",
		k.mount))
}

func (k *kv) dataEndpoint(get getFunc) *endpoint {
	return &endpoint{
		name: "GET kv/data/{name}", api: apiKV, action: audit.Read, access: access.Read, named: true,
		query: []string{"version", "list"}, local: true,
		do: func(ctx context.Context, q *request) (answer, error) {
			version, err := kvVersionOf(q.params)
			if err == nil {
				err = checkListParam(q.params)
			}
			if err != nil {
				return answer{}, err
			}
			return q.readVersion(ctx, get, version, func(s *vault.Secret) answer {
				return kvSecretAnswer(q.id, s, version == 0, time.Now())
			})
		},
	}
}

// kvVersionOf reads ?version=, in which 0 is the current version too.
func kvVersionOf(params url.Values) (int, error) {
	if params.Get("version") == "0" {
		return 0, nil
	}
	return versionOf(params)
}

type summaryFunc func(ctx context.Context, name string, versions int, permit vault.Permit) (db.Summary, error)

func (k *kv) metadataEndpoint(summary summaryFunc) *endpoint {
	return &endpoint{
		name: "GET kv/metadata/{name}", api: apiKV, action: audit.Describe, access: access.Read, named: true,
		query: []string{"list"}, local: true,
		do: func(ctx context.Context, q *request) (answer, error) {
			if err := checkListParam(q.params); err != nil {
				return answer{}, err
			}
			if err := q.waitForReplay(ctx); err != nil {
				return answer{}, err
			}
			ctx, cancel := context.WithTimeout(ctx, ReadTimeout)
			defer cancel()
			s, err := summary(ctx, q.secret, maxVersions, q.permission())
			if err != nil {
				return answer{}, err
			}
			q.event = audit.Event{Action: audit.Describe, Secret: q.secret, Outcome: audit.OK}
			return kvAnswer(q.id, kvMetadata(s), nil), nil
		},
	}
}

type folderFunc func(ctx context.Context, f db.FolderQuery, permit vault.Permit) ([]string, error)

func (k *kv) listEndpoint(list folderFunc) *endpoint {
	return &endpoint{
		name: "LIST kv/metadata/{folder}", api: apiKV, action: audit.List, access: access.List,
		query: []string{"list", "after", "limit"}, local: true,
		do: func(ctx context.Context, q *request) (answer, error) {
			limit, err := limitOf(q.params)
			if err != nil {
				return answer{}, err
			}
			after := q.params.Get("after")
			if after != "" && envelope.CheckName(strings.TrimSuffix(after, "/")) != nil {
				return answer{}, badRequest("after is not a key of a listing")
			}
			if err := q.waitForReplay(ctx); err != nil {
				return answer{}, err
			}
			ctx, cancel := context.WithTimeout(ctx, ReadTimeout)
			defer cancel()
			keys, err := q.listFolder(ctx, list, db.FolderQuery{Folder: q.folder, After: after, Limit: limit + 1})
			if err != nil {
				return answer{}, err
			}
			if len(keys) == 0 {
				return answer{}, vault.ErrNotFound
			}
			var warnings []string
			if len(keys) > limit {
				keys = keys[:limit]
				if !q.params.Has("limit") {
					warnings = []string{fmt.Sprintf("only the first %d keys: ask again with after= the last of them", limit)}
				}
			}
			q.event = audit.Event{Action: audit.List, Outcome: audit.OK,
				Detail: map[string]any{"folder": q.folder, "count": len(keys)}}
			return kvAnswer(q.id, map[string]any{"keys": keys}, warnings), nil
		},
	}
}

// limitOf reads ?limit=. OpenBao's clients send 0 or less for no limit of their own.
func limitOf(params url.Values) (int, error) {
	if !params.Has("limit") {
		return maxKeys, nil
	}
	n, err := strconv.Atoi(params.Get("limit"))
	switch {
	case err != nil:
		return 0, badRequest("limit is not a whole number")
	case n <= 0 || n > maxKeys:
		return maxKeys, nil
	}
	return n, nil
}

func (k *kv) mountEndpoint() *endpoint {
	return &endpoint{
		name: "GET kv/mounts", api: apiKV, action: audit.Identify, identified: true,
		do: func(_ context.Context, q *request) (answer, error) {
			return kvAnswer(q.id, map[string]any{"type": "kv", "path": k.mount + "/", "description": "",
				"options": map[string]string{"version": "2"}}, nil), nil
		},
	}
}

func (k *kv) healthEndpoint() *endpoint {
	return &endpoint{
		// Clients ask for other statuses in states that this server does not have, by many names.
		name: "GET kv/health", api: apiKV, anyQuery: true, quiet: true, exempt: true,
		do: func(ctx context.Context, _ *request) (answer, error) {
			if err := k.ready.check(ctx); err != nil {
				return answer{}, err
			}
			return jsonAnswer(http.StatusOK, kvHealthBody{Initialized: true, ServerTimeUTC: time.Now().Unix(),
				Version: KVVersion}), nil
		},
	}
}

func (k *kv) sealEndpoint() *endpoint {
	return &endpoint{
		name: "GET kv/seal-status", api: apiKV, quiet: true, exempt: true,
		do: func(ctx context.Context, _ *request) (answer, error) {
			if err := k.ready.check(ctx); err != nil {
				return answer{}, err
			}
			return jsonAnswer(http.StatusOK, kvSealBody{Type: "kms", Initialized: true, Version: KVVersion,
				StorageType: "postgresql"}), nil
		},
	}
}

// initEndpoint is what some clients ask before anything else.
func initEndpoint() *endpoint {
	return &endpoint{name: "GET kv/init", api: apiKV, quiet: true, exempt: true,
		do: func(context.Context, *request) (answer, error) {
			return jsonAnswer(http.StatusOK, map[string]bool{"initialized": true}), nil
		}}
}

// kvErrorAnswer has Vault's form of errors. Clients act on a 404 with an empty list as on an absent secret.
func kvErrorAnswer(err error) answer {
	o := outcomeOf(err)
	body := kvErrorBody{Errors: []string{o.message}}
	switch {
	case o.status == http.StatusNotFound:
		body.Errors = []string{}
	case o.status == http.StatusForbidden:
		body.Errors[0] = "permission denied"
		if guards[o.reason] {
			body.Errors[0] += ": " + o.message
		}
	case o.status == http.StatusMethodNotAllowed:
		body.Errors[0] = "secrets are only read here: vaultctl put, rotate and delete change them"
	}
	ans := jsonAnswer(o.status, body)
	if o.retry > 0 {
		ans.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(o.retry.Seconds()))))
	}
	if o.allow != nil {
		ans.header.Set("Allow", *o.allow)
	}
	return ans
}

// guards are the refusals that depend on how the daemon is reached, not on who asks for what.
var guards = map[string]bool{"allowlist": true, "forwarded_for": true, "host": true, "cross_site": true}

type kvErrorBody struct {
	Errors []string `json:"errors"`
}
