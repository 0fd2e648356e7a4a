package db

import (
	"slices"
	"time"
	"unique"
	"unsafe"

	"github.com/google/uuid"
)

// Reading is the answer to one read: what the node has of a name, and the access epoch at that moment. A caller that
// judges by the epoch does so before it looks at the rows, or at their absence.
type Reading struct{ result readResult }

// Epoch is the access epoch of the same snapshot as the rows. Zero: the node has none, so nothing may be shown to apps.
func (r Reading) Epoch() uuid.UUID { return r.result.epoch }

// WithEpoch is the reading with the epoch of a later snapshot, which has the same rows.
func (r Reading) WithEpoch(epoch uuid.UUID) Reading {
	r.result.epoch = epoch
	return r
}

// Current is the current version. A secret that has none is ErrIntegrity, not ErrNotFound: clients act on a 404.
func (r Reading) Current() (VersionRow, error) { return r.result.current(nil) }

// Live are the current version and those in grace, newest first. ErrNotFound if the secret is absent or deleted.
func (r Reading) Live() ([]VersionRow, error) { return r.result.rows, r.result.check(nil) }

// Version is one live version by its number, from a reading of all live ones. ErrNotFound also if it has expired.
func (r Reading) Version(version int) (VersionRow, error) { return r.result.version(version, nil) }

// At leaves out the versions whose grace has ended by now, by the clock of the node, as the query would.
func (r Reading) At(now time.Time) Reading {
	ended := func(v VersionRow) bool { return v.ExpiresAt != nil && !v.ExpiresAt.After(now) }
	if slices.ContainsFunc(r.result.rows, ended) {
		r.result.rows = slices.DeleteFunc(slices.Clone(r.result.rows), ended)
	}
	return r
}

// Shows reports whether two readings show the same versions with the same ends.
func (r Reading) Shows(other Reading) bool {
	return slices.EqualFunc(r.result.rows, other.result.rows, func(a, b VersionRow) bool {
		return a.VersionID == b.VersionID && a.Version == b.Version && (a.ExpiresAt == nil) == (b.ExpiresAt == nil) &&
			(a.ExpiresAt == nil || a.ExpiresAt.Equal(*b.ExpiresAt))
	})
}

// FirstExpiry is when the first of the versions in grace ends, by the clock of the node; false if none is in grace.
func (r Reading) FirstExpiry() (first time.Time, graced bool) {
	for i := range r.result.rows {
		if at := r.result.rows[i].ExpiresAt; at != nil && (!graced || at.Before(first)) {
			first, graced = *at, true
		}
	}
	return first, graced
}

// Compact copies a reading of live versions for keeping: the copy shares no memory with the result of a query, and
// takes about so many bytes. It is false for what is not kept: a name that is absent, a row that could not be read, and
// a secret without a current version.
func (r Reading) Compact() (kept Reading, bytes int, ok bool) {
	s := r.result
	if !s.found || s.bad != nil || s.unanswered || len(s.rows) == 0 || s.rows[0].ExpiresAt != nil {
		return Reading{}, 0, false
	}
	s.rows = slices.Clone(s.rows)
	for i := range s.rows {
		v := &s.rows[i]
		size := len(v.WrappedDEK) + len(v.Nonce) + len(v.Ciphertext) + len(v.KeyCommit)
		store := make([]byte, 0, size)
		for _, field := range []*[]byte{&v.WrappedDEK, &v.Nonce, &v.Ciphertext, &v.KeyCommit} {
			from := len(store)
			store = append(store, *field...)
			*field = store[from:len(store):len(store)]
		}
		v.KMSKeyID = unique.Make(v.KMSKeyID).Value() // most rows have the same
		bytes += size + len(v.AAD) + int(unsafe.Sizeof(*v)) + timesOfRow
	}
	return Reading{s}, bytes, true
}

// timesOfRow is what the two optional times of a row take.
const timesOfRow = 2 * int(unsafe.Sizeof(time.Time{}))

// ReadingOf is a reading of these rows, newest first, for a source of rows that is not a Reader.
func ReadingOf(epoch uuid.UUID, rows ...VersionRow) Reading {
	return Reading{readResult{found: len(rows) > 0, rows: rows, epoch: epoch}}
}
