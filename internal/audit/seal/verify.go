package seal

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
)

// ErrTampered is wrapped by every [Fault].
var ErrTampered = errors.New("the audit log does not fit its seals")

// Fault is the first row or seal that does not fit.
type Fault struct {
	Seal int64  // 0 = none
	Row  int64  // 0 = none, or not known
	What string // all of it, in words
}

func (f *Fault) Error() string { return f.What }
func (f *Fault) Unwrap() error { return ErrTampered }

// Source is an audit log with its seals: a database, or an export.
type Source interface {
	// Cluster is the vault's cluster id.
	Cluster(ctx context.Context) (uuid.UUID, error)
	// Seals are all seals in the order of their ids. Marks may be missing.
	Seals(ctx context.Context) iter.Seq2[Seal, error]
	// Entries are seals and rows, one (month, system) after the other; within one by transaction id, each seal before the
	// rows it covers. Of each system, entries before its transaction id in since may be left out.
	Entries(ctx context.Context, since map[int64]uint64) iter.Seq2[Entry, error]
	// Prunes are the records of dropped rows.
	Prunes(ctx context.Context) ([]Prune, error)
}

// Entry is a seal, a row, or the leaf of a pruned row.
type Entry struct {
	Seal *Seal
	Row  *Row
	Leaf *Leaf
}

// Leaf stands for a row that was pruned by its action.
type Leaf struct {
	Prune    int64
	SystemID int64
	Month    time.Time
	Tx       uint64
	ID       int64
	Hash     Hash
}

// Prune records the rows dropped of a month: every row (Action "") or those of one action, in the seals up to LastSeal.
type Prune struct {
	ID       int64     `json:"id"`
	Month    string    `json:"month"`
	Action   string    `json:"action,omitempty"`
	Rows     int64     `json:"rows"`
	LastSeal int64     `json:"last_seal"`
	SHA256   string    `json:"exported_sha256"`
	PrunedAt time.Time `json:"pruned_at"`
	PrunedBy string    `json:"pruned_by"`
}

// covers reports whether no row of the seal is left.
func (p *Prune) covers(s *Seal) bool {
	return p.Action == "" && s.ID <= p.LastSeal && s.Month.Format(monthFormat) == p.Month
}

// Options of a verification.
type Options struct {
	Keys     []PublicKey // that may have signed; none = every key, see Report.Keys
	Since    time.Time   // rows sealed before are not recomputed; the chain of seals always is
	Copies   []Seal      // seals that were seen before, on a node's disk
	Partial  bool        // the source is a part of a log: its seals need not be consecutive
	Progress func(rows int64)
}

// Report counts what was verified.
type Report struct {
	Seals        int64      `json:"seals"`
	Rows         int64      `json:"rows"`                    // recomputed
	Pruned       int64      `json:"pruned_rows"`             // dropped by a prune that is on record
	Unsealed     int64      `json:"unsealed_rows"`           // newer than the last seal: not verified
	UnsealedFrom *time.Time `json:"unsealed_from,omitempty"` // the oldest of them
	SealedUntil  *time.Time `json:"sealed_until,omitempty"`  // when the last seal was made
	Keys         []string   `json:"keys"`                    // that signed
	Trusted      bool       `json:"trusted"`                 // all of them are among Options.Keys
	Copies       int64      `json:"copies"`                  // seals compared with those seen before
}

// Verify recomputes everything and returns the first [Fault]. Other errors are the source's.
func Verify(ctx context.Context, source Source, o Options) (Report, error) {
	v := &verifier{Options: o, start: map[int64]uint64{}, report: Report{Trusted: len(o.Keys) > 0, Keys: []string{}},
		noted: map[string]bool{}, leaves: map[int64]int64{}}
	cluster, err := source.Cluster(ctx)
	if err != nil {
		return v.report, err
	}
	if v.prunes, err = source.Prunes(ctx); err != nil {
		return v.report, err
	}
	v.chain = newChain(cluster, o.Partial)
	if err := v.seals(ctx, source); err != nil {
		return v.report, err
	}
	if err := v.entries(ctx, source); err != nil {
		return v.report, err
	}
	return v.report, v.checkPrunes()
}

