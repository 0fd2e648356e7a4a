package vault

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/rowcache"
)

// Keys wraps new data keys and unwraps stored ones; kms.Keyring is it.
type Keys interface {
	envelope.KeyWrapper
	envelope.KeyUnwrapper
}

// Options are the parts of a Vault.
type Options struct {
	Reader    *db.Reader    // the node to read from, possibly a standby; nil: only methods that ask the primary work
	Writer    *db.Writer    // the primary; nil: every write is ErrUnavailable
	Keys      Keys          // nil: only methods that need no key work
	CacheSize int           // data keys kept at most; 0 = no cache
	CacheTTL  time.Duration // how long a data key is kept; 0 = no cache

	// of Get and Verify: no call to the KMS takes longer; 0 = as long as the caller's context
	ReadTimeout time.Duration

	// of Get and Verify: an answer is what the node had at most this long before the call, and rows that were read lately
	// are kept and confirmed together, see package rowcache; 0 = every call queries the node
	ReadConfirm time.Duration
	KeepBytes   int64         // of sealed rows, at most
	ReadSurvive time.Duration // how long kept rows are shown while the node is away; 0 = calls wait for it
	Log         *slog.Logger  // of what keeps rows from being kept; nil: discarded
}

// Vault is safe for concurrent use.
type Vault struct {
	reader  *db.Reader
	writer  *db.Writer
	keys    Keys
	cache   *keyCache       // nil = off
	rows    *rowcache.Cache // nil = off
	cluster clusterID

	readTimeout time.Duration
	readConfirm time.Duration // 0: rows are not kept

	progress *progress // of the node that is read from
	changes  *changes  // of the node that is read from
}

// New does not connect to anything.
func New(o Options) *Vault {
	v := &Vault{reader: o.Reader, writer: o.Writer, keys: o.Keys, readTimeout: o.ReadTimeout, progress: newProgress(),
		changes: newChanges(o.Reader.CurrentIDs)}
	if o.CacheSize > 0 && o.CacheTTL > 0 {
		v.cache = newKeyCache(o.CacheSize, o.CacheTTL, time.Now)
	}
	if o.ReadConfirm > 0 && o.KeepBytes > 0 {
		v.readConfirm = o.ReadConfirm
		v.rows = rowcache.New(rowcache.Options{Source: rowcache.Node(o.Reader), Confirm: o.ReadConfirm, Bytes: o.KeepBytes,
			Survive: o.ReadSurvive, Limit: o.ReadTimeout, Log: o.Log})
	}
	return v
}

// Close wipes the cached data keys and forgets kept rows. The pools and keys belong to the caller, who closes them
// later.
func (v *Vault) Close() {
	if v.rows != nil {
		v.rows.Close()
	}
	if v.cache != nil {
		v.cache.close()
	}
}

// KeptRows describes the rows that are kept in memory; false if none are.
func (v *Vault) KeptRows() (rowcache.Stats, bool) {
	if v.rows == nil {
		return rowcache.Stats{}, false
	}
	return v.rows.Stats(), true
}

// CachedKeys describes the cache of data keys; false if it is off.
func (v *Vault) CachedKeys() (KeyCacheStats, bool) {
	if v.cache == nil {
		return KeyCacheStats{}, false
	}
	return v.cache.stats(), true
}

// Ping checks that the local node answers and that its schema fits.
func (v *Vault) Ping(ctx context.Context) error { return v.reader.Ping(ctx) }

// PingPrimary checks that there is a primary and that its schema fits.
func (v *Vault) PingPrimary(ctx context.Context) error { return v.writer.Ping(ctx) }

// CheckFence is ErrFenced if the local node is an old primary, and learns of a newer one.
func (v *Vault) CheckFence(ctx context.Context) error { return v.reader.CheckFence(ctx) }

// Health returns vault.health() of the local node.
func (v *Vault) Health(ctx context.Context) (db.Health, error) { return v.reader.Health(ctx) }

// Status returns vault.status() of the local node.
func (v *Vault) Status(ctx context.Context) (db.Status, error) { return v.reader.Status(ctx) }

// PrimaryStatus returns vault.status() of the primary.
func (v *Vault) PrimaryStatus(ctx context.Context) (db.Status, error) { return v.writer.Status(ctx) }

