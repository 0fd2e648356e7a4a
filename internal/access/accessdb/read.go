package accessdb

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/db"
)

// App is an app as it is shown: without fingerprints.
type App struct {
	Name        string       `json:"name"`
	CreatedAt   time.Time    `json:"created_at"`
	CreatedBy   string       `json:"created_by"`
	DisabledAt  *time.Time   `json:"disabled_at,omitempty"`
	Rules       []Rule       `json:"rules"`       // in the order of their patterns
	Credentials []Credential `json:"credentials"` // oldest first, revoked ones too
	db.Committed
}

// Rule is a pattern and what it allows.
type Rule struct {
	Pattern string          `json:"pattern"`
	Actions []access.Action `json:"actions"`
}

// Credential is how an app proves that it is one.
type Credential struct {
	ID         uuid.UUID   `json:"id"`
	Kind       access.Kind `json:"kind"`
	Match      string      `json:"match,omitempty"` // of a token: ""
	Networks   []string    `json:"networks"`        // none: any
	CreatedAt  time.Time   `json:"created_at"`
	CreatedBy  string      `json:"created_by"`
	ExpiresAt  *time.Time  `json:"expires_at,omitempty"`
	RevokedAt  *time.Time  `json:"revoked_at,omitempty"`
	LastUsedAt *time.Time  `json:"last_used_at,omitempty"` // by the audit log, to about a minute; not after a change
	LastClient string      `json:"last_client,omitempty"`  // address of that use; "" over a unix socket
}

// Live reports whether the credential is neither revoked nor expired.
func (c Credential) Live(now time.Time) bool {
	return c.RevokedAt == nil && (c.ExpiresAt == nil || c.ExpiresAt.After(now))
}

// ReadEpoch returns the access epoch of the node. Concurrent callers share a query that begins after the call. Zero:
// the node has none, and nothing may be shown to apps.
func ReadEpoch(ctx context.Context, r *db.Reader) (uuid.UUID, error) { return r.AccessEpoch(ctx) }

// snapshotQuery has at least one row, so that there is an epoch without apps too.
const snapshotQuery = `SELECT e.epoch, a.name, a.disabled_at,
		(SELECT json_agg(json_build_object('pattern', r.pattern, 'actions', r.actions)) FROM vault.app_rules r
			WHERE r.app = a.name),
		(SELECT json_agg(json_build_object('id', c.id, 'kind', c.kind, 'token_sha256', encode(c.token_sha256, 'hex'),
				'match', c.match, 'networks', c.networks, 'created_at', c.created_at, 'expires_at', c.expires_at,
				'revoked_at', c.revoked_at))
			FROM vault.app_credentials c WHERE c.app = a.name)
	FROM (SELECT (SELECT epoch FROM vault.access_epoch) AS epoch) e LEFT JOIN vault.apps a ON true`

// ReadSnapshot reads every app of the node, with the epoch, in one statement. A rule that this program cannot read
// allows nothing, and such a credential proves nothing. ErrUnavailable if the node has no epoch.
func ReadSnapshot(ctx context.Context, r *db.Reader) (access.Snapshot, error) {
	var s access.Snapshot
	_, err := db.Collect(ctx, r, func(row pgx.CollectableRow) (struct{}, error) {
		var epoch uuid.NullUUID
		var name *string
		var rules, credentials []byte
		var a access.App
		err := row.Scan(&epoch, &name, &a.DisabledAt, &rules, &credentials)
		s.Epoch = epoch.UUID
		if err != nil || name == nil {
			return struct{}{}, err
		}
		a.Name = *name
		if a.Rules, err = parseRules(rules); err == nil {
			a.Credentials, err = parseCredentials(credentials)
		}
		s.Apps = append(s.Apps, a)
		return struct{}{}, err
	}, snapshotQuery)
	if err == nil && s.Epoch == uuid.Nil {
		err = &db.Error{Kind: db.ErrUnavailable, Text: "the node has no access epoch"}
	}
	if err != nil {
		return access.Snapshot{}, err
	}
	return s, nil
}

