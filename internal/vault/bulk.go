package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
)

const (
	// keysAtOnce is how many data keys of one batch are requested at the same time.
	keysAtOnce = 8
	// keyFailures is how many failed key calls end a batch: the key service then fails for the items that follow as well.
	keyFailures = 3
)

// OnConflict says what an import does with a name that exists.
type OnConflict string

const (
	FailOnConflict   OnConflict = "fail"   // ErrConflict, unless the current value is the same
	SkipOnConflict   OnConflict = "skip"   // left as it is; its value is not compared
	UpdateOnConflict OnConflict = "update" // a new version, unless the current value is the same
)

// ImportRequest is a batch of an import. No two items have the same name.
type ImportRequest struct {
	Change
	Items      []ImportItem
	OnConflict OnConflict
	DryRun     bool // nothing is stored, and no key is requested
}

// ImportItem is one secret to store. Its settings count only if its value is stored.
type ImportItem struct {
	Name     string
	Value    []byte // the caller's to wipe
	Settings Settings
}

// ImportResult is the result of one item. It is zero for items that the batch did not reach.
type ImportResult struct {
	Did ImportDid
	Err error // of this item alone: Did is "" then
}

// ImportDid is what an import did for an item.
type ImportDid string

const (
	Created   ImportDid = "created"
	Updated   ImportDid = "updated"
	Unchanged ImportDid = "unchanged" // the current value is the same
	Skipped   ImportDid = "skipped"
	Existing  ImportDid = "existing" // of a dry run: the values were not compared
)

// Import stores a batch of secrets; the results are in the order of the items. An error of one item is in its result,
// an error that concerns all items is returned. All valid items are stored in one transaction; if that is refused, each
// item gets a transaction and a result of its own. A repeat with the same items ends in the same state: stored items
// are Unchanged then.
func (v *Vault) Import(ctx context.Context, r ImportRequest) ([]ImportResult, error) {
	b := &importing{Vault: v, ImportRequest: r, results: make([]ImportResult, len(r.Items))}
	if err := v.canWrite(r.Change); err != nil {
		return b.results, err
	}
	return b.results, b.run(ctx)
}

type importing struct {
	*Vault
	ImportRequest
	results []ImportResult
}

// importRounds is how often an item is tried that another session changes meanwhile.
const importRounds = 3

func (b *importing) run(ctx context.Context) error {
	all := make([]int, len(b.Items))
	for i := range all {
		all[i] = i
	}
	for round := 1; len(all) > 0; round++ {
		changed, err := b.round(ctx, all, round)
		if err != nil {
			return err
		}
		all = changed
	}
	return nil
}

// round returns the items that another session changed meanwhile. They are read and compared again, since their values
// may be the same now.
func (b *importing) round(ctx context.Context, at []int, round int) (retry []int, err error) {
	fresh, existing, err := b.sort(ctx, at)
	if err != nil {
		return nil, err
	}
	changed, err := b.compare(ctx, existing)
	if err != nil || b.DryRun {
		return nil, err
	}
	puts, err := b.seal(ctx, append(fresh, changed...))
	if err != nil || len(puts) == 0 {
		return nil, err
	}
	return b.store(ctx, puts, round)
}

// item is one item of the batch.
type item struct {
	at      int // in Items and results
	version int // that it will be stored as
}

// sort divides items into new ones and existing ones to compare, and sets the results of all others.
func (b *importing) sort(ctx context.Context, at []int) (fresh, existing []item, err error) {
	var names []string
	for _, i := range at {
		it := b.Items[i]
		if err := cmp.Or(envelope.CheckName(it.Name), checkValueSize(it.Value)); err != nil {
			b.results[i].Err = err
			continue
		}
		names = append(names, it.Name)
	}
	states, err := b.writer.Standings(ctx, names)
	if err != nil {
		return nil, nil, fmt.Errorf("reading what exists: %w", err)
	}
	for _, i := range at {
		it := b.Items[i]
		state, exists := states[it.Name]
		switch {
		case b.results[i].Err != nil:
		case !exists && it.Settings.lacksGenerator():
			b.results[i].Err = fmt.Errorf("%w: secret %q has no generator, so it cannot rotate by itself", ErrInvalid, it.Name)
		case !exists:
			if fresh = append(fresh, item{i, 1}); b.DryRun {
				b.results[i].Did = Created
			}
		case state.DeletedAt != nil:
			b.results[i].Err = fmt.Errorf("secret %q is deleted: %w", it.Name, ErrDeleted)
		case b.OnConflict == SkipOnConflict:
			b.results[i].Did = Skipped
		case b.DryRun:
			b.results[i].Did = Existing
		default:
			existing = append(existing, item{i, state.CurrentVersion + 1})
		}
	}
	return fresh, existing, nil
}

