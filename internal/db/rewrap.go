package db

import (
	"context"

	"github.com/google/uuid"
)

// WrappedKey is the wrapped data key of a version, or of the candidate of a rotation job. Nothing in it has been
// checked.
type WrappedKey struct {
	Name      string `json:"name"`
	Version   int    `json:"version"`
	Job       *int64 `json:"job"` // nil = the version itself
	KMSKeyID  string `json:"kms_key_id"`
	Blob      []byte `json:"wrapped_dek"`
	KeyCommit []byte `json:"key_commit"`
}

// WrappedQuery selects data keys that KMSKeyID has not wrapped: of one secret (Exact), or of all names that begin with
// Prefix.
type WrappedQuery struct {
	Prefix   string
	Exact    bool
	KMSKeyID string
	After    string // the Next of the page before
	Limit    int    // secrets a page, with any number of keys
}

// WrappedPage has the data keys of a page of secrets. It may be empty although more pages follow.
type WrappedPage struct {
	Keys []WrappedKey `json:"keys"`
	Next string       `json:"next"` // "" = the last page
	Committed
}

// WrappedKeys reads one page of the data keys that the token may change.
func (w *Writer) WrappedKeys(ctx context.Context, c Credential, q WrappedQuery) (WrappedPage, error) {
	return change[WrappedPage](ctx, w, &c, Refusal{"rewrap", q.Prefix, uuid.New()},
		`SELECT vault.wrapped_keys($1, $2, $3, $4, $5)`, q.Prefix, q.Exact, q.KMSKeyID, q.After, q.Limit)
}

// Rewrap replaces old by another wrapping of the same data key: ErrConflict if old is no longer stored.
func (w *Writer) Rewrap(ctx context.Context, c Credential, request uuid.UUID, old WrappedKey, kmsKeyID string,
	blob []byte) (Result, error) {
	return change[Result](ctx, w, &c, Refusal{"rewrap", old.Name, request},
		`SELECT vault.rewrap($1, $2, $3, $4, $5, $6, $7)`, old.Name, old.Version, old.Job, old.Blob, kmsKeyID, blob, request)
}
