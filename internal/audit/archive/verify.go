package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit/spool"
)

// Options of a verification.
type Options struct {
	// Compare reads what to compare the spools of a vault with; nil: nothing. It is called after the files were listed, so
	// that the primary has what they have.
	Compare  func(ctx context.Context) (Compared, error)
	Progress func(records int64) // may be nil
}

// Compared is what a node's database has of the spools of a vault.
type Compared struct {
	Cluster uuid.UUID
	Ledgers []spool.Ledger
	Standby bool // it may have less than the primary
}

// Report is the result of a verification.
type Report struct {
	Vaults  int     `json:"vaults"`
	Spools  []Spool `json:"spools"`
	Files   int64   `json:"files"`
	Records int64   `json:"records"`
	Bytes   int64   `json:"bytes"`    // of the files
	Text    int64   `json:"text"`     // bytes of their text
	Others  int     `json:"others"`   // files below reads/ that are not the archive's
	Absent  int     `json:"absent"`   // spools of which the primary has records and the archive nothing
	Ledgers bool    `json:"compared"` // with the primary's positions
	Faults  []Fault `json:"faults"`   // never nil
}

// Spool is what the archive has of one spool.
type Spool struct {
	Cluster  uuid.UUID  `json:"cluster"`
	Node     string     `json:"node"`
	Boot     uuid.UUID  `json:"boot"`
	First    uint64     `json:"first"` // above 1: older files have expired, or were removed
	Next     uint64     `json:"next"`
	From     *time.Time `json:"from,omitempty"` // of the events, to the second
	Until    *time.Time `json:"until,omitempty"`
	Repeated uint64     `json:"repeated,omitempty"` // records that two files have, the same in both
	Lost     uint64     `json:"lost,omitempty"`     // missing records that the primary has on record as lost
	Behind   uint64     `json:"behind,omitempty"`   // records that the primary has and the archive does not have yet
	Ahead    uint64     `json:"ahead,omitempty"`    // records that the standby that was asked does not have yet
	Unlisted bool       `json:"unlisted,omitempty"` // the primary does not know the spool (any more)
}

// Fault is one thing that does not fit.
type Fault struct {
	Boot uuid.UUID `json:"boot"`
	File string    `json:"file,omitempty"`
	What string    `json:"what"`
}

func (f Fault) String() string {
	if f.File == "" {
		return fmt.Sprintf("spool %s: %s", f.Boot, f.What)
	}
	return fmt.Sprintf("%s: %s", f.File, f.What)
}

// Verify reads every file of the archive, and reports all that does not fit. Its error is one of reading the archive.
func (a *Archive) Verify(ctx context.Context, o Options) (Report, error) {
	names, others, err := a.names(ctx)
	if err != nil {
		return Report{}, err
	}
	v := verification{archive: a, progress: o.Progress,
		report: Report{Others: len(others), Faults: []Fault{}, Spools: []Spool{}, Ledgers: o.Compare != nil}}
	if o.Compare != nil {
		if v.with, err = o.Compare(ctx); err != nil {
			return Report{}, err
		}
	}
	for len(names) > 0 {
		n := 1
		for n < len(names) && names[n].cluster == names[0].cluster && names[n].boot == names[0].boot {
			n++
		}
		if len(v.report.Spools) == 0 || names[0].cluster != v.report.Spools[len(v.report.Spools)-1].Cluster {
			v.report.Vaults++
		}
		if err := v.spool(ctx, names[:n]); err != nil {
			return v.report, err
		}
		names = names[n:]
	}
	v.report.Absent = v.absent()
	return v.report, nil
}

func (v *verification) absent() (n int) {
	for _, l := range v.with.Ledgers {
		if l.Next > 1 && !slices.ContainsFunc(v.report.Spools, func(s Spool) bool { return s.Boot == l.Boot }) {
			n++
		}
	}
	return n
}

type verification struct {
	archive  *Archive
	with     Compared
	progress func(int64)
	report   Report
}

// end is the chain so far: the hashes of the records of the newest file, for one that overlaps it.
type end struct {
	Spool
	first  uint64       // of the records whose hashes are kept
	hashes []spool.Hash // from first on; nil: they are not known
}

func (e *end) hash(seq uint64) (spool.Hash, bool) {
	if seq < e.first || seq-e.first >= uint64(len(e.hashes)) {
		return spool.Hash{}, false
	}
	return e.hashes[seq-e.first], true
}

