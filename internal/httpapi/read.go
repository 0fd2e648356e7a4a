package httpapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/strictjson"
	"github.com/hyperiondb/vault/internal/vault"
)

type getFunc func(ctx context.Context, name string, o vault.GetOptions) (*vault.Secret, error)

func getEndpoint(get getFunc) *endpoint {
	return &endpoint{
		name: "GET /v1/secrets/{name}", action: audit.Read, named: true, query: []string{"version", "wait"}, local: true,
		waits:  true,
		access: access.Read,
		do: func(ctx context.Context, q *request) (answer, error) {
			version, err := versionOf(q.params)
			if err != nil {
				return answer{}, err
			}
			kind, err := negotiate(q.http.Header)
			if err != nil {
				return answer{}, err
			}
			return q.readVersion(ctx, get, version, func(s *vault.Secret) answer { return secretAnswer(s, kind) })
		},
	}
}

// readVersion reads a version of the secret that the path names, unless the client has it already, and shows it.
func (q *request) readVersion(ctx context.Context, get getFunc, version int,
	show func(*vault.Secret) answer) (answer, error) {
	held := ifNoneMatch(q.http.Header)
	read := func(fresh bool) (*vault.Secret, error) {
		if err := q.waitForReplay(ctx); err != nil {
			return nil, err
		}
		return get(ctx, q.secret, vault.GetOptions{Version: version, Unless: held.one(), Permit: q.permission(),
			Fresh: fresh, MinLSN: q.minLSN})
	}
	s, err := read(false)
	if q.wait > 0 && errors.Is(err, vault.ErrNotModified) {
		// What the wait has noticed may be newer than the last confirmation.
		s, err = q.waits.untilChanged(ctx, q, held.one(), func() (*vault.Secret, error) { return read(true) })
	}
	if errors.Is(err, vault.ErrNotModified) {
		var of *vault.NotModified
		if errors.As(err, &of) {
			q.unconfirmed = of.Unconfirmed
		}
		q.event = vault.AuditedUnchanged(q.secret, held.one(), q.unconfirmed)
		return notModified(held.one()), nil
	}
	if err != nil {
		return answer{}, err
	}
	defer s.Wipe()
	q.unconfirmed = s.Unconfirmed
	if held.has(s.VersionID) {
		q.event = vault.AuditedUnchanged(q.secret, s.VersionID, s.Unconfirmed)
		return notModified(s.VersionID), nil
	}
	q.event = vault.AuditedGet(q.secret, s)
	return show(s), nil
}

// versionOf reads ?version=; without it, it is 0, the current version.
func versionOf(params url.Values) (int, error) {
	if !params.Has("version") {
		return 0, nil
	}
	text := params.Get("version")
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != text {
		return 0, badRequest("version is not a whole number from 1 to 2147483647")
	}
	return int(n), nil
}

func notModified(id uuid.UUID) answer {
	return answer{status: http.StatusNotModified, etag: etag(id)}
}

func secretAnswer(s *vault.Secret, kind string) answer {
	tag := etag(s.VersionID)
	if kind == typeBytes {
		header := http.Header{}
		header.Set("Vault-Version", strconv.Itoa(s.Version))
		header.Set("Vault-Created-At", timeText(s.CreatedAt))
		setTime(header, "Vault-Rotated-At", s.RotatedAt)
		setTime(header, "Vault-Next-Rotation-At", s.NextRotationAt)
		setTime(header, "Vault-Expires-At", s.ExpiresAt)
		return answer{contentType: typeBytes, etag: tag, header: header, body: bytes.Clone(s.Value)}
	}
	return answer{contentType: typeJSON, etag: tag, body: secretJSON(s, tag[1:len(tag)-1])}
}

func setTime(h http.Header, name string, t *time.Time) {
	if t != nil {
		h.Set(name, timeText(*t))
	}
}

// timeFormat is that of RFC 3339, with the database's microseconds. All times are in UTC.
const timeFormat = time.RFC3339Nano

func timeText(t time.Time) string { return t.UTC().Format(timeFormat) }