// RoundFailures are the reported failures of the rounds of supervisor, workers and sealer, as far as the caller may see
// them.
func (v *Vault) RoundFailures(ctx context.Context) ([]db.RoundFailure, error) {
	return v.reader.RoundFailures(ctx)
}

// PrimaryRoundFailures is RoundFailures on the primary.
func (v *Vault) PrimaryRoundFailures(ctx context.Context) ([]db.RoundFailure, error) {
	return v.writer.RoundFailures(ctx)
}

// Replicas lists the standbys that stream from the primary.
func (v *Vault) Replicas(ctx context.Context) ([]db.Replica, error) { return v.writer.Replicas(ctx) }

// TryNewest opens the newest value this role may read and wipes it, to see that the keys fit. It returns the name, ""
// if there is none.
func (v *Vault) TryNewest(ctx context.Context) (string, error) {
	name, err := v.reader.NewestName(ctx)
	if err != nil || name == "" {
		return "", err
	}
	secret, err := v.Get(ctx, name, GetOptions{})
	secret.Wipe()
	return name, err
}

// Describe returns a secret's settings and state, without any value; also of a deleted one.
func (v *Vault) Describe(ctx context.Context, name string) (db.SecretRow, error) {
	if err := envelope.CheckName(name); err != nil {
		return db.SecretRow{}, err
	}
	return v.reader.Secret(ctx, name)
}

// DescribeForChange is Describe on the primary, as the base of a change.
func (v *Vault) DescribeForChange(ctx context.Context, name string) (db.SecretRow, error) {
	if err := cmp.Or(envelope.CheckName(name), v.hasPrimary()); err != nil {
		return db.SecretRow{}, err
	}
	return v.writer.Secret(ctx, name)
}

// List returns secrets in the order of their names, without values.
func (v *Vault) List(ctx context.Context, q db.ListQuery) ([]db.SecretRow, error) {
	return v.reader.Secrets(ctx, q)
}

// Branches lists how names go on after a prefix, in their order.
func (v *Vault) Branches(ctx context.Context, q db.BranchQuery) ([]db.Branch, error) {
	return v.reader.Branches(ctx, q)
}

// Folder lists the entries of one folder of names, with a permit for all of them.
func (v *Vault) Folder(ctx context.Context, q db.FolderQuery, permit Permit) (entries []string, err error) {
	err = v.reader.WithEpoch(ctx, permit.ask, func(s db.Snapshot) (err error) {
		entries, err = s.Folder(ctx, q)
		return err
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// Summary returns a live secret's times and its newest versions, at most so many, without any value. ErrNotFound if it
// is absent or deleted; the error of permit before that.
func (v *Vault) Summary(ctx context.Context, name string, versions int, permit Permit) (summary db.Summary, err error) {
	if err := envelope.CheckName(name); err != nil {
		return db.Summary{}, err
	}
	err = v.reader.WithEpoch(ctx, permit.ask, func(s db.Snapshot) (err error) {
		summary, err = s.Summary(ctx, name, versions)
		return err
	})
	if err != nil {
		return db.Summary{}, err
	}
	return summary, nil
}

// History returns the versions of a secret, newest first, without values; also of a deleted one.
func (v *Vault) History(ctx context.Context, name string) ([]db.HistoryRow, error) {
	if err := envelope.CheckName(name); err != nil {
		return nil, err
	}
	return v.reader.History(ctx, name)
}

func (c Change) requestID() uuid.UUID {
	if c.RequestID == uuid.Nil {
		return uuid.New()
	}
	return c.RequestID
}

func (c Change) credential() db.Credential {
	credential := c.Token.Credential()
	credential.Client = c.Client
	return credential
}

// canWrite begins every verb that takes an admin token: it fails before anything is sealed or sent. Its error is the
// first of the verb's own checks that failed, so that a caller corrects one argument at a time, or else that of a
// missing primary or token.
func (v *Vault) canWrite(c Change, checks ...error) error {
	return cmp.Or(cmp.Or(checks...), v.hasPrimary(), c.hasToken())
}

func (v *Vault) hasPrimary() error {
	if v.writer == nil {
		return fmt.Errorf("%w: no primary is configured", ErrUnavailable)
	}
	return nil
}

func (c Change) hasToken() error {
	if c.Token.IsZero() {
		return fmt.Errorf("%w: no admin token", ErrRefused)
	}
	return nil
}