func parseRules(text []byte) ([]access.Rule, error) {
	var stored []Rule
	if err := unmarshal(text, &stored); err != nil {
		return nil, err
	}
	rules := make([]access.Rule, 0, len(stored))
	for _, r := range stored {
		if pattern, err := access.ParsePattern(r.Pattern); err == nil {
			rules = append(rules, access.Rule{Pattern: pattern, Actions: r.Actions})
		}
	}
	return rules, nil
}

func parseCredentials(text []byte) ([]access.Credential, error) {
	var stored []struct {
		Credential
		Fingerprint string `json:"token_sha256"`
	}
	if err := unmarshal(text, &stored); err != nil {
		return nil, err
	}
	credentials := make([]access.Credential, 0, len(stored))
	for _, c := range stored {
		into := access.Credential{ID: c.ID, Kind: c.Kind, Match: c.Match, CreatedAt: c.CreatedAt,
			ExpiresAt: c.ExpiresAt, RevokedAt: c.RevokedAt}
		readable := c.Kind != access.ByToken || len(c.Fingerprint) == 2*len(into.TokenSHA256)
		if c.Kind == access.ByToken && readable {
			_, err := hex.Decode(into.TokenSHA256[:], []byte(c.Fingerprint))
			readable = err == nil
		}
		for _, text := range c.Networks {
			network, err := netip.ParsePrefix(text)
			readable = readable && err == nil
			into.Networks = append(into.Networks, network)
		}
		if readable {
			credentials = append(credentials, into)
		}
	}
	return credentials, nil
}

func unmarshal(text []byte, into any) error {
	if text == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return &db.Error{Kind: db.ErrIntegrity, Text: "an app has a rule or a credential of another form"}
	}
	return nil
}

const appsQuery = `SELECT jsonb_build_object('name', a.name, 'created_at', a.created_at, 'created_by', a.created_by,
		'disabled_at', a.disabled_at,
		'rules', (SELECT coalesce(jsonb_agg(jsonb_build_object('pattern', r.pattern, 'actions', r.actions)
			ORDER BY r.pattern), '[]') FROM vault.app_rules r WHERE r.app = a.name),
		'credentials', (SELECT coalesce(jsonb_agg(to_jsonb(c) - ARRAY['token_sha256', 'app']
				|| jsonb_build_object('last_used_at', u.last_used_at, 'last_client', host(u.last_client))
				ORDER BY c.created_at, c.id), '[]')
			FROM vault.app_credentials c LEFT JOIN vault.app_use u ON u.credential_id = c.id WHERE c.app = a.name))
	FROM vault.apps a`

// Apps lists all apps in the order of their names.
func Apps(ctx context.Context, q db.Querier) ([]App, error) {
	return db.Collect(ctx, q, pgx.RowTo[App], appsQuery+` ORDER BY a.name`)
}

// ReadApp reads one app; ErrNotFound if there is none of that name.
func ReadApp(ctx context.Context, q db.Querier, name string) (App, error) {
	return db.One[App](ctx, q, appsQuery+` WHERE a.name = $1`, name)
}

// Names lists the names of all apps, sorted.
func Names(ctx context.Context, q db.Querier) ([]string, error) {
	return db.Collect(ctx, q, pgx.RowTo[string], `SELECT name FROM vault.apps ORDER BY name`)
}

// Expiring is a live credential and when it ends.
type Expiring struct {
	App       string
	ID        uuid.UUID
	Kind      access.Kind
	ExpiresAt time.Time
}

// ExpiringWithin lists the live credentials of apps that are not disabled and end within a time, the earliest first.
func ExpiringWithin(ctx context.Context, q db.Querier, within time.Duration) ([]Expiring, error) {
	return db.Collect(ctx, q, pgx.RowToStructByPos[Expiring], `SELECT c.app, c.id, c.kind, c.expires_at
		FROM vault.app_credentials c JOIN vault.apps a ON a.name = c.app
		WHERE a.disabled_at IS NULL AND c.revoked_at IS NULL AND c.expires_at > now() AND c.expires_at < now() + $1::interval
		ORDER BY c.expires_at, c.app, c.id`, within)
}