type verifier struct {
	Options
	report Report
	prunes []Prune
	chain  *Chain
	start  map[int64]uint64 // by system: the first transaction to recompute, by Since

	at     group
	noted  map[string]bool // prunes that have their row in the log
	leaves map[int64]int64 // by prune: the leaf hashes it left
}

// seals checks the chain.
func (v *verifier) seals(ctx context.Context, source Source) error {
	copies := v.Copies
	for s, err := range source.Seals(ctx) {
		if err != nil {
			return err
		}
		if err := v.chain.Add(&s); err != nil {
			return err
		}
		if err := v.signer(&s); err != nil {
			return err
		}
		for len(copies) > 0 && copies[0].ID < s.ID { // a part of a log may lack them
			if !v.Partial {
				return &Fault{Seal: copies[0].ID, What: fmt.Sprintf("seal %d was seen before and is gone", copies[0].ID)}
			}
			copies = copies[1:]
		}
		if len(copies) > 0 && copies[0].ID == s.ID {
			if copies[0].Hash != s.Hash {
				return &Fault{Seal: s.ID,
					What: fmt.Sprintf("seal %d is not the one that was seen before: the chain was made anew from there", s.ID)}
			}
			copies, v.report.Copies = copies[1:], v.report.Copies+1
		}
		if _, ok := v.start[s.SystemID]; !ok && !s.SealedAt.Before(v.Since) {
			v.start[s.SystemID] = s.FromTx
		}
		v.report.Seals++
		v.report.SealedUntil = &s.SealedAt
	}
	if len(copies) > 0 && !v.Partial {
		return &Fault{Seal: copies[0].ID, What: fmt.Sprintf("%s gone, and had been seen: the log ends at seal %d",
			several(copies[0].ID, copies[len(copies)-1].ID, "seal"), v.report.Seals)}
	}
	for system, until := range v.chain.horizon {
		if _, ok := v.start[system]; !ok {
			v.start[system] = until
		}
	}
	return nil
}

func (v *verifier) signer(s *Seal) error {
	if !slices.Contains(v.report.Keys, s.KeyID) {
		v.report.Keys = append(v.report.Keys, s.KeyID)
	}
	if len(v.Keys) > 0 && !slices.ContainsFunc(v.Keys, func(k PublicKey) bool { return k.String() == s.KeyID }) {
		return &Fault{Seal: s.ID, What: fmt.Sprintf("seal %d is signed by %s, which is not the given key", s.ID, s.KeyID)}
	}
	return nil
}

// group is the current seal and the rows read for it.
type group struct {
	seal  *Seal
	tree  Tree
	ids   []int64
	marks []byte
}

func (v *verifier) entries(ctx context.Context, source Source) error {
	for e, err := range source.Entries(ctx, v.start) {
		if err != nil {
			return err
		}
		switch {
		case e.Seal != nil:
			err = v.begin(e.Seal)
		case e.Leaf != nil:
			err = v.leaf(e.Leaf)
		default:
			err = v.row(e.Row)
		}
		if err != nil {
			return err
		}
	}
	return v.end()
}

// begin ends the seal before. Seals made since the chain was checked are left to the next verification.
func (v *verifier) begin(s *Seal) error {
	if err := v.end(); err != nil {
		return err
	}
	v.at.seal = nil
	if s.ID > v.chain.last {
		return nil
	}
	if s.ComputeHash() != s.Hash {
		return changed(s)
	}
	v.at = group{seal: s, tree: v.at.tree, ids: v.at.ids[:0], marks: v.at.marks[:0]}
	v.at.tree.Reset()
	return nil
}

func (v *verifier) row(r *Row) error {
	v.report.Rows++
	if v.Progress != nil && v.report.Rows%4096 == 0 {
		v.Progress(v.report.Rows)
	}
	v.note(r)
	if err := r.check(); err != nil {
		return &Fault{Row: r.ID, What: fmt.Sprintf("row %d does not fit itself: %s", r.ID, err)}
	}
	if s := v.at.seal; s != nil && s.covers(r) {
		leaf, err := r.Leaf()
		if err != nil {
			return &Fault{Seal: s.ID, Row: r.ID, What: err.Error()}
		}
		v.add(r.ID, leaf)
		return nil
	}
	if r.Tx < v.chain.horizon[r.SystemID] {
		return &Fault{Row: r.ID,
			What: fmt.Sprintf("row %d is in no seal, and others of its time are: it was put in afterwards, or moved", r.ID)}
	}
	v.report.Rows--
	v.report.Unsealed++
	if v.report.UnsealedFrom == nil || r.RecordedAt.Before(*v.report.UnsealedFrom) {
		v.report.UnsealedFrom = &r.RecordedAt.Time
	}
	return nil
}

