package vault

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

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/db"
)

var (
	_ seal.Store  = (*Vault)(nil)
	_ seal.Source = (*AuditSource)(nil)
)

// IsPrimary reports whether the local node is the primary; for an old primary that came back it is ErrFenced.
func (v *Vault) IsPrimary(ctx context.Context) (bool, error) { return v.reader.IsPrimary(ctx) }

// ClusterID is the vault's id, which every copy of it has.
func (v *Vault) ClusterID(ctx context.Context) (uuid.UUID, error) {
	config, err := v.reader.Config(ctx)
	return config.ClusterID, err
}

// SealAudit seals the next closed window of the audit log, if the local node is the primary.
func (v *Vault) SealAudit(ctx context.Context, limit int, make func(seal.Window) ([]seal.Seal, error)) (int, error) {
	primary, err := v.reader.IsPrimary(ctx)
	if err != nil || !primary {
		return 0, err
	}
	return v.writer.SealAudit(ctx, limit, func(w db.AuditWindow) ([]db.AuditSeal, error) {
		window := seal.Window{SystemID: w.SystemID, FromTx: w.FromTx, ToTx: w.ToTx, LastID: w.LastID, Now: w.Now,
			Rows: sealRows(w.Records)}
		copy(window.LastHash[:], w.LastHash)
		seals, err := make(window)
		rows := []db.AuditSeal{}
		for _, s := range seals {
			rows = append(rows, db.AuditSeal{ID: s.ID, SystemID: s.SystemID, Month: s.Month, FromTx: s.FromTx, ToTx: s.ToTx,
				Rows: s.Rows, FirstID: s.FirstID, LastID: s.LastID, Root: s.Root[:], Previous: s.Previous[:], Hash: s.Hash[:],
				KeyID: s.KeyID, Signature: s.Signature, SealedAt: s.SealedAt, Marks: s.Marks})
		}
		return rows, err
	})
}

