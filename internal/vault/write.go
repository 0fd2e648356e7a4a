package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/failpoint"
)

// Put seals and stores a new version, and creates the secret if there is none. ErrConflict if another session stores a
// version meanwhile: the data key is bound to the version number it was made for.
func (v *Vault) Put(ctx context.Context, r PutRequest) (Receipt, error) {
	if err := v.canWrite(r.Change, envelope.CheckName(r.Name), checkValueSize(r.Value)); err != nil {
		return Receipt{}, err
	}
	state, err := v.writer.Standing(ctx, r.Name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Receipt{}, fmt.Errorf("reading secret %q: %w", r.Name, err)
	}
	if err := r.fits(state, err == nil); err != nil {
		return Receipt{}, err
	}
	if r.IfChanged && err == nil {
		same, err := v.isCurrentValue(ctx, r.Name, r.Value)
		if err != nil || same {
			return Receipt{Name: r.Name, Version: state.CurrentVersion}, errors.Join(err, unchangedIf(same))
		}
	}
	return v.store(ctx, r.Change, "put", r.Name, state.CurrentVersion+1, r.Value, r.CreateOnly, r.Settings)
}

// fits checks what the caller expects of the secret before the KMS is asked; the database checks again.
func (r PutRequest) fits(state db.Standing, exists bool) error {
	switch {
	case exists && r.CreateOnly:
		return fmt.Errorf("secret %q exists: %w", r.Name, ErrConflict)
	case exists && state.DeletedAt != nil:
		return fmt.Errorf("secret %q is deleted: %w", r.Name, ErrDeleted)
	case r.CAS != nil && *r.CAS != state.CurrentVersion:
		return fmt.Errorf("secret %q is at version %d, not at %d: %w", r.Name, state.CurrentVersion, *r.CAS, ErrConflict)
	}
	return nil
}

func unchangedIf(same bool) error {
	if same {
		return ErrUnchanged
	}
	return nil
}

func (v *Vault) isCurrentValue(ctx context.Context, name string, value []byte) (bool, error) {
	row, err := v.writer.Current(ctx, name)
	if err != nil {
		return false, fmt.Errorf("reading secret %q: %w", name, asIntegrity(err))
	}
	return v.matches(ctx, noLimit, name, &row, value)
}

// Rotate replaces the value of an existing secret; the version before stays valid for its grace. It settles a rotation
// that is queued or claimed: the fence then refuses the worker that has claimed it.
func (v *Vault) Rotate(ctx context.Context, r RotateRequest) (Receipt, error) {
	if err := v.canWrite(r.Change, envelope.CheckName(r.Name), checkValueSize(r.Value)); err != nil {
		return Receipt{}, err
	}
	state, err := v.existing(ctx, r.Name)
	if err != nil {
		return Receipt{}, err
	}
	return v.store(ctx, r.Change, "rotate", r.Name, state.CurrentVersion+1, r.Value, false, Settings{Grace: r.Grace})
}

// Rollback makes the value of an older, still live version the newest one. ErrNotFound if that version has expired.
func (v *Vault) Rollback(ctx context.Context, c Change, name string, version int) (Receipt, error) {
	if err := v.canWrite(c, envelope.CheckName(name)); err != nil {
		return Receipt{}, err
	}
	state, err := v.existing(ctx, name)
	if err != nil {
		return Receipt{}, err
	}
	if version == state.CurrentVersion {
		return Receipt{}, fmt.Errorf("version %d of %q is the current one: %w", version, name, ErrConflict)
	}
	old, err := v.Get(ctx, name, GetOptions{Version: version})
	if err != nil {
		return Receipt{}, err
	}
	defer old.Wipe()
	return v.store(ctx, c, "rollback", name, state.CurrentVersion+1, old.Value, false, Settings{})
}

func (v *Vault) existing(ctx context.Context, name string) (db.Standing, error) {
	state, err := v.writer.Standing(ctx, name)
	switch {
	case err != nil:
		return state, fmt.Errorf("reading secret %q: %w", name, err)
	case state.DeletedAt != nil:
		return state, fmt.Errorf("secret %q is deleted: %w", name, ErrDeleted)
	}
	return state, nil
}

// store seals a value as the given version and writes it. The KMS answers before the transaction begins.
func (v *Vault) store(ctx context.Context, c Change, action, name string, version int, value []byte, createOnly bool,
	s Settings) (Receipt, error) {
	sealed, err := v.seal(ctx, name, version, value)
	if err != nil {
		return Receipt{}, err
	}
	request := c.requestID()
	defer v.changed(name)
	result, err := v.writer.PutVersion(ctx, c.credential(), request, action, name, sealed, createOnly, s.stored())
	return receipt(request, result), named(action, name, err)
}

