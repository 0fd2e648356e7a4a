package vault

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/rowcache"
)

// Get opens one version on the local node. ErrNotFound if the secret, or the version asked for, is absent, deleted or
// expired; ErrNotModified if it is the one the caller has; the error of o.Permit before either.
func (v *Vault) Get(ctx context.Context, name string, o GetOptions) (*Secret, error) {
	if err := envelope.CheckName(name); err != nil {
		return nil, err
	}
	until := v.readUntil()
	row, unconfirmed, err := v.row(ctx, name, o)
	if err != nil {
		return nil, fmt.Errorf("reading secret %q: %w", name, asIntegrity(err))
	}
	if o.Unless != uuid.Nil && o.Unless == row.VersionID {
		return nil, &NotModified{unconfirmed}
	}
	value, err := v.open(ctx, until, name, &row)
	if err != nil {
		return nil, err
	}
	return &Secret{
		Name: name, Version: row.Version, VersionID: row.VersionID, Value: value, CreatedAt: row.CreatedAt,
		RotatedAt: row.RotatedAt, NextRotationAt: row.NextRotationAt, ExpiresAt: row.ExpiresAt, Unconfirmed: unconfirmed,
	}, nil
}

func (v *Vault) row(ctx context.Context, name string, o GetOptions) (db.VersionRow, time.Duration, error) {
	found, err := v.read(ctx, name, rowcache.Ask{Live: o.Version != 0, Fresh: o.Fresh, MinLSN: o.MinLSN}, o.Permit)
	if err != nil {
		return db.VersionRow{}, 0, err
	}
	var row db.VersionRow
	if o.Version == 0 {
		row, err = found.Current()
	} else {
		row, err = found.Version(o.Version)
	}
	return row, found.Unconfirmed, err
}

// read reads a name, from memory if it is kept there, and asks the permit.
func (v *Vault) read(ctx context.Context, name string, ask rowcache.Ask,
	permit Permit) (found rowcache.Answer, err error) {
	switch {
	case v.rows != nil:
		found, err = v.rows.Read(ctx, name, ask)
	case ask.Live:
		found.Reading, err = v.reader.ReadLive(ctx, name)
	default:
		found.Reading, err = v.reader.ReadCurrent(ctx, name)
	}
	if err == nil {
		err = permit.ask(ctx, found.Epoch())
	}
	return found, err
}

// changed is called after a change of a secret, also of one that failed: it may have been made all the same. Later
// reads of this process see it, as far as the node has it.
func (v *Vault) changed(name string) {
	if v.rows != nil {
		v.rows.Drop(name)
	}
}

// Verify compares a presented value with every live version, in constant time and without an early exit. ErrNotFound if
// the secret is absent or deleted; the error of o.Permit before that. A version that does not open fails the whole
// answer: "no" would be a guess.
func (v *Vault) Verify(ctx context.Context, name string, presented []byte,
	o VerifyOptions) (Verdict, error) {
	if err := cmp.Or(envelope.CheckName(name), checkValueSize(presented)); err != nil {
		return Verdict{}, err
	}
	until := v.readUntil()
	var rows []db.VersionRow
	found, err := v.read(ctx, name, rowcache.Ask{Live: true, MinLSN: o.MinLSN}, o.Permit)
	if err == nil {
		rows, err = found.Live()
	}
	if err != nil {
		return Verdict{}, fmt.Errorf("reading secret %q: %w", name, asIntegrity(err))
	}
	verdict := Verdict{Unconfirmed: found.Unconfirmed}
	for i := range rows {
		row := &rows[i]
		same, err := v.matches(ctx, until, name, row, presented)
		if err != nil {
			return Verdict{}, err
		}
		if same && !verdict.Valid { // newest first: the current version wins
			verdict = Verdict{Valid: true, Version: row.Version, Match: MatchCurrent, ExpiresAt: row.ExpiresAt,
				Unconfirmed: found.Unconfirmed}
			if row.ExpiresAt != nil {
				verdict.Match = MatchGrace
			}
		}
	}
	return verdict, nil
}

// open unwraps the data key of a row and opens its value. The name is the one asked for, never the row's: a row that
// was moved under another name does not open.
func (v *Vault) open(ctx context.Context, until time.Time, name string,
	row *db.VersionRow) (envelope.Plaintext, error) {
	key, err := v.dataKey(ctx, until, name, row)
	if err != nil {
		return nil, fmt.Errorf("unwrapping the data key of %q version %d: %w", name, row.Version, err)
	}
	defer key.Wipe()
	value, err := key.Open(sealedOf(row))
	if err != nil {
		return nil, fmt.Errorf("opening %q version %d: %w", name, row.Version, err)
	}
	return value, nil
}

