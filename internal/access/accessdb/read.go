package accessdb

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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

// snapshotQuery has at least one row, so that there is an epoch without apps too. What only a superuser can have
// stored, such as an infinite time, must not keep the other apps from being read: it comes as JSON, each rule and
// credential by itself.
const snapshotQuery = `SELECT e.epoch, a.name, a.disabled_at IS NOT NULL,
		(SELECT json_agg(json_build_object('pattern', r.pattern, 'actions', r.actions) ORDER BY r.pattern)
			FROM vault.app_rules r WHERE r.app = a.name),
		(SELECT json_agg(json_build_object('id', c.id, 'kind', c.kind, 'token_sha256', encode(c.token_sha256, 'hex'),
				'match', c.match, 'networks', c.networks, 'created_at', c.created_at, 'expires_at', c.expires_at,
				'revoked_at', c.revoked_at))
			FROM vault.app_credentials c WHERE c.app = a.name)
	FROM (SELECT (SELECT epoch FROM vault.access_epoch) AS epoch) e LEFT JOIN vault.apps a ON true`

// ReadSnapshot reads every app of the node, with the epoch, in one statement. What this program cannot read allows
// nothing, see [Faults]. ErrUnavailable if the node has no epoch.
func ReadSnapshot(ctx context.Context, r *db.Reader) (access.Snapshot, error) {
	s, _, err := readSnapshot(ctx, r)
	return s, err
}

// Fault is a part of an app that a daemon cannot read, and so does not go by: a rule allows nothing, a credential
// proves nothing. The checks of the database refuse such a part, so it was stored past them.
type Fault struct {
	App  string
	Part string // "" = the app itself
}

// Faults lists them in the order of the apps' names.
func Faults(ctx context.Context, r *db.Reader) ([]Fault, error) {
	_, faults, err := readSnapshot(ctx, r)
	slices.SortFunc(faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Part, b.Part))
	})
	return faults, err
}

func readSnapshot(ctx context.Context, r *db.Reader) (s access.Snapshot, faults []Fault, err error) {
	var epoch uuid.NullUUID
	_, err = db.Collect(ctx, r, func(row pgx.CollectableRow) (struct{}, error) {
		var name *string
		var disabled bool
		var rules, credentials []json.RawMessage
		if err := row.Scan(&epoch, &name, &disabled, &rules, &credentials); err != nil || name == nil {
			return struct{}{}, err
		}
		a := access.App{Name: *name}
		fault := func(part string) { faults = append(faults, Fault{a.Name, part}) }
		if access.CheckAppName(a.Name) != nil {
			fault("")
			return struct{}{}, nil
		}
		if disabled {
			a.DisabledAt = new(time.Time)
		}
		a.Rules, a.Credentials = parseRules(rules, fault), parseCredentials(credentials, fault)
		s.Apps = append(s.Apps, a)
		return struct{}{}, nil
	}, snapshotQuery)
	if s.Epoch = epoch.UUID; err == nil && s.Epoch == uuid.Nil {
		err = &db.Error{Kind: db.ErrUnavailable, Text: "the node has no access epoch"}
	}
	if err != nil {
		return access.Snapshot{}, nil, err
	}
	return s, append(faults, dropAmbiguous(s)...), nil
}

func parseRules(stored []json.RawMessage, fault func(string)) []access.Rule {
	rules := make([]access.Rule, 0, len(stored))
	for _, text := range stored {
		var pattern struct{ Pattern string }
		var r Rule
		named := json.Unmarshal(text, &pattern) // also where the actions cannot be read
		err := json.Unmarshal(text, &r)
		parsed, bad := access.ParsePattern(r.Pattern)
		for _, action := range r.Actions {
			if _, unknown := access.ParseAction(string(action)); err == nil {
				err = unknown
			}
		}
		if err = errors.Join(named, err, bad); err != nil {
			fault(fmt.Sprintf("rule %q", pattern.Pattern))
			continue
		}
		rules = append(rules, access.Rule{Pattern: parsed, Actions: r.Actions})
	}
	return rules
}

func parseCredentials(stored []json.RawMessage, fault func(string)) []access.Credential {
	credentials := make([]access.Credential, 0, len(stored))
	for _, text := range stored {
		c, err := parseCredential(text)
		if err != nil {
			var named struct{ ID string }
			_ = json.Unmarshal(text, &named) // a credential without an id is named ""
			fault(fmt.Sprintf("credential %q", named.ID))
			continue
		}
		credentials = append(credentials, c)
	}
	return credentials
}

func parseCredential(text json.RawMessage) (access.Credential, error) {
	var stored struct {
		Credential
		Fingerprint string `json:"token_sha256"`
	}
	if err := json.Unmarshal(text, &stored); err != nil {
		return access.Credential{}, err
	}
	c := access.Credential{ID: stored.ID, Kind: stored.Kind, Match: stored.Match, CreatedAt: stored.CreatedAt,
		ExpiresAt: stored.ExpiresAt, RevokedAt: stored.RevokedAt}
	for _, text := range stored.Networks {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return c, err
		}
		c.Networks = append(c.Networks, network)
	}
	if c.Kind == access.ByToken {
		hash, err := hex.DecodeString(stored.Fingerprint)
		if err != nil || len(hash) != len(c.TokenSHA256) {
			return c, access.ErrMatch
		}
		copy(c.TokenSHA256[:], hash)
		return c, nil
	}
	_, err := access.ParseMatch(c.Kind, c.Match)
	return c, err
}

// dropAmbiguous takes out the live credentials that one client would prove for several apps.
func dropAmbiguous(s access.Snapshot) (faults []Fault) {
	apps := map[string]int{}
	shared := map[string]bool{}
	live := func(c access.Credential) bool { return c.Kind != access.ByToken && c.RevokedAt == nil }
	for i, a := range s.Apps {
		for _, c := range a.Credentials {
			if first, taken := apps[c.Match]; live(c) && taken && first != i {
				shared[c.Match] = true
			} else if live(c) {
				apps[c.Match] = i
			}
		}
	}
	for i := range s.Apps {
		a := &s.Apps[i]
		a.Credentials = slices.DeleteFunc(a.Credentials, func(c access.Credential) bool {
			drop := live(c) && shared[c.Match]
			if drop {
				faults = append(faults, Fault{a.Name, fmt.Sprintf("credential %q", c.ID)})
			}
			return drop
		})
	}
	return faults
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