func (v *verifier) leaf(l *Leaf) error {
	s := v.at.seal
	if s == nil || l.SystemID != s.SystemID || l.Tx < s.FromTx || l.Tx >= s.ToTx {
		return &Fault{Row: l.ID, What: fmt.Sprintf("the pruned row %d is in no seal", l.ID)}
	}
	v.report.Pruned++
	v.leaves[l.Prune]++
	if !v.pruned(s) {
		v.add(l.ID, l.Hash)
	}
	return nil
}

func (v *verifier) add(id int64, leaf Hash) {
	v.at.tree.Add(leaf)
	v.at.ids = append(v.at.ids, id)
	v.at.marks = append(v.at.marks, leaf[:markSize]...)
}

// end compares the rows read with the seal.
func (v *verifier) end() error {
	g := &v.at
	s := g.seal
	if s == nil {
		return nil
	}
	if v.pruned(s) {
		if len(g.ids) > 0 {
			return &Fault{Seal: s.ID, Row: g.ids[0], What: fmt.Sprintf("row %d belongs to %s, which was pruned", g.ids[0], s)}
		}
		v.report.Pruned += s.Rows
		return nil
	}
	if g.tree.Len() == s.Rows && g.tree.Root() == s.Root && slices.Min(g.ids) == s.FirstID &&
		slices.Max(g.ids) == s.LastID {
		return nil
	}
	return g.fault()
}

// pruned reports whether all rows of the seal were dropped.
func (v *verifier) pruned(s *Seal) bool {
	return slices.ContainsFunc(v.prunes, func(p Prune) bool { return p.covers(s) })
}

// fault finds the row by the marks. An attacker who changes a row may change them as well; then only the seal is named.
func (g *group) fault() *Fault {
	s, rows := g.seal, len(g.ids)
	if len(s.Marks) == 0 {
		return &Fault{Seal: s.ID, What: fmt.Sprintf("%s does not fit its %d rows", s, rows)}
	}
	i := 0
	for i < min(rows, int(s.Rows)) && bytes.Equal(g.marks[i*markSize:][:markSize], s.Marks[i*markSize:][:markSize]) {
		i++
	}
	f := &Fault{Seal: s.ID}
	switch {
	case rows == int(s.Rows) && i == rows:
		f.What = fmt.Sprintf("%s does not fit its rows: one was changed, or the seal", s)
	case rows == int(s.Rows):
		f.Row = g.ids[i]
		f.What = fmt.Sprintf("row %d was changed after it was sealed (%s)", g.ids[i], s)
	case rows < int(s.Rows) && i == 0:
		f.What = fmt.Sprintf("%d of the %d rows of %s are gone: the first, row %d, or it was changed too", int(s.Rows)-rows,
			s.Rows, s, s.FirstID)
	case rows < int(s.Rows):
		f.Row = g.ids[i-1]
		f.What = fmt.Sprintf("%d of the %d rows of %s are gone: the first of them after row %d", int(s.Rows)-rows, s.Rows, s,
			g.ids[i-1])
	default:
		f.Row = g.ids[i]
		f.What = fmt.Sprintf("row %d was not there when its time was sealed (%s)", g.ids[i], s)
	}
	return f
}

// String names the seal, its month and its rows.
func (s *Seal) String() string {
	return fmt.Sprintf("seal %d, month %s, rows %d to %d", s.ID, s.Month.Format(monthFormat), s.FirstID, s.LastID)
}

// PruneAction is the action of the row that a prune writes. Its detail has the fields of [Prune].
const PruneAction = "audit.prune"

// note remembers the prunes that are on record in the log.
func (v *verifier) note(r *Row) {
	if r.Action != PruneAction || r.Outcome != "ok" {
		return
	}
	var p Prune
	if json.Unmarshal(r.Detail, &p) == nil {
		v.noted[p.words()] = true
	}
}

