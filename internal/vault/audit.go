package vault

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/db"
)

// ShipReads writes the records of a spool to the primary's audit log, each once.
func (v *Vault) ShipReads(ctx context.Context, s db.ShippedReads) (db.SpoolPosition, error) {
	if v.writer == nil {
		return db.SpoolPosition{}, fmt.Errorf("%w: no primary is configured", ErrUnavailable)
	}
	return v.writer.ShipReads(ctx, s)
}

// RecordRead writes a read by an operator at a terminal to the primary's audit log. It is called before the value is
// shown.
func (v *Vault) RecordRead(ctx context.Context, e audit.Event) error {
	if v.writer == nil {
		return fmt.Errorf("%w: no primary is configured", ErrUnavailable)
	}
	return v.writer.RecordRead(ctx, db.ReadRecord{Action: e.Action, Secret: e.Secret, Version: e.Version,
		Outcome: string(e.Outcome), Request: uuid.New(), Detail: e.Detail})
}

// GraceReport lists the clients that presented versions in grace since a time; of one secret, or of those under a
// prefix.
func (v *Vault) GraceReport(ctx context.Context, name string, exact bool, since time.Time) ([]db.GraceUse, error) {
	return v.reader.GraceReport(ctx, name, exact, since)
}

// NodeName is the configured name of the local node; "" if it has none.
func (v *Vault) NodeName(ctx context.Context) (string, error) { return v.reader.NodeName(ctx) }

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