func (s Settings) stored() db.Settings {
	return db.Settings{Generator: s.Generator, RotationInterval: s.RotateEvery, GracePeriod: s.Grace, Rotator: s.Rotator,
		Window: s.Window}
}

func (v *Vault) seal(ctx context.Context, name string, version int, value []byte) (db.SealedValue, error) {
	kc, err := v.keyContext(ctx, name, version)
	if err != nil {
		return db.SealedValue{}, err
	}
	dataKey, wrapped, err := v.keys.NewDataKey(ctx, kc)
	if err != nil {
		return db.SealedValue{}, fmt.Errorf("making a data key for %q: %w", name, err)
	}
	defer dataKey.Wipe()
	key, err := envelope.NewKey(dataKey, name, version)
	if err != nil {
		return db.SealedValue{}, fmt.Errorf("sealing %q: %w", name, err)
	}
	defer key.Wipe()
	sealed, err := key.Seal(value)
	if err != nil {
		return db.SealedValue{}, fmt.Errorf("sealing %q: %w", name, err)
	}
	failpoint.Hit("seal.done")
	return db.SealedValue{
		Version: version, Format: sealed.Format, KMSKeyID: wrapped.KeyID, WrappedDEK: wrapped.Blob,
		Nonce: sealed.Nonce, Ciphertext: sealed.Ciphertext, KeyCommit: sealed.KeyCommit, AAD: sealed.AAD,
	}, nil
}

// Update edits settings without a new version.
func (v *Vault) Update(ctx context.Context, r UpdateRequest) (Receipt, error) {
	return v.change(r.Change, r.Name, "update", func(request uuid.UUID) (db.Result, error) {
		return v.writer.UpdateSecret(ctx, r.credential(), request, r.Name, r.Settings.stored(), r.Manual, r.NoRotation)
	})
}

// Delete hides a secret; it can be restored for the window (0 to 3650 days).
func (v *Vault) Delete(ctx context.Context, c Change, name string, window time.Duration) (Receipt, error) {
	return v.change(c, name, "delete", func(request uuid.UUID) (db.Result, error) {
		return v.writer.DeleteSecret(ctx, c.credential(), request, name, window)
	})
}

// Restore undoes a delete within its window.
func (v *Vault) Restore(ctx context.Context, c Change, name string) (Receipt, error) {
	return v.change(c, name, "restore", func(request uuid.UUID) (db.Result, error) {
		return v.writer.RestoreSecret(ctx, c.credential(), request, name)
	})
}

// Purge removes a secret and all its versions for good.
func (v *Vault) Purge(ctx context.Context, c Change, name string) (Receipt, error) {
	return v.change(c, name, "purge", func(request uuid.UUID) (db.Result, error) {
		return v.writer.PurgeSecret(ctx, c.credential(), request, name)
	})
}

// change makes a change of one secret that needs neither a value nor the state of the secret.
func (v *Vault) change(c Change, name, action string, call func(uuid.UUID) (db.Result, error)) (Receipt, error) {
	if err := v.canWrite(c, envelope.CheckName(name)); err != nil {
		return Receipt{}, err
	}
	request := c.requestID()
	defer v.changed(name)
	result, err := call(request)
	return receipt(request, result), named(action, name, err)
}

func receipt(request uuid.UUID, r db.Result) Receipt {
	return Receipt{
		RequestID: request, Name: r.Name, Version: r.Version, VersionID: r.VersionID, CreatedAt: r.CreatedAt,
		PreviousExpiresAt: r.PreviousExpiresAt, NextRotationAt: r.NextRotationAt, RestoreUntil: r.RestoreUntil,
		EndedVersions: r.EndedVersions, PausedAt: r.PausedAt, LSN: r.LSN,
	}
}

// named adds the name of the secret to an error without one.
func named(action, name string, err error) error {
	if err == nil || isErr(err, ErrConflict) || isErr(err, ErrNotFound) || isErr(err, ErrDeleted) {
		return err // the database names it in these
	}
	return fmt.Errorf("%s %q: %w", action, name, err)
}

func checkValueSize(value []byte) error {
	switch n := len(value); {
	case n < envelope.MinValueSize:
		return fmt.Errorf("%w: the value is empty", ErrValueSize)
	case n > envelope.MaxValueSize:
		return fmt.Errorf("%w: the value has %d bytes, more than the %d allowed", ErrValueSize, n, envelope.MaxValueSize)
	}
	return nil
}

func isErr(err, target error) bool { return errors.Is(err, target) }
