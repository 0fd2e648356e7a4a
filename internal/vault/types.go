package vault

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
)

// The errors that callers branch on, with one table to exit codes (vaultctl) and one to statuses (httpapi).
var (
	ErrNotFound       = db.ErrNotFound       // absent or deleted, and nothing else
	ErrConflict       = db.ErrConflict       // a version, name or state that the caller did not expect
	ErrDeleted        = db.ErrDeleted        // a write to a deleted, restorable secret; also a conflict
	ErrRefused        = db.ErrRefused        // the admin token or the database role is not allowed to
	ErrInvalid        = db.ErrInvalid        // an argument the caller can correct
	ErrUnavailable    = db.ErrUnavailable    // the database does not answer
	ErrOutcomeUnknown = db.ErrOutcomeUnknown // a change may or may not have happened
	ErrBusy           = db.ErrBusy           // another session is changing it: try again
	ErrFenced         = db.ErrFenced         // the primary that answers is an old one
	ErrState          = db.ErrState          // the fence's file cannot be read or understood
	ErrClaimLost      = db.ErrClaimLost      // a rotation that another worker has claimed, or that is settled, by now
	ErrNotInitialised = db.ErrNotInitialised
	ErrSchema         = db.ErrSchema

	ErrIntegrity      = envelope.ErrIntegrity
	ErrKeyUnavailable = envelope.ErrKeyUnavailable // the KMS does not answer: try again later
	ErrKeyRefused     = envelope.ErrKeyRefused     // the KMS refused: trying again does not help
	ErrValueSize      = envelope.ErrValueSize
	ErrName           = envelope.ErrName

	ErrNotModified = errors.New("not modified") // the caller holds this version already; see [NotModified]
	ErrUnchanged   = errors.New("unchanged")    // put with IfChanged: the current value is the same
)

// IsTokenRefused reports whether the database refused the admin token itself: it is unknown, revoked or expired.
func IsTokenRefused(err error) bool { return db.IsTokenRefused(err) }

// Secret is one opened version and the columns of its row, all read in one statement.
type Secret struct {
	Name           string
	Version        int
	VersionID      uuid.UUID // identifies these bytes to a client: its ETag
	Value          envelope.Plaintext
	CreatedAt      time.Time  // of this version
	RotatedAt      *time.Time // of the secret's newest version
	NextRotationAt *time.Time // nil: not rotated by the vault
	ExpiresAt      *time.Time // nil: the current version; else the end of its grace

	Unconfirmed time.Duration // see [Options.ReadSurvive]: how long ago the node was last heard; 0 = within the bound
}

// NotModified is the ErrNotModified of Get.
type NotModified struct{ Unconfirmed time.Duration } // as of a Secret

func (e *NotModified) Error() string        { return ErrNotModified.Error() }
func (e *NotModified) Is(target error) bool { return target == ErrNotModified }

// Wipe overwrites the value. The caller that asked for a Secret wipes it.
func (s *Secret) Wipe() {
	if s != nil {
		s.Value.Wipe()
	}
}

// Permit decides whether what was read may be shown. It is called once a call, after the rows or their absence were
// read and before a key is unwrapped, with the access epoch of the same snapshot, or of a later one with the same rows:
// if that differs from the epoch that the caller has judged by, its copy of the apps is old. Its error is returned in
// place of everything else, also of ErrNotFound and ErrNotModified. Where the node has no epoch it is not called, and
// the error is ErrUnavailable. Nil permits everything.
type Permit func(ctx context.Context, epoch uuid.UUID) error

func (p Permit) ask(ctx context.Context, epoch uuid.UUID) error {
	switch {
	case p == nil:
		return nil
	case epoch == uuid.Nil:
		return fmt.Errorf("%w: the node has no access epoch, so it is not known which apps may read", ErrUnavailable)
	}
	return p(ctx, epoch)
}

// GetOptions choose a version. The zero value is the current one.
type GetOptions struct {
	Version int       // 0 = current
	Unless  uuid.UUID // ErrNotModified if this is the version that would be returned; nothing is unwrapped or opened
	Permit  Permit
	Fresh   bool // as of the call, or later; where rows are kept, an answer may be older by Options.ReadConfirm
	MinLSN  LSN  // AwaitReplay has returned for this position: the answer has all changes before it
}

// VerifyOptions of Verify.
type VerifyOptions struct {
	Permit Permit
	MinLSN LSN // as in GetOptions
}

// Match says which kind of live version a presented value equals.
type Match string

const (
	MatchCurrent Match = "current"
	MatchGrace   Match = "grace"
)

// Verdict is the answer to Verify. All but Valid and Unconfirmed are zero when nothing matched.
type Verdict struct {
	Valid     bool
	Version   int
	Match     Match
	ExpiresAt *time.Time // of a grace version

	Unconfirmed time.Duration // as of a Secret; also of a verdict without a match
}

// Settings of a secret. Nil keeps the stored setting, or at creation takes the default.
type Settings struct {
	Generator   *string        // a canonical spec of package rotation; makes the secret automatic
	RotateEvery *time.Duration // 1 minute to 3650 days; only with a generator
	Grace       *time.Duration // 0 to 3650 days; how long a superseded version still opens and verifies; default 24 h
	// sets a new value where it is used: a canonical spec of package target; "" removes it
	Rotator *string
	Window  *string // when it may rotate: "02:00-05:00 Europe/Berlin"; "" = any time
}

// Change is part of every write: the token, and the id under which a request without a reply is sent again.
type Change struct {
	Token     Token
	RequestID uuid.UUID  // zero: a fresh one
	Client    netip.Addr // for which this process makes the change; invalid: for its own user, or a unix socket's
}

// PutRequest stores a new version.
type PutRequest struct {
	Change
	Name       string
	Value      []byte // 1 byte to 64 KiB
	Settings   Settings
	CreateOnly bool // ErrConflict if the name exists
	CAS        *int // ErrConflict unless this is the current version; 0 = must not exist
	IfChanged  bool // ErrUnchanged, nothing written, if the current value is the same
}

// RotateRequest replaces the value by a new one, which is generated by the caller or given.
type RotateRequest struct {
	Change
	Name  string
	Value []byte
	Grace *time.Duration // nil: the secret's own
}

// UpdateRequest edits settings without a new version.
type UpdateRequest struct {
	Change
	Name       string
	Settings   Settings
	Manual     bool // remove the generator and stop rotating
	NoRotation bool // keep the generator, rotate only when asked
}

// Receipt is the result of a committed change.
type Receipt struct {
	RequestID         uuid.UUID  `json:"request_id"`
	Name              string     `json:"name"`
	Version           int        `json:"version,omitempty"`
	VersionID         string     `json:"version_id,omitempty"`
	CreatedAt         *time.Time `json:"created_at,omitempty"`
	PreviousExpiresAt *time.Time `json:"previous_expires_at,omitempty"` // end of the grace of the version before
	NextRotationAt    *time.Time `json:"next_rotation_at,omitempty"`
	RestoreUntil      *time.Time `json:"restore_until,omitempty"`  // of a delete
	EndedVersions     []int      `json:"ended_versions,omitempty"` // of the end of a grace
	PausedAt          *time.Time `json:"paused_at,omitempty"`      // of a pause
	LSN               string     `json:"lsn,omitempty"`            // a node that has replayed this position has the change
}