func (p *Prune) words() string {
	return fmt.Sprintf("%d %s %q %d %d %s", p.ID, p.Month, p.Action, p.Rows, p.LastSeal, p.SHA256)
}

// checkPrunes fails if a prune has no row in the log: a prune by an admin token writes one. The row is absent only if
// its own month was pruned.
func (v *verifier) checkPrunes() error {
	for i := range v.prunes {
		p := &v.prunes[i]
		itself := slices.ContainsFunc(v.prunes, func(o Prune) bool {
			return o.Action == "" &&
				o.Month == Month(p.PrunedAt).Format(monthFormat)
		})
		if !v.noted[p.words()] && !itself && p.PrunedAt.After(v.Since) && !v.Partial {
			return &Fault{What: fmt.Sprintf("prune %d of %s has no row %q in the log: its rows were not dropped by a prune",
				p.ID, p.Month, PruneAction)}
		}
		if p.Action != "" && v.leaves[p.ID] != p.Rows && v.Since.IsZero() && !v.Partial {
			return &Fault{What: fmt.Sprintf("prune %d of %s dropped %d rows and left %d leaf hashes", p.ID, p.Month, p.Rows,
				v.leaves[p.ID])}
		}
		delete(v.leaves, p.ID)
	}
	delete(v.leaves, 0) // those of rows that a part of a log has elsewhere
	for prune := range v.leaves {
		return &Fault{What: fmt.Sprintf("there are leaf hashes of prune %d, and no such prune", prune)}
	}
	return nil
}

// Chain checks seals in the order of their ids.
type Chain struct {
	partial bool
	last    int64
	hash    Hash
	seen    *Seal
	horizon map[int64]uint64 // by system: sealed up to here
}

func newChain(cluster uuid.UUID, partial bool) *Chain {
	return &Chain{partial: partial, hash: Genesis(cluster), horizon: map[int64]uint64{}}
}

// Add returns a [Fault] unless the seal is the next one.
func (c *Chain) Add(s *Seal) error {
	follows := s.ID == c.last+1
	switch {
	case s.ID <= c.last:
		return &Fault{Seal: s.ID, What: fmt.Sprintf("seal %d comes after seal %d", s.ID, c.last)}
	case !follows && !c.partial:
		return &Fault{Seal: c.last + 1, What: fmt.Sprintf("%s missing", several(c.last+1, s.ID-1, "seal"))}
	case s.ComputeHash() != s.Hash:
		return changed(s)
	case !s.Signed():
		return &Fault{Seal: s.ID, What: fmt.Sprintf("the signature of seal %d is not by the key that it names", s.ID)}
	case follows && s.Previous != c.hash:
		return &Fault{Seal: s.ID, What: fmt.Sprintf("seal %d does not follow %s", s.ID, c.before())}
	}
	if err := c.window(s, follows); err != nil {
		return err
	}
	c.last, c.hash, c.seen = s.ID, s.Hash, s
	c.horizon[s.SystemID] = s.ToTx
	return nil
}

// window fails unless the seal is of the next window of its system, or of the same window in a later month.
func (c *Chain) window(s *Seal, follows bool) error {
	from, known := c.horizon[s.SystemID], !c.partial || follows
	same := c.seen != nil && c.seen.SystemID == s.SystemID && c.seen.FromTx == s.FromTx && c.seen.ToTx == s.ToTx &&
		s.Month.After(c.seen.Month)
	if s.ToTx > s.FromTx && (same || s.FromTx == from || !known || c.partial) {
		return nil
	}
	return &Fault{Seal: s.ID, What: fmt.Sprintf("seal %d covers transactions from %d on, its system was sealed up to %d",
		s.ID, s.FromTx, from)}
}

func (c *Chain) before() string {
	if c.last == 0 {
		return "this vault's beginning: it is another vault's seal"
	}
	return fmt.Sprintf("seal %d: the seals are not one chain", c.last)
}

func changed(s *Seal) *Fault {
	return &Fault{Seal: s.ID, What: fmt.Sprintf("seal %d was changed: its hash is not %s", s.ID,
		hex.EncodeToString(s.Hash[:4]))}
}

func several(first, last int64, what string) string {
	if first == last {
		return fmt.Sprintf("%s %d is", what, first)
	}
	return fmt.Sprintf("%ss %d to %d are", what, first, last)
}
