package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/listen"
	"github.com/hyperiondb/vault/internal/vault"
)

// The socket from which systemd reads the credentials of units (LoadCredential=ID:/path/of/the/socket). systemd
// connects from an abstract address that names the unit and the credential, reads to the end, and sends nothing. There
// is no status: a refusal is an empty file, with an error in the log and a record in the audit log.
//
// A connection becomes a request without headers, and takes the same steps as every other: limits, the judgement of its
// app, the read with its permission, the record before the answer.

const (
	apiCred = "cred"

	maxCredentialID = 255
	maxRandom       = 64
)

// unitRequest is what one connection asks for.
type unitRequest struct {
	unit, id string // empty if the name could not be read
	refused  *denial
}

type unitKey struct{}

// unitOf returns nil for a request over HTTP.
func unitOf(ctx context.Context) *unitRequest {
	u, _ := ctx.Value(unitKey{}).(*unitRequest)
	return u
}

// credential is how the configuration names it.
func (u *unitRequest) credential() string { return u.unit + ":" + u.id }

// CheckCredentials returns nil if each key is "UNIT:ID" and each value the name of a secret.
func CheckCredentials(all map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		colon := strings.LastIndexByte(key, ':')
		if colon < 0 {
			return fmt.Errorf(`%q: want "UNIT:ID", such as "billing.service:db"`, key)
		}
		if err := access.CheckUnit(key[:colon]); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
		if !isCredentialID(key[colon+1:]) {
			return fmt.Errorf(`%q: a credential's ID has 1 to %d printable characters of ASCII without "/" and ":"`, key,
				maxCredentialID)
		}
		if len(key)-1 > access.MaxUnitAndID {
			return fmt.Errorf("%q: UNIT and ID have at most %d characters together, or systemd cannot ask for it", key,
				access.MaxUnitAndID)
		}
		if err := envelope.CheckName(all[key]); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
	}
	return nil
}

// isCredentialID: systemd makes it the name of a file.
func isCredentialID(id string) bool {
	return id != "" && len(id) <= maxCredentialID && id != "." && id != ".." &&
		!strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '/' || c == ':' })
}

// parseUnitName reads the name of systemd's socket: @RANDOM/unit/UNIT/ID, where "@" is the zero byte of an abstract
// name.
func parseUnitName(name string) (unit, id string, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[1] != "unit" {
		return "", "", false
	}
	random, abstract := strings.CutPrefix(parts[0], "@")
	if !abstract || random == "" || len(random) > maxRandom || strings.ContainsFunc(random, func(c rune) bool {
		return !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
	}) {
		return "", "", false
	}
	unit, id = parts[2], parts[3]
	return unit, id, access.CheckUnit(unit) == nil && isCredentialID(id)
}

// unitRequestOf believes the name of a peer of the trusted user alone.
func unitRequestOf(p listen.Peer, trusted uint32) *unitRequest {
	switch {
	case !p.Local:
		return &unitRequest{refused: &denial{reason: access.NoIdentity,
			detail: "the system does not tell whose socket it is"}}
	case p.UID != trusted:
		return &unitRequest{refused: &denial{reason: access.NoIdentity,
			detail: fmt.Sprintf("a process of user %d connected, which is not systemd", p.UID)}}
	}
	unit, id, ok := parseUnitName(p.Name)
	if !ok {
		return &unitRequest{refused: &denial{reason: access.NoIdentity,
			detail: "the address of the client's socket names no unit and credential"}}
	}
	return &unitRequest{unit: unit, id: id}
}

// identity is the unit's. As with the user of a process, it is a credential only if an app has it.
func (u *unitRequest) identity() access.Identity {
	return access.Identity{Kind: access.ByUnix, Matches: []string{access.UnitMatch(u.unit)}}
}

// AnswerCredential writes the secret that the configuration gives to the peer's unit, or nothing. It is for a
// listen.OneAnswer.
func (a *API) AnswerCredential(ctx context.Context, p listen.Peer, to io.Writer) {
	defer func() {
		// serve has turned panics of the request into errors, but for the end of ctx.
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			a.log.Error("answering systemd", "error", fmt.Sprintf("panic with a %T", v), "stack", string(debug.Stack()))
		}
	}()
	r := (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, Header: http.Header{}, Body: http.NoBody}).
		WithContext(context.WithValue(ctx, unitKey{}, unitRequestOf(p, a.systemd)))
	a.credentials.ServeHTTP(&credentialWriter{to: to, header: http.Header{}}, r)
}

// credentialHandler is serve with the one endpoint of the socket.
func (a *API) credentialHandler(get getFunc) http.Handler {
	e := credentialEndpoint(get)
	find := func(r *http.Request) (*endpoint, string, error) {
		u := unitOf(r.Context())
		if u.refused != nil {
			return e, "", u.refused
		}
		name, ok := a.guard.Load().policy.Credentials[u.credential()]
		if !ok {
			return e, "", &denial{reason: access.Policy,
				detail: fmt.Sprintf("[credentials] of the configuration has no %q", u.credential())}
		}
		return e, name, nil
	}
	return a.serve(find, func(*http.Request) (client, error) { return client{unix: true}, nil }, a.recordEvent)
}

func credentialEndpoint(get getFunc) *endpoint {
	return &endpoint{
		name: "credential_socket", action: audit.Read, named: true, local: true, access: access.Read, api: apiCred,
		do: func(ctx context.Context, q *request) (answer, error) {
			return q.readVersion(ctx, get, 0, func(s *vault.Secret) answer {
				return answer{contentType: typeBytes, body: bytes.Clone(s.Value)}
			})
		},
	}
}

// credentialWriter passes the value on, and no answer that is an error.
type credentialWriter struct {
	to     io.Writer
	header http.Header
	ok     bool
}

func (w *credentialWriter) Header() http.Header    { return w.header }
func (w *credentialWriter) WriteHeader(status int) { w.ok = status == http.StatusOK }

func (w *credentialWriter) Write(p []byte) (int, error) {
	if !w.ok {
		return len(p), nil
	}
	return w.to.Write(p)
}

// describe names the unit and its credential in an event.
func (u *unitRequest) describe(e *audit.Event) {
	if e.Detail == nil {
		e.Detail = make(map[string]any, 3)
	}
	e.Detail["api"] = apiCred
	if u.unit != "" {
		e.Detail["unit"], e.Detail["unit_credential"] = u.unit, u.id
	}
}

// log adds to the line of a request. systemd shows no refusal, so each is an error here, with what the operator can do.
func (u *unitRequest) log(q *request, err error) (attrs []slog.Attr) {
	if u.unit != "" {
		attrs = append(attrs, slog.String("unit", u.unit), slog.String("unit_credential", u.id))
	}
	var d *denial
	if !errors.As(err, &d) || d.detail != "" {
		return attrs
	}
	switch d.reason {
	case access.NoIdentity:
		attrs = append(attrs, slog.String("hint",
			"vaultctl app create NAME --unit '"+u.unit+"' --no-token --allow "+q.secret))
	case access.Policy:
		attrs = append(attrs, slog.String("hint", "vaultctl app allow "+q.caller.App+" "+q.secret))
	}
	return attrs
}