// isText: U+0000 is legal in JSON and still breaks readers that end a string there, so it counts as binary.
func isText(value []byte) bool {
	return utf8.Valid(value) && bytes.IndexByte(value, 0) < 0
}

// secretJSON writes the answer by hand into one buffer of the right size: encoding/json would leave copies of the value
// in its pool, and a buffer that grows leaves its old ones.
func secretJSON(s *vault.Secret, versionID string) []byte {
	text := isText(s.Value)
	size := base64.StdEncoding.EncodedLen(len(s.Value)) + 2
	if text {
		size = strictjson.StringSize(s.Value)
	}
	const rest = 384 // field names, version, id and four times
	b := make([]byte, 0, size+strictjson.StringSize([]byte(s.Name))+rest)
	b = append(b, `{"name":`...)
	b = strictjson.AppendString(b, []byte(s.Name))
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, int64(s.Version), 10)
	b = append(b, `,"version_id":"`...)
	b = append(b, versionID...)
	b = append(b, `","value":`...)
	if text {
		b = strictjson.AppendString(b, s.Value)
		b = append(b, `,"encoding":"utf8"`...)
	} else {
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, s.Value)
		b = append(b, `","encoding":"base64"`...)
	}
	b = appendTime(b, "created_at", &s.CreatedAt)
	b = appendTime(b, "rotated_at", s.RotatedAt)
	b = appendTime(b, "next_rotation_at", s.NextRotationAt)
	b = appendTime(b, "expires_at", s.ExpiresAt)
	return append(b, '}', '\n')
}

func appendTime(b []byte, name string, t *time.Time) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	if t == nil {
		return append(b, "null"...)
	}
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, timeFormat)
	return append(b, '"')
}

type verifyFunc func(ctx context.Context, name string, presented []byte, o vault.VerifyOptions) (vault.Verdict, error)

type invalidBody struct {
	Valid bool `json:"valid"`
}

type validBody struct {
	Valid     bool       `json:"valid"`
	Version   int        `json:"version"`
	Match     string     `json:"match"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// verifyEndpoint refuses an empty value (400) and one longer than any secret (413) before a database is asked.
func verifyEndpoint(verify verifyFunc) *endpoint {
	return &endpoint{
		name: "POST /v1/secrets/{name}/verify", action: audit.Verify, named: true, body: true, limited: true, local: true,
		access: access.Verify,
		do: func(ctx context.Context, q *request) (answer, error) {
			presented, err := presentedValue(q.http)
			if err != nil {
				return answer{}, err
			}
			defer envelope.Wipe(presented)
			if err := q.waitForReplay(ctx); err != nil {
				return answer{}, err
			}
			v, err := verify(ctx, q.secret, presented, vault.VerifyOptions{Permit: q.permission(), MinLSN: q.minLSN})
			if err != nil {
				return answer{}, err
			}
			q.unconfirmed = v.Unconfirmed
			q.event = vault.AuditedVerify(q.secret, v)
			if !v.Valid {
				return jsonAnswer(http.StatusOK, invalidBody{}), nil
			}
			return jsonAnswer(http.StatusOK, validBody{Valid: true, Version: v.Version, Match: string(v.Match),
				ExpiresAt: inUTC(v.ExpiresAt)}), nil
		},
	}
}

func inUTC(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

func presentedValue(r *http.Request) ([]byte, error) {
	kind, err := contentType(r.Header, typeJSON, typeBytes)
	if err != nil {
		return nil, err
	}
	if kind == typeBytes {
		value, err := readBody(r, envelope.MaxValueSize)
		if err != nil {
			return nil, err
		}
		return value, checkValue(value)
	}
	var g given
	defer g.wipe()
	if err := readObject(r, g.into(fields{})); err != nil {
		return nil, err
	}
	if err := g.misplaced(); err != nil {
		return nil, err
	}
	if g.present() != 1 {
		return nil, badRequest(`want exactly one of "value" and "value_base64"`)
	}
	return g.bytes()
}
