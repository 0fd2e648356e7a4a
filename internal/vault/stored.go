package vault

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
)

// TryStored opens stored versions, some at the same time, and wipes their values. It returns the error of each in the
// order of the rows, nil for those that opened. The second error is that of ctx.
//
// The name that a row is opened under is that of its secret. A row that was moved to another secret together with the
// name does not open either, because the wrapped key and the ciphertext are bound to the name it was sealed under.
func (v *Vault) TryStored(ctx context.Context, rows []db.StoredVersion) ([]error, error) {
	errs := make([]error, len(rows))
	var group errgroup.Group
	group.SetLimit(keysAtOnce)
	for i := range rows {
		group.Go(func() error {
			if errs[i] = ctx.Err(); errs[i] == nil {
				errs[i] = v.tryStored(ctx, &rows[i])
			}
			return nil
		})
	}
	_ = group.Wait() // no function of it fails
	return errs, ctx.Err()
}

func (v *Vault) tryStored(ctx context.Context, row *db.StoredVersion) error {
	if row.Err != nil {
		return fmt.Errorf("reading %q version %d: %w", row.Name, row.Version, asIntegrity(row.Err))
	}
	if err := envelope.CheckName(row.Name); err != nil {
		return err
	}
	value, err := v.open(ctx, noLimit, row.Name, &row.Row)
	value.Wipe()
	return err
}