// SealsAfter reads seals from the local node, and the hash of the one they come after.
func (v *Vault) SealsAfter(ctx context.Context, id int64, limit int) ([]seal.Seal, *seal.Hash, error) {
	var at *seal.Hash
	if id != 0 {
		hash, err := v.reader.SealHash(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		if len(hash) == len(seal.Hash{}) {
			at = (*seal.Hash)(hash)
		}
	}
	rows, err := v.reader.AuditSeals(ctx, db.SealQuery{After: id, Limit: limit})
	seals := make([]seal.Seal, len(rows))
	for i, s := range rows {
		seals[i] = sealOf(s)
	}
	return seals, at, err
}

func sealOf(s db.AuditSeal) seal.Seal {
	x := seal.Seal{ID: s.ID, SystemID: s.SystemID, Month: s.Month.UTC(), FromTx: s.FromTx, ToTx: s.ToTx, Rows: s.Rows,
		FirstID: s.FirstID, LastID: s.LastID, KeyID: s.KeyID, Signature: s.Signature, SealedAt: s.SealedAt, Marks: s.Marks}
	copy(x.Root[:], s.Root) // the table checks lengths; one that is too short does not fit its hash
	copy(x.Previous[:], s.Previous)
	copy(x.Hash[:], s.Hash)
	return x
}

func sealRows(records []db.AuditRecord) []seal.Row {
	rows := make([]seal.Row, len(records))
	for i := range records {
		rows[i] = sealRow(&records[i])
	}
	return rows
}

func sealRow(r *db.AuditRecord) seal.Row {
	row := seal.Row{ID: r.ID, SystemID: r.SystemID, Tx: r.Tx, At: seal.Moment{Time: r.At.UTC()},
		RecordedAt: seal.Moment{Time: r.RecordedAt.UTC()}, Actor: r.Actor, DBRole: r.DBRole, Node: r.Node, Action: r.Action,
		Secret: r.Secret, Version: r.Version, Outcome: r.Outcome, RequestID: r.RequestID, Detail: r.Detail}
	if r.Client != nil {
		row.Client = &seal.Client{Prefix: *r.Client}
	}
	return row
}

// AuditSource is the audit log of the local node, to be verified or exported. It reads in short statements: a long one
// would be cancelled on a standby. It takes a role in vault_auditor.
type AuditSource struct {
	reader *db.Reader
	month  time.Time // only this one; zero = all
}

// AuditSource returns the whole log, or one month of it.
func (v *Vault) AuditSource(month time.Time) *AuditSource {
	return &AuditSource{reader: v.reader, month: month}
}

// AuditEstimate is about how many rows the log has.
func (v *Vault) AuditEstimate(ctx context.Context) (int64, error) { return v.reader.AuditEstimate(ctx) }

// Cluster is the vault's id.
func (s *AuditSource) Cluster(ctx context.Context) (uuid.UUID, error) {
	config, err := s.reader.Config(ctx)
	return config.ClusterID, err
}

// Prunes are the records of dropped rows.
func (s *AuditSource) Prunes(ctx context.Context) ([]seal.Prune, error) {
	rows, err := s.reader.AuditPrunes(ctx)
	prunes := make([]seal.Prune, len(rows))
	for i, p := range rows {
		prunes[i] = seal.Prune{ID: p.ID, Month: p.Month.Format("2006-01"), Action: p.Action, Rows: p.Rows,
			LastSeal: p.LastSeal, SHA256: hex.EncodeToString(p.ExportedSHA256), PrunedAt: p.PrunedAt, PrunedBy: p.PrunedBy}
	}
	return prunes, err
}

const auditPage = 5000

// Seals are the seals of all months.
func (s *AuditSource) Seals(ctx context.Context) iter.Seq2[seal.Seal, error] {
	return func(yield func(seal.Seal, error) bool) {
		var after int64
		for {
			page, err := s.reader.AuditSeals(ctx, db.SealQuery{After: after, Limit: auditPage})
			if err != nil {
				yield(seal.Seal{}, fmt.Errorf("reading the seals: %w", err))
				return
			}
			for _, row := range page {
				after = row.ID
				if !yield(sealOf(row), nil) {
					return
				}
			}
			if len(page) < auditPage {
				return
			}
		}
	}
}

// Entries are the seals and rows, part by part.
func (s *AuditSource) Entries(ctx context.Context, since map[int64]uint64) iter.Seq2[seal.Entry, error] {
	return func(yield func(seal.Entry, error) bool) {
		parts, err := s.reader.AuditParts(ctx)
		if err != nil {
			yield(seal.Entry{}, fmt.Errorf("reading the audit log: %w", err))
			return
		}
		for _, p := range parts {
			if !s.month.IsZero() && !p.Month.Equal(s.month) {
				continue
			}
			if !s.part(ctx, p, since[p.SystemID], yield) {
				return
			}
		}
	}
}

// part yields the seals and rows of one part merged by transaction id: each seal before the first row at or behind its
// from_tx.
func (s *AuditSource) part(ctx context.Context, p db.AuditPart, from uint64, yield func(seal.Entry, error) bool) bool {
	rows := &pages[db.AuditRecord]{read: func(last *db.AuditRecord) ([]db.AuditRecord, error) {
		c := db.RecordCursor{AuditPart: p, Tx: from, ID: -1}
		if last != nil {
			c.Tx, c.ID = last.Tx, last.ID
		}
		return s.reader.AuditRecords(ctx, c, auditPage)
	}}
	seals := &pages[db.AuditSeal]{read: func(last *db.AuditSeal) ([]db.AuditSeal, error) {
		c := db.RecordCursor{AuditPart: p, Tx: from}
		if last != nil {
			c.ID = last.ID
		}
		return s.reader.PartSeals(ctx, c, auditPage)
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
			x := sealOf(*next)
			entry.Seal = &x
			more, err := leavesOf(*next)
			if err != nil {
				yield(seal.Entry{}, err)
				return false
			}
			leaves = append(leaves, more...)
			seals.next()
		case len(leaves) > 0 && (row == nil || leaves[0].Tx < row.Tx || leaves[0].Tx == row.Tx && leaves[0].ID < row.ID):
			entry.Leaf, leaves = &leaves[0], leaves[1:]
		case row != nil:
			x := sealRow(row)
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

const leafSize = 48 // tx, id, hash

func leavesOf(s db.AuditSeal) ([]seal.Leaf, error) {
	var all []seal.Leaf
	for _, kept := range s.Leaves {
		packed, err := hex.DecodeString(kept.Leaves)
		if err != nil || len(packed)%leafSize != 0 {
			return nil, fmt.Errorf("%w: the leaf hashes of seal %d", ErrIntegrity, s.ID)
		}
		for ; len(packed) > 0; packed = packed[leafSize:] {
			all = append(all, seal.Leaf{Prune: kept.Prune, SystemID: s.SystemID, Month: s.Month.UTC(),
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
	p.page, p.at, p.done = page, 0, len(page) < auditPage
	if len(page) == 0 {
		return nil, nil
	}
	p.last = &page[len(page)-1]
	return &page[0], nil
}

func (p *pages[T]) next() { p.at++ }