// spool verifies the files of one spool, in the order of their numbers.
func (v *verification) spool(ctx context.Context, names []name) error {
	ledger := v.ledger(names[0])
	chain := end{Spool: Spool{Cluster: names[0].cluster, Boot: names[0].boot, First: names[0].first, Next: names[0].first,
		Unlisted: v.report.Ledgers && names[0].cluster == v.with.Cluster && ledger == nil}}
	for _, n := range names {
		f, size, err := v.archive.read(ctx, n)
		v.report.Files++
		v.report.Bytes += int64(size)
		switch {
		case errors.Is(err, ErrDamaged):
			v.fault(n, "%s", innermost(err))
			v.hole(&chain, n, ledger)
			chain.Next, chain.hashes = max(chain.Next, n.next), nil
			continue
		case err != nil:
			return err
		}
		v.hole(&chain, n, ledger)
		v.join(&chain, n, f)
		v.report.Records += int64(f.Records)
		v.report.Text += int64(f.text)
		if v.progress != nil {
			v.progress(v.report.Records)
		}
	}
	if ledger != nil {
		v.compare(&chain, *ledger)
	}
	v.report.Spools = append(v.report.Spools, chain.Spool)
	return nil
}

// hole reports the numbers between the chain and a file that no file has.
func (v *verification) hole(chain *end, n name, ledger *spool.Ledger) {
	if n.first <= chain.Next {
		return
	}
	missing := spool.Range{First: chain.Next, Next: n.first}
	chain.hashes = nil
	if ledger != nil {
		for _, gap := range ledger.Gaps {
			if gap.First <= missing.First && missing.Next <= gap.Next {
				chain.Lost += missing.Next - missing.First
				return
			}
		}
	}
	v.fault(n, "the records %d to %d before it are missing: no file has them", missing.First, missing.Next-1)
}

// join compares a file with the chain before it, and adds it.
func (v *verification) join(chain *end, n name, f file) {
	if chain.Node == "" {
		chain.Node = f.Node
	} else if chain.Node != f.Node {
		v.fault(n, "it is of node %q, and the files before it of %q", f.Node, chain.Node)
	}
	before, known := chain.hash(f.First - 1)
	if f.First == 1 {
		before, known = spool.Hash{}, true
	}
	if known && before != spool.Hash(f.Link) {
		v.fault(n, "its first record, %d, does not continue record %d of the file before", f.First, f.First-1)
	}
	hashes := make([]spool.Hash, 0, f.Records)
	repeated, different := uint64(0), false
	f.hashes(func(seq uint64, h spool.Hash) {
		hashes = append(hashes, h)
		if there, known := chain.hash(seq); known && there == h {
			repeated++
		} else {
			different = different || known
		}
	})
	chain.Repeated += repeated
	if different {
		v.fault(n, "it and a file before it have different records under the numbers from %d to %d", f.First,
			min(chain.Next, n.next)-1)
	}
	span := func(seconds int64) *time.Time {
		at := time.Unix(seconds, 0).UTC()
		return &at
	}
	if chain.From == nil || span(n.from).Before(*chain.From) {
		chain.From = span(n.from)
	}
	if chain.Until == nil || span(n.until).After(*chain.Until) {
		chain.Until = span(n.until)
	}
	if n.next < chain.Next { // a file inside another
		return
	}
	chain.Next, chain.first, chain.hashes = n.next, f.First, hashes
}

// compare looks at the end of a spool in the archive and on the primary.
func (v *verification) compare(chain *end, l spool.Ledger) {
	fault := func(format string, args ...any) {
		v.report.Faults = append(v.report.Faults, Fault{Boot: l.Boot, What: fmt.Sprintf(format, args...)})
	}
	if l.Node != chain.Node && chain.Node != "" {
		fault("the archive says that it is of node %q, the primary %q", chain.Node, l.Node)
	}
	switch {
	case chain.Next > l.Next && v.with.Standby:
		chain.Ahead = chain.Next - l.Next
	case chain.Next > l.Next:
		fault("the archive has records up to %d, and the primary takes %d next: it has lost what it acknowledged",
			chain.Next-1, l.Next)
	}
	if h, known := chain.hash(l.Next - 1); known && h != l.Last {
		fault("record %d of the archive is not the one that the primary acknowledged", l.Next-1)
	}
	chain.Behind = l.Next - min(chain.Next, l.Next)
}

func (v *verification) ledger(n name) *spool.Ledger {
	if n.cluster != v.with.Cluster {
		return nil
	}
	for i, l := range v.with.Ledgers {
		if l.Boot == n.boot {
			return &v.with.Ledgers[i]
		}
	}
	return nil
}

func (v *verification) fault(n name, format string, args ...any) {
	v.report.Faults = append(v.report.Faults, Fault{n.boot, n.String(), fmt.Sprintf(format, args...)})
}

// innermost is the text of a damaged file without its name, which the fault has.
func innermost(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil || inner == ErrDamaged {
			return err.Error()
		}
		err = inner
	}
}
