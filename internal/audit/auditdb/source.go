package auditdb

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/db"
)

var _ seal.Source = (*Source)(nil)

// Source is the audit log of the local node, to be verified or archived. It reads in short statements: a long one would
// be cancelled on a standby. It takes a role in vault_auditor.
type Source struct {
	log   *Log
	month time.Time // only this one; zero = all
}

// sourcePage is how many rows or seals one statement reads.
const sourcePage = 5000

// Source returns the whole log, or one month of it.
func (l *Log) Source(month time.Time) *Source { return &Source{l, month} }

// Estimate is the approximate number of rows, by the statistics of the last ANALYZE, for a progress bar.
func (l *Log) Estimate(ctx context.Context) (int64, error) {
	return db.One[int64](ctx, l.reader, `SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'vault.audit_log'::regclass`)
}

// Cluster is the vault's id.
func (s *Source) Cluster(ctx context.Context) (uuid.UUID, error) { return s.log.Cluster(ctx) }

// Prunes are the records of dropped rows.
func (s *Source) Prunes(ctx context.Context) ([]seal.Prune, error) {
	return db.Collect(ctx, s.log.reader, func(row pgx.CollectableRow) (seal.Prune, error) {
		var p seal.Prune
		var month time.Time
		var sum []byte
		err := row.Scan(&p.ID, &month, &p.Action, &p.Rows, &p.LastSeal, &sum, &p.PrunedAt, &p.PrunedBy)
		p.Month, p.SHA256 = month.Format("2006-01"), hex.EncodeToString(sum)
		return p, err
	}, `SELECT id, month, coalesce(action, ''), rows, last_seal, exported_sha256, pruned_at, pruned_by
		FROM vault.audit_prunes ORDER BY id`)
}

// Seals are the seals of all months.
func (s *Source) Seals(ctx context.Context) iter.Seq2[seal.Seal, error] {
	return func(yield func(seal.Seal, error) bool) {
		var after int64
		for {
			page, _, err := s.log.SealsAfter(ctx, after, sourcePage)
			if err != nil {
				yield(seal.Seal{}, fmt.Errorf("reading the seals: %w", err))
				return
			}
			for _, one := range page {
				after = one.ID
				if !yield(one, nil) {
					return
				}
			}
			if len(page) < sourcePage {
				return
			}
		}
	}
}

// Entries are the seals and rows, part by part.
func (s *Source) Entries(ctx context.Context, since map[int64]uint64) iter.Seq2[seal.Entry, error] {
	return func(yield func(seal.Entry, error) bool) {
		parts, err := s.log.parts(ctx)
		if err != nil {
			yield(seal.Entry{}, fmt.Errorf("reading the audit log: %w", err))
			return
		}
		for _, p := range parts {
			if !s.month.IsZero() && !p.month.Equal(s.month) {
				continue
			}
			if !s.part(ctx, p, since[p.systemID], yield) {
				return
			}
		}
	}
}

// part is the rows of one month and one system.
type part struct {
	month    time.Time
	systemID int64
}

// parts lists the months and systems that have rows or seals, in order. It reads one row of each, so its cost does not
// depend on the size of the log.
func (l *Log) parts(ctx context.Context) ([]part, error) {
	return db.Collect(ctx, l.reader, func(row pgx.CollectableRow) (part, error) {
		var p part
		err := row.Scan(&p.month, &p.systemID)
		return p, err
	}, `WITH RECURSIVE `+monthsOfLog+`, systems(s) AS (
			SELECT min(system_id) FROM vault.audit_log
			UNION ALL
			SELECT (SELECT min(system_id) FROM vault.audit_log WHERE system_id > s) FROM systems WHERE s IS NOT NULL)
		SELECT m::date, s FROM months, systems WHERE m IS NOT NULL AND s IS NOT NULL
		UNION
		SELECT DISTINCT month, system_id FROM vault.audit_seals
		ORDER BY 1, 2`)
}

// monthsOfLog steps from month to month along the index by time, from 0001-01 to 9999-12, as vault._audit_month counts
// them.
const monthsOfLog = `months(m) AS (
	SELECT date_trunc('month', greatest(least(min(at) AT TIME ZONE 'UTC', timestamp '9999-12-31'),
		timestamp '0001-01-01')) FROM vault.audit_log WHERE EXISTS (SELECT FROM vault.audit_log)
	UNION ALL
	SELECT date_trunc('month', (SELECT least(min(at) AT TIME ZONE 'UTC', timestamp '9999-12-31') FROM vault.audit_log
		WHERE at >= (m + interval '1 month') AT TIME ZONE 'UTC'))
	FROM months WHERE m < timestamp '9999-12-01')`

