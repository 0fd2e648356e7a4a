package vault

import (
	"context"
	"fmt"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
)

// Rewrapper unwraps data keys and moves them under another KMS key; kms.Keyring is it.
type Rewrapper interface {
	envelope.KeyUnwrapper
	Rewrap(ctx context.Context, w envelope.WrappedKey, kc envelope.KeyContext) (envelope.WrappedKey, error)
}

// WrappedKeys reads one page of the data keys that a KMS key has not wrapped, from the primary.
func (v *Vault) WrappedKeys(ctx context.Context, c Change, q db.WrappedQuery) (db.WrappedPage, error) {
	if err := v.canWrite(c); err != nil {
		return db.WrappedPage{}, err
	}
	page, err := v.writer.WrappedKeys(ctx, c.credential(), q)
	return page, asIntegrity(err)
}

// Rewrap wraps one data key under the new KMS key of keys. It stores a wrapping only after it has unwrapped it and
// found the key that the version was sealed with: until COMMIT the row has the old wrapping, after it a proven one.
// ErrConflict if another session has changed, or ended, the version meanwhile.
func (v *Vault) Rewrap(ctx context.Context, c Change, keys Rewrapper, old db.WrappedKey) (Receipt, error) {
	if err := v.canWrite(c, envelope.CheckName(old.Name)); err != nil {
		return Receipt{}, err
	}
	if old.Version < 1 || len(old.Blob) == 0 || len(old.Blob) > envelope.MaxWrappedSize {
		return Receipt{}, fmt.Errorf("rewrapping %q version %d: %w: a wrapped key of %d bytes", old.Name, old.Version,
			ErrIntegrity, len(old.Blob))
	}
	kc, err := v.keyContext(ctx, old.Name, old.Version)
	if err != nil {
		return Receipt{}, err
	}
	rewrapped, err := keys.Rewrap(ctx, envelope.WrappedKey{KeyID: old.KMSKeyID, Blob: old.Blob}, kc)
	if err == nil {
		err = proveKey(ctx, keys, rewrapped, kc, old)
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("rewrapping %q version %d: %w", old.Name, old.Version, err)
	}
	request := c.requestID()
	defer v.changed(old.Name)
	result, err := v.writer.Rewrap(ctx, c.credential(), request, old, rewrapped.KeyID, rewrapped.Blob)
	return receipt(request, result), named("rewrap", old.Name, err)
}

// proveKey has the KMS unwrap the data key it has just wrapped: a wrong wrapping must not replace the right one.
func proveKey(ctx context.Context, keys envelope.KeyUnwrapper, w envelope.WrappedKey, kc envelope.KeyContext,
	of db.WrappedKey) error {
	dataKey, err := keys.Unwrap(ctx, w, kc)
	if err != nil {
		return fmt.Errorf("unwrapping it again: %w", err)
	}
	defer dataKey.Wipe()
	key, err := envelope.NewKey(dataKey, of.Name, of.Version)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return key.CheckCommit(of.KeyCommit)
}
