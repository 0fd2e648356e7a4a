package httpapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/strictjson"
	"github.com/hyperiondb/vault/internal/vault"
)

// kvFrame is around everything that a client gets. Nothing here has a lease.
type kvFrame struct {
	RequestID     string   `json:"request_id"`
	LeaseID       string   `json:"lease_id"`
	Renewable     bool     `json:"renewable"`
	LeaseDuration int      `json:"lease_duration"`
	Data          any      `json:"data"`
	WrapInfo      *string  `json:"wrap_info"`
	Warnings      []string `json:"warnings"`
	Auth          *string  `json:"auth"`
}

// kvAnswer is for answers that hold no value.
func kvAnswer(id string, data any, warnings []string) answer {
	return jsonAnswer(http.StatusOK, kvFrame{RequestID: id, Data: data, Warnings: warnings})
}

// kvSecretAnswer writes the answer by hand into one buffer of the right size, as secretJSON does. The data is the
// value: a JSON object as it is stored, other text as "value", bytes as "value_base64".
func kvSecretAnswer(id string, s *vault.Secret, current bool, now time.Time) answer {
	const rest = 512 // the frame, and metadata with an id and two times
	size := len(s.Value)
	object := strictjson.IsObject(s.Value)
	text := !object && isText(s.Value)
	switch {
	case text:
		size = strictjson.StringSize(s.Value)
	case !object:
		size = base64.StdEncoding.EncodedLen(len(s.Value))
	}
	b := make([]byte, 0, size+len(id)+rest)
	b = append(b, `{"request_id":"`...)
	b = append(b, id...)
	b = append(b, `","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":`...)
	switch {
	case object:
		b = append(b, s.Value...)
	case text:
		b = append(b, `{"value":`...)
		b = strictjson.AppendString(b, s.Value)
		b = append(b, '}')
	default:
		b = append(b, `{"value_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, s.Value)
		b = append(b, `"}`...)
	}
	b = append(b, `,"metadata":{"created_time":"`...)
	b = s.CreatedAt.UTC().AppendFormat(b, timeFormat)
	b = append(b, `","custom_metadata":null,"deletion_time":"`...)
	if s.ExpiresAt != nil {
		b = s.ExpiresAt.UTC().AppendFormat(b, timeFormat)
	}
	b = append(b, `","destroyed":false,"version":`...)
	b = strconv.AppendInt(b, int64(s.Version), 10)
	b = append(b, '}')
	if period, left, ok := nextRotation(s, now); ok && current {
		b = append(b, `,"rotation_period":`...)
		b = strconv.AppendInt(b, period, 10)
		b = append(b, `,"ttl":`...)
		b = strconv.AppendInt(b, left, 10)
	}
	b = append(b, `},"wrap_info":null,"warnings":null,"auth":null}`+"\n"...)
	return answer{contentType: typeJSON, etag: etag(s.VersionID), body: b}
}

const (
	// leastTTL is how soon consul-template reads again a secret whose rotation is due: it comes seconds after that.
	leastTTL = 5
	// overdueRotation is how long after its time a rotation is expected any moment. A paused one never comes.
	overdueRotation = 5 * time.Minute
)

// nextRotation returns the seconds from the last rotation to the next, and those that are left. It is false for a
// secret that the vault does not rotate, or whose rotation is overdue.
func nextRotation(s *vault.Secret, now time.Time) (period, left int64, ok bool) {
	if s.RotatedAt == nil || s.NextRotationAt == nil || now.Sub(*s.NextRotationAt) > overdueRotation {
		return 0, 0, false
	}
	seconds := func(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }
	return max(seconds(s.NextRotationAt.Sub(*s.RotatedAt)), 1), max(seconds(s.NextRotationAt.Sub(now)), leastTTL), true
}

type kvMetadataBody struct {
	CASRequired        bool                     `json:"cas_required"`
	CreatedTime        string                   `json:"created_time"`
	UpdatedTime        string                   `json:"updated_time"`
	CurrentVersion     int                      `json:"current_version"`
	OldestVersion      int                      `json:"oldest_version"`
	MaxVersions        int                      `json:"max_versions"`
	DeleteVersionAfter string                   `json:"delete_version_after"`
	CustomMetadata     *string                  `json:"custom_metadata"`
	Versions           map[string]kvVersionBody `json:"versions"`
}

type kvVersionBody struct {
	CreatedTime  string `json:"created_time"`
	DeletionTime string `json:"deletion_time"` // "" = the current version
	Destroyed    bool   `json:"destroyed"`
}

func kvMetadata(s db.Summary) kvMetadataBody {
	m := kvMetadataBody{CreatedTime: timeText(s.CreatedAt), UpdatedTime: timeText(s.RotatedAt),
		CurrentVersion: s.CurrentVersion, DeleteVersionAfter: "0s", Versions: map[string]kvVersionBody{}}
	for _, v := range s.Versions {
		body := kvVersionBody{CreatedTime: timeText(v.CreatedAt), Destroyed: v.Removed}
		if v.ExpiresAt != nil {
			body.DeletionTime = timeText(*v.ExpiresAt)
		}
		m.Versions[strconv.Itoa(v.Version)] = body
		m.OldestVersion = v.Version
	}
	return m
}

// errRulesChanged says that the rules of the caller are newer than those that a listing was made by.
var errRulesChanged = errors.New("the rules of the caller have changed")

// listFolder lists what leads to a name that the caller may list. If the permit shows that its rules are newer, it
// lists again.
func (q *request) listFolder(ctx context.Context, list folderFunc, f db.FolderQuery) (keys []string, err error) {
	for range 3 {
		epoch := q.caller.epoch
		f.Ranges = q.listable()
		permit := q.permission()
		if permit != nil {
			permit = func(ctx context.Context, read uuid.UUID) error {
				err := q.permit(ctx, read)
				if err == nil && q.caller.epoch != epoch {
					err = errRulesChanged
				}
				return err
			}
		}
		keys, err = list(ctx, f, permit)
		if !errors.Is(err, errRulesChanged) {
			return keys, err
		}
	}
	return nil, fmt.Errorf("%w: %w", vault.ErrUnavailable, err)
}

// listable are the names that the caller may list, in the folder and elsewhere.
func (q *request) listable() []db.NameRange {
	if q.caller.App == "" { // admitted by its address
		return []db.NameRange{db.Below("")}
	}
	return rangesOf(q.caller.listable)
}

func rangesOf(patterns []access.Pattern) []db.NameRange {
	ranges := make([]db.NameRange, 0, len(patterns))
	for _, p := range patterns {
		if prefix, ok := strings.CutSuffix(p.String(), "*"); ok {
			ranges = append(ranges, db.Below(prefix))
		} else {
			ranges = append(ranges, db.Only(p.String()))
		}
	}
	return ranges
}

type kvTokenBody struct {
	Accessor       uuid.UUID         `json:"accessor"`
	CreationTime   int64             `json:"creation_time"`
	CreationTTL    int64             `json:"creation_ttl"`
	DisplayName    string            `json:"display_name"`
	EntityID       string            `json:"entity_id"`
	ExpireTime     *string           `json:"expire_time"`
	ExplicitMaxTTL int64             `json:"explicit_max_ttl"`
	ID             string            `json:"id"`
	IssueTime      string            `json:"issue_time"`
	Meta           map[string]string `json:"meta"`
	NumUses        int               `json:"num_uses"`
	Orphan         bool              `json:"orphan"`
	Path           string            `json:"path"`
	Policies       []string          `json:"policies"`
	Renewable      bool              `json:"renewable"`
	TTL            int64             `json:"ttl"` // seconds; 0 = it does not expire
	Type           string            `json:"type"`
}

// lookupEndpoint tells a client of its own credential. Clients look here whether they are logged in, so without one it
// is a refusal.
func (k *kv) lookupEndpoint() *endpoint {
	return &endpoint{
		name: "GET kv/token", api: apiKV, action: audit.Identify, identified: true,
		do: func(_ context.Context, q *request) (answer, error) {
			if err := q.wantCredential(); err != nil {
				return answer{}, err
			}
			c := &q.caller
			body := kvTokenBody{Accessor: c.Credential, DisplayName: c.App, Meta: map[string]string{"app": c.App},
				CreationTime: c.CreatedAt.Unix(), IssueTime: timeText(c.CreatedAt), Orphan: true,
				Path: "auth/token/create", Policies: []string{c.App}, Type: "service"}
			body.ID, _, _ = presentedToken(q.http.Header) // empty for a certificate or socket
			if c.ExpiresAt != nil {
				expires := timeText(*c.ExpiresAt)
				body.ExpireTime = &expires
				body.CreationTTL = int64(c.ExpiresAt.Sub(c.CreatedAt).Seconds())
				body.TTL = max(int64(time.Until(*c.ExpiresAt).Seconds()), 1) // 0 would be without end
			}
			return kvAnswer(q.id, body, nil), nil
		},
	}
}

// wantCredential refuses a client that is admitted by its address or as anonymous.
func (q *request) wantCredential() error {
	if q.caller.Credential == uuid.Nil {
		return &denial{reason: access.NoIdentity}
	}
	return nil
}

// tokenChange refuses to change a token. Clients that renew theirs stop to do so after this answer.
func (k *kv) tokenChange(path, why string) byMethod {
	e := &endpoint{
		name: "PUT kv/token/" + path, api: apiKV, action: audit.Identify, identified: true, body: true,
		do: func(_ context.Context, q *request) (answer, error) {
			if err := q.wantCredential(); err != nil {
				return answer{}, err
			}
			return answer{}, badRequest(why)
		},
	}
	return byMethod{http.MethodPut: e, http.MethodPost: e}
}

type kvHealthBody struct {
	Initialized                bool   `json:"initialized"`
	Sealed                     bool   `json:"sealed"`
	Standby                    bool   `json:"standby"`
	PerformanceStandby         bool   `json:"performance_standby"`
	ReplicationPerformanceMode string `json:"replication_performance_mode"`
	ReplicationDRMode          string `json:"replication_dr_mode"`
	ServerTimeUTC              int64  `json:"server_time_utc"`
	Version                    string `json:"version"`
}

type kvSealBody struct {
	Type        string `json:"type"`
	Initialized bool   `json:"initialized"`
	Sealed      bool   `json:"sealed"`
	T           int    `json:"t"`
	N           int    `json:"n"`
	Progress    int    `json:"progress"`
	Nonce       string `json:"nonce"`
	Version     string `json:"version"`
	Migration   bool   `json:"migration"`
	StorageType string `json:"storage_type"`
}

// readyCache runs the readiness checks for clients, at most once a second for all of them.
type readyCache struct {
	checks []Check

	mu      sync.Mutex
	at      time.Time
	failing []string
}

// check names the parts that fail. What is wrong with them is shown on the health listener only.
func (c *readyCache) check(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) > time.Second {
		c.failing = c.failing[:0]
		for name := range failingParts(context.WithoutCancel(ctx), c.checks) {
			c.failing = append(c.failing, name)
		}
		slices.Sort(c.failing)
		c.at = time.Now()
	}
	if len(c.failing) == 0 {
		return nil
	}
	return &refusal{outcome{status: http.StatusServiceUnavailable, code: "unavailable", retry: retryUnavailable,
		message: "not ready: " + strings.Join(c.failing, ", ")}}
}
