package vault

import (
	"context"
	"time"

	"github.com/hyperiondb/vault/internal/db"
)

// PrepareAuditPrune puts every row into the partition of its month. It takes an admin token without a scope.
func (v *Vault) PrepareAuditPrune(ctx context.Context, c Change) error {
	if err := v.canWrite(c); err != nil {
		return err
	}
	return v.writer.PrepareAudit(ctx, c.credential(), c.requestID())
}

// PruneAudit drops rows of a past month that are sealed and were exported. ErrConflict if the rows are not those that
// were exported. It takes an admin token without a scope.
func (v *Vault) PruneAudit(ctx context.Context, c Change, p db.AuditPruning) (db.Pruned, error) {
	if err := v.canWrite(c); err != nil {
		return db.Pruned{}, err
	}
	return v.writer.PruneAudit(ctx, c.credential(), c.requestID(), p)
}

// AuditMonths are the months that the log has rows of, oldest first.
func (v *Vault) AuditMonths(ctx context.Context) ([]time.Time, error) {
	return v.reader.AuditMonths(ctx)
}
