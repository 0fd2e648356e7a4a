package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

// Event is one record of the archive, as the node wrote it. Nothing in it is proven but its place in the spool.
type Event struct {
	audit.Event
	Boot uuid.UUID `json:"boot"` // of the spool
	Seq  uint64    `json:"seq"`  // its number there
}

// ErrEmpty says that a place has no archived reads: it is probably not the place.
var ErrEmpty = errors.New("it has no reads")

// List returns the newest events that match, newest first, at most limit: never nil. It leaves out files by the times
// in their names, and reads the others, newest first, until it has enough. A record that two files have is returned
// once. ErrEmpty: there is no file at all.
func (a *Archive) List(ctx context.Context, f filter.Filter, limit int) ([]Event, error) {
	names, _, err := a.names(ctx)
	switch {
	case err != nil:
		return nil, err
	case len(names) == 0:
		return nil, ErrEmpty
	}
	found := []Event{}
	for _, n := range newestFirst(names) {
		if len(found) == limit && time.Unix(n.until, 0).Before(found[limit-1].At) {
			break
		}
		if n.misses(f) {
			continue
		}
		content, _, err := a.read(ctx, n.name)
		if err != nil {
			return nil, err
		}
		for i, text := range content.events {
			seq := content.First + uint64(i)
			if seq < n.begin {
				continue
			}
			if e := eventOf(content.header, seq, text); f.Matches(subject(e.Event)) {
				found = append(found, e)
			}
		}
		slices.SortStableFunc(found, newerFirst)
		found = found[:min(len(found), limit)]
	}
	return found, nil
}

func newerFirst(a, b Event) int {
	switch {
	case a.At.After(b.At):
		return -1
	case b.At.After(a.At):
		return 1
	}
	if c := bytes.Compare(a.Boot[:], b.Boot[:]); c != 0 {
		return c
	}
	return int(int64(b.Seq) - int64(a.Seq))
}

// part is a file, and the number from which on its records are not those of a file before it.
type part struct {
	name
	begin uint64
}

func newestFirst(names []name) []part {
	parts := make([]part, 0, len(names))
	var boot uuid.UUID
	covered := uint64(0)
	for _, n := range names {
		if n.boot != boot {
			boot, covered = n.boot, 0
		}
		if n.next > covered {
			parts = append(parts, part{n, max(n.first, covered)})
			covered = n.next
		}
	}
	slices.SortStableFunc(parts, func(a, b part) int { return int(b.until - a.until) })
	return parts
}

// misses reports whether no event of the file is in the filter's range of time.
func (p part) misses(f filter.Filter) bool {
	since, until := f.Since(), f.Until()
	return !since.IsZero() && time.Unix(p.until, 0).Before(since) ||
		!until.IsZero() && !time.Unix(p.from, 0).Before(until)
}

// eventOf reads an event, and makes its texts printable as the primary does. An event that cannot be read has its
// text as a detail.
func eventOf(h header, seq uint64, text []byte) Event {
	e := Event{Boot: h.Boot, Seq: seq}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&e.Event); err != nil {
		e.Event = audit.Event{Action: audit.Unreadable, Outcome: audit.Failed,
			Detail: map[string]any{"event": audit.Printable(audit.Cut(strings.ToValidUTF8(string(text), "?"), 1000))}}
	}
	e.Node = h.Node
	if e.Outcome != audit.OK && e.Outcome != audit.Denied {
		e.Outcome = audit.Failed
	}
	for _, text := range []*string{&e.Actor, &e.Client, &e.Node, &e.Action, &e.Secret, &e.RequestID} {
		*text = audit.Printable(strings.ToValidUTF8(*text, "?"))
	}
	e.Detail = audit.PrintableDetail(e.Detail)
	return e
}

func subject(e audit.Event) filter.Subject {
	s := filter.Subject{At: e.At, Secret: e.Secret, Actor: e.Actor, Action: e.Action, Outcome: string(e.Outcome),
		Node: e.Node, Version: e.Version}
	if id, err := uuid.Parse(e.RequestID); err == nil && id.String() == e.RequestID {
		s.Request = e.RequestID
	}
	s.Client, _ = netip.ParseAddr(e.Client) // without one, no address matches
	return s
}