// matches opens a row to compare it with what was presented.
func (v *Vault) matches(ctx context.Context, until time.Time, name string, row *db.VersionRow,
	presented []byte) (bool, error) {
	key, err := v.dataKey(ctx, until, name, row)
	if err != nil {
		return false, fmt.Errorf("unwrapping the data key of %q version %d: %w", name, row.Version, err)
	}
	defer key.Wipe()
	same, err := key.Matches(sealedOf(row), presented)
	if err != nil {
		return false, fmt.Errorf("opening %q version %d: %w", name, row.Version, err)
	}
	return same, nil
}

func sealedOf(row *db.VersionRow) envelope.Sealed {
	return envelope.Sealed{Format: row.Format, Nonce: row.Nonce, Ciphertext: row.Ciphertext, KeyCommit: row.KeyCommit,
		AAD: row.AAD}
}

// dataKey returns a copy of the key that the caller wipes.
func (v *Vault) dataKey(ctx context.Context, until time.Time, name string,
	row *db.VersionRow) (*envelope.Key, error) {
	if v.cache == nil {
		return v.uncachedKey(ctx, until, name, *row, cacheKey{})
	}
	k := keyOf(name, row)
	if key := v.cache.lookup(k); key != nil {
		return key, nil
	}
	return v.uncachedKey(ctx, until, name, *row, k)
}

// noLimit leaves the limit of a read to its context.
var noLimit time.Time

// readUntil is when a read that begins now has to end.
func (v *Vault) readUntil() time.Time {
	if v.readTimeout == 0 {
		return noLimit
	}
	return time.Now().Add(v.readTimeout)
}

// uncachedKey unwraps a key that is not in the cache. Only here the deadline becomes a timer: a read that finds its key
// needs none.
func (v *Vault) uncachedKey(ctx context.Context, until time.Time, name string, row db.VersionRow,
	k cacheKey) (*envelope.Key, error) {
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	unwrap := func(ctx context.Context) (*envelope.Key, error) {
		dataKey, err := v.unwrap(ctx, name, row)
		if err != nil {
			return nil, err
		}
		defer dataKey.Wipe()
		return envelope.NewKey(dataKey, name, row.Version)
	}
	if v.cache == nil {
		return unwrap(ctx)
	}
	return v.cache.fetch(ctx, k, unwrap)
}

func (v *Vault) unwrap(ctx context.Context, name string, row db.VersionRow) (*envelope.DataKey, error) {
	if len(row.WrappedDEK) == 0 || len(row.WrappedDEK) > envelope.MaxWrappedSize {
		return nil, fmt.Errorf("%w: the wrapped key has %d bytes", ErrIntegrity, len(row.WrappedDEK))
	}
	if row.Version < 1 {
		return nil, fmt.Errorf("%w: there is no version %d", ErrIntegrity, row.Version)
	}
	kc, err := v.keyContext(ctx, name, row.Version)
	if err != nil {
		return nil, err
	}
	return v.keys.Unwrap(ctx, envelope.WrappedKey{KeyID: row.KMSKeyID, Blob: row.WrappedDEK}, kc)
}

func (v *Vault) keyContext(ctx context.Context, name string, version int) (envelope.KeyContext, error) {
	cluster, err := v.cluster.get(ctx, v.clusterID)
	if err != nil {
		return envelope.KeyContext{}, fmt.Errorf("reading the cluster id: %w", err)
	}
	return envelope.KeyContext{AAD: envelope.AAD(name, version), ClusterID: cluster.String()}, nil
}

func (v *Vault) clusterID(ctx context.Context) (uuid.UUID, error) {
	if v.reader == nil {
		return v.writer.ClusterID(ctx)
	}
	return v.reader.ClusterID(ctx)
}

// clusterID is read once: it never changes in the life of a cluster.
type clusterID struct{ known atomic.Pointer[uuid.UUID] }

func (c *clusterID) get(ctx context.Context, read func(context.Context) (uuid.UUID, error)) (uuid.UUID, error) {
	if id := c.known.Load(); id != nil {
		return *id, nil
	}
	id, err := read(ctx)
	if err != nil {
		return uuid.Nil, err
	}
	c.known.Store(&id)
	return id, nil
}

// asIntegrity turns the database package's error for a broken row into the one for a broken envelope.
func asIntegrity(err error) error {
	if isErr(err, db.ErrIntegrity) {
		return fmt.Errorf("%w: %s", ErrIntegrity, err)
	}
	return err
}