// part yields the seals and rows of one part merged by transaction id: each seal before the first row at or behind its
// from_tx.
func (s *Source) part(ctx context.Context, p part, from uint64, yield func(seal.Entry, error) bool) bool {
	rows := &pages[seal.Row]{read: func(last *seal.Row) ([]seal.Row, error) {
		if last == nil {
			return s.rows(ctx, p, from, -1)
		}
		return s.rows(ctx, p, last.Tx, last.ID)
	}}
	seals := &pages[partSeal]{read: func(last *partSeal) ([]partSeal, error) {
		if last == nil {
			return s.seals(ctx, p, from, 0)
		}
		return s.seals(ctx, p, from, last.ID)
	}}
	var leaves []seal.Leaf
	for {
		row, rowErr := rows.peek()
		next, sealErr := seals.peek()
		if err := errors.Join(rowErr, sealErr); err != nil {
			yield(seal.Entry{}, fmt.Errorf("reading the audit log: %w", err))
			return false
		}
		var entry seal.Entry
		switch {
		case next != nil && (row == nil || next.FromTx <= row.Tx) && (len(leaves) == 0 || next.FromTx <= leaves[0].Tx):
			x := next.Seal
			entry.Seal = &x
			more, err := next.unpack()
			if err != nil {
				yield(seal.Entry{}, err)
				return false
			}
			leaves = append(leaves, more...)
			seals.next()
		case len(leaves) > 0 && (row == nil || leaves[0].Tx < row.Tx || leaves[0].Tx == row.Tx && leaves[0].ID < row.ID):
			entry.Leaf, leaves = &leaves[0], leaves[1:]
		case row != nil:
			x := *row
			entry.Row = &x
			rows.next()
		default:
			return true
		}
		if !yield(entry, nil) {
			return false
		}
	}
}

// rows reads the rows of a part in the order of (tx, id), after a position.
func (s *Source) rows(ctx context.Context, p part, tx uint64, id int64) ([]seal.Row, error) {
	first, last := monthSpan(p.month)
	return db.Collect(ctx, s.log.reader, scanSealed, `SELECT `+sealedColumns+` FROM vault.audit_log
		WHERE at BETWEEN $1 AND $2 AND system_id = $3 AND (tx, id) > ($4, $5) ORDER BY tx, id LIMIT $6`,
		first, last, p.systemID, tx, id, sourcePage)
}

// monthSpan is the first and the last moment sealed under a month. The first month includes everything before it, the
// last everything after it.
func monthSpan(month time.Time) (first, last time.Time) {
	first, last = month, month.AddDate(0, 1, 0).Add(-time.Microsecond)
	if month.Year() <= 1 && month.Month() == time.January {
		first = seal.MinusInfinity
	}
	if month.Year() >= 9999 && month.Month() == time.December {
		last = seal.Infinity
	}
	return first, last
}

// partSeal is a seal and the leaf hashes of its rows that were pruned by action.
type partSeal struct {
	seal.Seal
	leaves []prunedLeaves
}

// prunedLeaves are what one prune kept of a seal's rows: leafSize bytes each, in hex.
type prunedLeaves struct {
	Prune  int64  `json:"prune"`
	Leaves string `json:"leaves"`
}

// seals reads the seals of a part, with their marks, in the order of their windows: those that end after a transaction
// and have a greater id.
func (s *Source) seals(ctx context.Context, p part, tx uint64, id int64) ([]partSeal, error) {
	return db.Collect(ctx, s.log.reader, func(row pgx.CollectableRow) (found partSeal, err error) {
		found.Seal, err = scanSeal(row, &found.leaves)
		return found, err
	}, `SELECT `+sealColumns+`marks,
			(SELECT jsonb_agg(jsonb_build_object('prune', l.prune, 'leaves', encode(l.leaves, 'hex')))
				FROM vault.audit_leaves l WHERE l.seal = s.id)
		FROM vault.audit_seals s
		WHERE month = $1 AND system_id = $2 AND to_tx > $3 AND id > $4 ORDER BY id LIMIT $5`,
		p.month, p.systemID, tx, id, sourcePage)
}

const leafSize = 48 // tx, id, hash

// unpack returns the leaves in the order of (tx, id).
func (s *partSeal) unpack() ([]seal.Leaf, error) {
	var all []seal.Leaf
	for _, kept := range s.leaves {
		packed, err := hex.DecodeString(kept.Leaves)
		if err != nil || len(packed)%leafSize != 0 {
			return nil, &db.Error{Kind: db.ErrIntegrity, Text: fmt.Sprintf("the leaf hashes of seal %d are damaged", s.ID)}
		}
		for ; len(packed) > 0; packed = packed[leafSize:] {
			all = append(all, seal.Leaf{Prune: kept.Prune, SystemID: s.SystemID, Month: s.Month,
				Tx: binary.BigEndian.Uint64(packed), ID: int64(binary.BigEndian.Uint64(packed[8:])),
				Hash: seal.Hash(packed[16:leafSize])})
		}
	}
	slices.SortFunc(all, func(a, b seal.Leaf) int { return cmp.Or(cmp.Compare(a.Tx, b.Tx), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

// PackLeaf appends the packed leaf hash that is kept in place of its row.
func PackLeaf(to []byte, r *seal.Row) ([]byte, error) {
	leaf, err := r.Leaf()
	to = binary.BigEndian.AppendUint64(to, r.Tx)
	to = binary.BigEndian.AppendUint64(to, uint64(r.ID))
	return append(to, leaf[:]...), err
}

// pages reads one page after another, each after the last item of the one before.
type pages[T any] struct {
	read func(last *T) ([]T, error)
	page []T
	at   int
	last *T
	done bool
}

// peek returns the next item, nil at the end.
func (p *pages[T]) peek() (*T, error) {
	if p.at < len(p.page) {
		return &p.page[p.at], nil
	}
	if p.done {
		return nil, nil
	}
	page, err := p.read(p.last)
	if err != nil {
		return nil, err
	}
	p.page, p.at, p.done = page, 0, len(page) < sourcePage
	if len(page) == 0 {
		return nil, nil
	}
	p.last = &page[len(page)-1]
	return &page[0], nil
}

func (p *pages[T]) next() { p.at++ }
