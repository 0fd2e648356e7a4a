package vault

import "github.com/hyperiondb/vault/internal/audit"

// AuditedGet is the audit event of a [Vault.Get] that succeeded.
func AuditedGet(name string, s *Secret) audit.Event {
	e := audit.Event{Action: audit.Read, Secret: name, Version: s.Version, Outcome: audit.OK}
	if s.ExpiresAt != nil {
		e.Detail = map[string]any{"match": MatchGrace}
	}
	return e
}

// AuditedVerify is the audit event of a [Vault.Verify] that succeeded, with or without a match.
func AuditedVerify(name string, d Verdict) audit.Event {
	e := audit.Event{Action: audit.Verify, Secret: name, Version: d.Version, Outcome: audit.OK,
		Detail: map[string]any{"valid": d.Valid}}
	if d.Valid {
		e.Detail["match"] = d.Match
	}
	return e
}
