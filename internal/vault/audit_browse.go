package vault

import (
	"context"
	"time"

	"github.com/hyperiondb/vault/internal/db"
)

// Audit returns a page of recorded events.
func (v *Vault) Audit(ctx context.Context, q db.AuditQuery) (db.AuditPage, error) {
	return v.reader.Audit(ctx, q)
}

// AuditCounts counts events in equal spans of time.
func (v *Vault) AuditCounts(ctx context.Context, f db.AuditFilter, from, to time.Time,
	buckets int) (db.AuditCounts, error) {
	return v.reader.AuditCounts(ctx, f, from, to, buckets)
}

// FollowAudit begins to wait for new events.
func (v *Vault) FollowAudit(ctx context.Context, f db.AuditFilter) (*db.AuditFollower, error) {
	return v.reader.FollowAudit(ctx, f)
}

// AuditValues returns values of a column that begin with one of the prefixes.
func (v *Vault) AuditValues(ctx context.Context, column db.AuditColumn, prefixes []string,
	limit int) ([]string, error) {
	return v.reader.AuditValues(ctx, column, prefixes, limit)
}

// SecretUses lists secrets with their use according to the audit log, without any value.
func (v *Vault) SecretUses(ctx context.Context, q db.ListQuery) ([]db.SecretUse, error) {
	return v.reader.SecretUses(ctx, q)
}

// SealOf finds the seal of an event.
func (v *Vault) SealOf(ctx context.Context, event db.AuditCursor) (db.AuditSeal, error) {
	return v.reader.SealOf(ctx, event)
}