func (s Settings) lacksGenerator() bool {
	return s.Generator == nil && (s.RotateEvery != nil || s.Rotator != nil && *s.Rotator != "")
}

// compare opens the current values and returns the items that differ and are to be stored. Each comparison is on record
// before its result is used.
func (b *importing) compare(ctx context.Context, items []item) ([]item, error) {
	if len(items) == 0 || b.DryRun {
		return nil, nil
	}
	var names []string
	for _, it := range items {
		names = append(names, b.Items[it.at].Name)
	}
	current, err := b.writer.Currents(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("reading current values: %w", err)
	}
	same := make([]bool, len(items))
	errs, err := b.each(ctx, len(items), func(ctx context.Context, i int) (err error) {
		row, live := current[names[i]]
		if !live {
			return fmt.Errorf("secret %q was deleted meanwhile: %w", names[i], ErrConflict)
		}
		same[i], err = b.equals(ctx, names[i], row, b.Items[items[i].at].Value)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := auditdb.New(nil, b.writer).Record(ctx, compared(names, current, same, errs)...); err != nil {
		return nil, fmt.Errorf("recording the comparisons: %w", err)
	}
	var changed []item
	for i, it := range items {
		switch result := &b.results[it.at]; {
		case errs[i] != nil:
			result.Err = errs[i]
		case same[i]:
			result.Did = Unchanged
		case b.OnConflict == UpdateOnConflict:
			changed = append(changed, it)
		default:
			result.Err = fmt.Errorf("secret %q exists with another value (version %d): %w", names[i], it.version-1, ErrConflict)
		}
	}
	return changed, nil
}

func (v *Vault) equals(ctx context.Context, name string, row db.CurrentVersion, value []byte) (bool, error) {
	if row.Err != nil {
		return false, asIntegrity(row.Err)
	}
	return v.matches(ctx, noLimit, name, &row.VersionRow, value)
}

func compared(names []string, current map[string]db.CurrentVersion, same []bool, errs []error) []audit.Event {
	var events []audit.Event
	for i, name := range names {
		if errs[i] != nil {
			continue
		}
		e := AuditedVerify(name, Verdict{})
		if same[i] {
			e = AuditedVerify(name, Verdict{Valid: true, Version: current[name].Version, Match: MatchCurrent})
		}
		e.Detail["for"] = "import"
		events = append(events, e)
	}
	return events
}

// seal makes a put of every item, each under its own data key, in the order of their names.
func (b *importing) seal(ctx context.Context, items []item) ([]put, error) {
	puts := make([]put, len(items))
	errs, err := b.each(ctx, len(items), func(ctx context.Context, i int) error {
		it := b.Items[items[i].at]
		sealed, err := b.Vault.seal(ctx, it.Name, items[i].version, it.Value)
		puts[i] = put{items[i], db.Put{
			Request: uuid.New(), Name: it.Name, Sealed: sealed, CreateOnly: items[i].version == 1,
			Settings: it.Settings.stored(),
		}}
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, err := range errs {
		if err != nil {
			b.results[items[i].at].Err = err
			puts[i].Name = ""
		}
	}
	puts = slices.DeleteFunc(puts, func(p put) bool { return p.Name == "" })
	// Names are unique without regard to case, so imports lock them in this order.
	slices.SortFunc(puts, func(x, y put) int { return cmp.Compare(strings.ToLower(x.Name), strings.ToLower(y.Name)) })
	return puts, nil
}

type put struct {
	item
	db.Put
}

// store writes the puts together, or, if that is refused, one by one. It returns the items that another session changed
// meanwhile: in the first round all, as the refusal does not say which. In the last round it returns none, and the
// conflict is their result.
func (b *importing) store(ctx context.Context, puts []put, round int) (retry []int, err error) {
	all := make([]db.Put, len(puts))
	for i, p := range puts {
		all[i] = p.Put
		defer b.changed(p.Name)
	}
	_, err = b.writer.PutVersions(ctx, b.credential(), all)
	switch {
	case err == nil:
		for _, p := range puts {
			b.settle(p)
		}
		return nil, nil
	case !ofOneItem(err):
		return nil, fmt.Errorf("storing %d secrets: %w", len(puts), err)
	case errors.Is(err, ErrConflict) && round == 1:
		for _, p := range puts {
			retry = append(retry, p.at)
		}
		return retry, nil
	}
	for _, p := range puts {
		_, err := b.writer.PutVersion(ctx, b.credential(), p.Request, "put", p.Name, p.Sealed, p.CreateOnly, p.Settings)
		switch {
		case err == nil:
			b.settle(p)
		case errors.Is(err, ErrConflict) && round < importRounds:
			retry = append(retry, p.at)
		case ofOneItem(err):
			b.results[p.at].Err = named("put", p.Name, err)
		default:
			return nil, named("put", p.Name, err)
		}
	}
	return retry, nil
}

func (b *importing) settle(p put) {
	b.results[p.at].Did = Updated
	if p.version == 1 {
		b.results[p.at].Did = Created
	}
}

// ofOneItem reports whether an error concerns one secret, so that the next one may succeed.
func ofOneItem(err error) bool {
	for _, kind := range []error{ErrConflict, ErrDeleted, ErrNotFound, ErrInvalid, ErrBusy} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "does not cover") // a scope, in sql/functions
}

// each calls do for n items, keysAtOnce at a time, and returns the error of each. An error that concerns all items ends
// it.
func (v *Vault) each(ctx context.Context, n int, do func(context.Context, int) error) ([]error, error) {
	errs := make([]error, n)
	var mu sync.Mutex
	failures := 0
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(keysAtOnce)
	for i := range n {
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			errs[i] = do(ctx, i)
			switch err := errs[i]; {
			case err == nil, errors.Is(err, ErrIntegrity), ofOneItem(err):
				return nil
			case errors.Is(err, ErrKeyUnavailable), errors.Is(err, ErrKeyRefused):
				mu.Lock()
				defer mu.Unlock()
				if failures++; failures < min(keyFailures, n) {
					return nil
				}
				return err
			default:
				return err
			}
		})
	}
	return errs, group.Wait()
}

// Exported is one secret of an export, or the reason why its value could not be read.
type Exported struct {
	Secret
	Settings Settings // nil for what is not set
	Err      error
}

// Export opens a page of current values on the local node: of at most limit secrets whose names begin with prefix and
// come after the given one. The caller records what it shows, and wipes the page.
func (v *Vault) Export(ctx context.Context, prefix, after string, limit int) ([]Exported, error) {
	rows, err := v.reader.Secrets(ctx, db.ListQuery{Prefix: prefix, After: after, Limit: limit})
	if err != nil {
		return nil, fmt.Errorf("reading secrets: %w", err)
	}
	names := make([]string, len(rows))
	for i, row := range rows {
		names[i] = row.Name
	}
	current, err := v.reader.Currents(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("reading current values: %w", err)
	}
	page := make([]Exported, len(rows))
	errs, err := v.each(ctx, len(rows), func(ctx context.Context, i int) error {
		page[i] = Exported{Secret: Secret{Name: names[i]}, Settings: settingsOf(rows[i])}
		c, live := current[names[i]]
		if !live {
			return fmt.Errorf("secret %q was deleted meanwhile: %w", names[i], ErrNotFound)
		}
		page[i].Version, page[i].VersionID = c.Version, c.VersionID
		if c.Err != nil {
			return asIntegrity(c.Err)
		}
		var err error
		page[i].Value, err = v.open(ctx, noLimit, names[i], &c.VersionRow)
		return err
	})
	for i := range page {
		page[i].Err = errs[i]
	}
	if err != nil {
		WipeAll(page)
		return nil, err
	}
	return page, nil
}

func settingsOf(row db.SecretRow) (s Settings) {
	text := func(t string) *string {
		if t == "" {
			return nil
		}
		return &t
	}
	s.Generator, s.Rotator, s.Window = text(row.Generator), text(row.Rotator), text(row.Window)
	grace := time.Duration(row.GraceSeconds) * time.Second
	if s.Grace = &grace; row.RotateSeconds > 0 {
		every := time.Duration(row.RotateSeconds) * time.Second
		s.RotateEvery = &every
	}
	return s
}

// WipeAll wipes the values of a page.
func WipeAll(page []Exported) {
	for i := range page {
		page[i].Wipe()
	}
}

// CountLive is how many secrets an export of a prefix has.
func (v *Vault) CountLive(ctx context.Context, prefix string) (int64, error) {
	return v.reader.CountLive(ctx, prefix)
}
