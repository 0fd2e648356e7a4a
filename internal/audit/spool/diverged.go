package spool

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
)

// A folder that was put back to an earlier state (a machine restored from a snapshot) appends records under numbers
// that the primary has for others. The primary cannot take them, so this file makes two things of them: a row of the
// audit log that says so, at once, and with [Shipper.DrainAsNew] the records themselves, as a spool of their own. Both
// have a boot that is derived from the folder's, so that sending them again adds nothing.

// derived is the boot of what is shipped on behalf of another boot.
func derived(boot uuid.UUID, what string, at Position) uuid.UUID {
	return uuid.NewSHA1(boot, append(binary.BigEndian.AppendUint64([]byte(what), at.Next), at.Last[:]...))
}

// witness puts on the primary's record that this folder went back, once for each position of the primary. The next
// attempt repeats what fails here.
func (s *Shipper) witness(ctx context.Context, shipping error) {
	if !errors.Is(shipping, ErrDiverged) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, shipTimeout)
	defer cancel()
	node, boot, durable := s.Spool.identity()
	at, err := s.Primary.Ship(ctx, Batch{Node: node, Boot: boot})
	if err != nil {
		return
	}
	row := derived(boot, "diverged", at)
	if row == s.diverged {
		return
	}
	note, err := firstRecord(audit.Event{At: time.Now().UTC(), Actor: "vaultd", Action: audit.Gap, Outcome: audit.Failed,
		Detail: map[string]any{"spool": boot.String(), "primary_next": at.Next, "spool_next": durable,
			"reason": "the spool's folder was put back to an earlier state; its records since then are not in this log"}})
	if err != nil {
		return
	}
	if _, err := s.Primary.Ship(ctx, Batch{Node: node, Boot: row, First: 1, Records: []Record{note}}); err == nil {
		s.diverged = row
	}
}

// firstRecord is the first record of a spool.
func firstRecord(e audit.Event) (Record, error) {
	text, err := e.AppendJSON(nil)
	return Record{Seq: 1, Event: text}, err
}

// Drain ships all records of a folder that gets no more of them, without pauses. It returns the number of records that
// the primary took now, and the first error.
func (s *Shipper) Drain(ctx context.Context) (shipped uint64, err error) {
	if _, err := s.Spool.settle(); err != nil {
		return 0, err
	}
	for {
		n, _, err := s.ship(ctx)
		s.witness(ctx, err)
		shipped += uint64(n)
		switch {
		case errors.Is(err, ErrBehind):
		case err != nil:
			return shipped, err
		case n == 0: // reading may have found a damaged segment
			if noted, err := s.Spool.settle(); err != nil || !noted {
				return shipped, err
			}
		}
	}
}

// settle makes the spool's own notes records. It reports whether there were any.
func (s *Spool) settle() (noted bool, err error) {
	performed := s.exclusively(func() {
		noted = len(s.notes) > 0
		err = s.commitNotes()
	})
	if err := errors.Join(performed, err); err != nil {
		return noted, err
	}
	s.flush()
	return noted, nil
}

// DrainAsNew ships all records of a folder that diverged from the primary (ErrDiverged) as those of another boot, whose
// first record says so. Those from before the folder was put back are then on the primary twice. Records that cannot be
// read are a gap of the new boot, too. It returns the boot and how many records it has.
func (s *Shipper) DrainAsNew(ctx context.Context) (boot uuid.UUID, records uint64, err error) {
	if _, err := s.Spool.settle(); err != nil {
		return boot, 0, err
	}
	node, old, _ := s.Spool.identity()
	from := uint64(1)
	next, err := s.Spool.readFrom(from, shipBatch)
	if err != nil {
		return boot, 0, fmt.Errorf("reading the spool: %w", err)
	}
	if len(next.Records) == 0 {
		return boot, 0, ErrNoSpool
	}
	boot = derived(old, "as new", Position{Next: next.First, Last: next.Records[0].Hash()})
	first, err := firstRecord(audit.Event{At: happened(next.Records[0]), Actor: "vaultd", Action: audit.Gap,
		Outcome: audit.Failed, Detail: map[string]any{"spool": old.String(), "from": next.First,
			"reason": "the spool's folder was put back to an earlier state; its records follow, some perhaps once more"}})
	if err != nil {
		return boot, 0, err
	}
	batch := Batch{Node: node, Boot: boot, First: 1, Records: []Record{first}}
	for {
		if err := s.shipWhole(ctx, batch); err != nil {
			return boot, records, err
		}
		if len(next.Records) == 0 {
			return boot, records, nil
		}
		last := batch.Records[len(batch.Records)-1]
		missing := uint64(0)
		if records > 0 { // those before the first were removed when they had been shipped
			missing = next.First - from
		}
		batch = Batch{Node: node, Boot: boot, First: last.Seq + 1 + missing, Lost: missing > 0}
		for i, r := range next.Records {
			last = Record{Seq: batch.First + uint64(i), Previous: last.Hash(), Event: r.Event}
			batch.Records = append(batch.Records, last)
		}
		records += uint64(len(batch.Records))
		from = next.Records[len(next.Records)-1].Seq + 1
		if next, err = s.Spool.readFrom(from, shipBatch); err != nil {
			return boot, records, fmt.Errorf("reading the spool: %w", err)
		}
	}
}

// shipWhole ships a batch of another boot.
func (s *Shipper) shipWhole(ctx context.Context, b Batch) error {
	ctx, cancel := context.WithTimeout(ctx, shipTimeout)
	defer cancel()
	at, err := s.Primary.Ship(ctx, b)
	if err == nil && at.Next <= b.Records[len(b.Records)-1].Seq {
		err = ErrBehind
	}
	return err
}
