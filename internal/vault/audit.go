package vault

import (
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
)

// AuditedGet is the audit event of a [Vault.Get] that succeeded.
func AuditedGet(name string, s *Secret) audit.Event {
	e := audit.Event{Action: audit.Read, Secret: name, Version: s.Version, Outcome: audit.OK}
	if s.ExpiresAt != nil {
		e.Detail = map[string]any{"match": MatchGrace}
	}
	noteUnconfirmed(&e, s.Unconfirmed)
	return e
}

// AuditedVerify is the audit event of a [Vault.Verify] that succeeded, with or without a match.
func AuditedVerify(name string, d Verdict) audit.Event {
	e := audit.Event{Action: audit.Verify, Secret: name, Version: d.Version, Outcome: audit.OK,
		Detail: map[string]any{"valid": d.Valid}}
	if d.Valid {
		e.Detail["match"] = d.Match
	}
	noteUnconfirmed(&e, d.Unconfirmed)
	return e
}

// AuditedUnchanged is the audit event of a [Vault.Get] that ended in ErrNotModified, or would have: the client learnt
// that its copy is still the version it asked for.
func AuditedUnchanged(name string, id uuid.UUID, unconfirmed time.Duration) audit.Event {
	e := audit.Event{Action: audit.Read, Secret: name, Outcome: audit.OK,
		Detail: map[string]any{"not_modified": true, "version_id": id}}
	noteUnconfirmed(&e, unconfirmed)
	return e
}

// noteUnconfirmed marks what was answered while the node was away.
func noteUnconfirmed(e *audit.Event, age time.Duration) {
	if age == 0 {
		return
	}
	if e.Detail == nil {
		e.Detail = map[string]any{}
	}
	e.Detail["unconfirmed_seconds"] = age.Round(time.Millisecond).Seconds()
}
