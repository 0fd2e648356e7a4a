package auditdb

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/db"
)

// A search reads an index in the order of (at, id) and filters by the other conditions. Three rules keep its cost
// independent of the size of the log:
//
//   - If an index has this order (one secret, one actor, one address, the refusals, or no condition at all), it
//     reads little more than it returns.
//   - If a condition matches few rows of the whole log, it reads those and sorts them.
//   - Otherwise it reads [sliceRows] rows at a time until the page is full or [searchFor] is over, and returns where
//     it stopped.
const (
	fewRows    = 5000  // up to so many are read and sorted
	sliceRows  = 20000 // read by one statement
	manyPieces = 16    // values of one condition that are looked up in an index each

	searchFor = 100 * time.Millisecond
)

// statement collects the parameters of a statement.
type statement struct{ args []any }

// arg adds a parameter and returns its placeholder.
func (s *statement) arg(v any) string {
	s.args = append(s.args, v)
	return fmt.Sprintf("$%d", len(s.args))
}

// condition is the terms of one key, all negated or none. It holds if any of them does, or with not if none does.
type condition struct {
	key   filter.Key
	not   bool
	terms []filter.Term
}

// columns are those of the keys, in the order in which a search looks for few rows.
var columns = []struct {
	key    filter.Key
	column string
}{
	{filter.Request, "request_id"}, {filter.Secret, "secret"}, {filter.Outcome, "outcome"}, {filter.Actor, "actor"},
	{filter.IP, "client"}, {filter.Action, "action"}, {filter.Node, "node"}, {filter.Version, "version"},
}

// conditionsOf makes at most two conditions of each key's terms, and refuses a term that [filter.Parse] does not make.
func conditionsOf(f filter.Filter) ([]condition, error) {
	for _, t := range f.Terms {
		if !fits(t) {
			return nil, invalid("a term of %q does not fit it", t.Key)
		}
	}
	var all []condition
	for _, c := range columns {
		any, none := f.Of(c.key)
		for _, terms := range [][]filter.Term{any, none} {
			if len(terms) > 0 {
				all = append(all, condition{c.key, terms[0].Not, ofEveryKind(terms)})
			}
		}
	}
	return all, nil
}

func fits(t filter.Term) bool {
	switch t.Key {
	case filter.Secret, filter.Actor, filter.Action, filter.Node:
		return t.Text != "" || t.Prefix
	case filter.Outcome, filter.Request:
		return t.Text != "" && !t.Prefix
	case filter.IP:
		return t.Network.IsValid() && !t.Prefix
	case filter.Version:
		return t.Number > 0 && !t.Prefix
	}
	return t.Key == filter.Since || t.Key == filter.Until
}

// ofEveryKind spells out the kinds that an actor without one stands for.
func ofEveryKind(terms []filter.Term) (all []filter.Term) {
	for _, t := range terms {
		if t.Key != filter.Actor {
			return terms
		}
		for _, t.Text = range t.Actors() {
			all = append(all, t)
		}
	}
	return all
}

func invalid(format string, args ...any) error {
	return &db.Error{Kind: db.ErrInvalid, Text: fmt.Sprintf(format, args...)}
}

func (c condition) column() string {
	for _, known := range columns {
		if known.key == c.key {
			return known.column
		}
	}
	return ""
}

// sql is the text of a condition. Columns and operators are constants of this file; values are parameters.
func (c condition) sql(s *statement) string {
	column := c.column()
	var equal, any []string
	var numbers []int
	for _, t := range c.terms {
		switch {
		case c.key == filter.Version:
			numbers = append(numbers, t.Number)
		case c.key != filter.IP && !t.Prefix:
			equal = append(equal, t.Text)
		}
	}
	switch {
	case len(equal) == 1:
		any = append(any, column+" = "+s.arg(equal[0])+c.cast(""))
	case len(equal) > 1:
		any = append(any, column+" = ANY ("+s.arg(equal)+c.cast("[]")+")")
	case len(numbers) > 0:
		any = append(any, column+" = ANY ("+s.arg(numbers)+"::int[])")
	}
	for _, t := range c.terms {
		switch {
		case t.Prefix:
			any = append(any, column+" ^@ "+s.arg(t.Text)+"::text")
		case c.key == filter.IP && t.Network.IsSingleIP():
			any = append(any, column+" = "+s.arg(t.Network)+"::inet")
		case c.key == filter.IP:
			any = append(any, column+" <<= "+s.arg(t.Network)+"::inet")
		}
	}
	if c.isRefusal() { // as the index spells it
		return "(outcome <> 'ok' AND (" + strings.Join(any, " OR ") + ") IS " + map[bool]string{true: "NOT "}[c.not] + "TRUE)"
	}
	if c.not {
		return "(" + strings.Join(any, " OR ") + ") IS NOT TRUE" // also of no value at all
	}
	return "(" + strings.Join(any, " OR ") + ")"
}

func (c condition) cast(array string) string {
	if c.key == filter.Request {
		return "::uuid" + array
	}
	return "::text" + array
}

// isRefusal reports whether the condition excludes the outcome "ok", so that the index of refusals has every row it
// matches.
func (c condition) isRefusal() bool {
	ok := slices.ContainsFunc(c.terms, func(t filter.Term) bool { return t.Text == "ok" })
	return c.key == filter.Outcome && ok == c.not
}

// pieces splits c into conditions of one value each, which an index answers. Nil = there is no index, or too many
// values.
func (c condition) pieces() []condition {
	switch {
	case c.isRefusal():
		return []condition{{filter.Outcome, true, []filter.Term{{Key: filter.Outcome, Not: true, Text: "ok"}}}}
	case c.not, len(c.terms) > manyPieces:
		return nil
	case c.key == filter.Actor && slices.ContainsFunc(c.terms, isPrefix): // by its collation, they are not adjacent
		return nil
	case !slices.Contains([]filter.Key{filter.Secret, filter.Actor, filter.Request, filter.IP}, c.key):
		return nil
	}
	pieces := make([]condition, len(c.terms))
	for i := range c.terms {
		pieces[i] = condition{key: c.key, terms: c.terms[i : i+1]}
	}
	return pieces
}

func isPrefix(t filter.Term) bool { return t.Prefix }

// branches returns the pieces if the index has the rows of each in order.
func (c condition) branches() []condition {
	pieces := c.pieces()
	for _, p := range pieces {
		if t := p.terms[0]; t.Prefix || c.key == filter.IP && !t.Network.IsSingleIP() {
			return nil
		}
	}
	return pieces
}

// order is the order of the piece's index: ORDER BY it makes the planner use that index.
func (c condition) order() string {
	switch c.key {
	case filter.Outcome:
		return "at, id"
	case filter.Request:
		return "request_id"
	}
	return c.column() + ", at, id"
}

// search is a filter and its plan.
type search struct {
	since, until time.Time
	conditions   []condition
	along        []condition // index lookups, whose union is read; none = the index by time
	few          *condition  // instead: a condition that matches few rows
	others       []condition // checked on each row
}

// plan chooses how to search. If several indexes could answer, it counts a few rows of each.
func plan(ctx context.Context, tx pgx.Tx, f filter.Filter) (search, error) {
	conditions, err := conditionsOf(f)
	if err != nil {
		return search{}, err
	}
	plan := search{since: f.Since(), until: f.Until(), conditions: conditions, others: conditions}
	if len(conditions) == 1 && len(conditions[0].branches()) > 0 {
		return plan.walk(0), nil
	}
	for i, c := range conditions {
		few, err := plan.isFew(ctx, tx, c)
		if err != nil {
			return plan, err
		}
		if few {
			plan = plan.walk(i)
			plan.along, plan.few = nil, &conditions[i]
			return plan, nil
		}
		if plan.along == nil && len(c.branches()) > 0 {
			plan = plan.walk(i)
		}
	}
	return plan, nil
}

// walk plans to read the index of a condition.
func (a search) walk(i int) search {
	c := a.conditions[i]
	a.along, a.others = c.branches(), slices.Delete(slices.Clone(a.conditions), i, i+1)
	if c.isRefusal() { // the index has all refusals, so the condition is still checked
		a.others = a.conditions
	}
	return a
}

// isFew counts the rows of a condition that has an index, up to [fewRows].
func (a search) isFew(ctx context.Context, tx pgx.Tx, c condition) (bool, error) {
	pieces := c.pieces()
	if len(pieces) == 0 {
		return false, nil
	}
	var s statement
	var counts []string
	limit := s.arg(fewRows + 1)
	window := a.between(&s)
	for _, p := range pieces {
		counts = append(counts,
			`(SELECT count(*) FROM (SELECT FROM vault.audit_log WHERE `+p.sql(&s)+window+`
				ORDER BY `+p.order()+` LIMIT `+limit+`) piece)`)
	}
	var n int
	err := tx.QueryRow(ctx, `SELECT `+strings.Join(counts, ` + `), s.args...).Scan(&n)
	return n <= fewRows, err
}

// between is the filter's time range, as SQL conditions.
func (a search) between(s *statement) string {
	text := ""
	if !a.since.IsZero() {
		text += ` AND at >= ` + s.arg(a.since) + `::timestamptz`
	}
	if !a.until.IsZero() {
		text += ` AND at < ` + s.arg(a.until) + `::timestamptz`
	}
	return text
}

// source selects the rows of the index in order, as a FROM item; window is further conditions.
func (a search) source(s *statement, window, order string, limit int) string {
	if a.few != nil {
		return a.fewSource(s, window)
	}
	along := a.along
	if len(along) == 0 {
		along = []condition{{}}
	}
	most := s.arg(limit)
	var parts []string
	for _, c := range along {
		condition := "true"
		if c.key != "" {
			condition = c.sql(s)
		}
		parts = append(parts, `(SELECT * FROM vault.audit_log WHERE `+condition+window+` ORDER BY `+order+` LIMIT `+most+`)`)
	}
	return `(SELECT * FROM (` + strings.Join(parts, ` UNION ALL `) + `) one ORDER BY ` + order + ` LIMIT ` + most + `) s`
}

// fewSource selects all rows of few, piece by piece and each once. OFFSET 0 is an optimisation fence: without it, the
// planner would use the index by time for the sake of the order.
func (a search) fewSource(s *statement, window string) string {
	var parts []string
	before := ""
	for i, p := range a.few.pieces() {
		if i > 0 {
			before += ` AND ` + a.few.pieces()[i-1].sql(s) + ` IS NOT TRUE`
		}
		parts = append(parts, `(SELECT * FROM vault.audit_log WHERE `+p.sql(s)+window+before+` OFFSET 0)`)
	}
	return `(` + strings.Join(parts, ` UNION ALL `) + `) s`
}

// check is the remaining conditions, as a WHERE clause.
func (a search) check(s *statement) string {
	text := "true"
	for _, c := range a.others {
		text += " AND " + c.sql(s)
	}
	return text
}

// page reads slices from the cursor on until the page is full, no rows are left or searchFor is over.
func (a search) page(ctx context.Context, tx pgx.Tx, q audit.Query) (audit.Page, error) {
	page := audit.Page{Rows: []audit.Row{}, Next: q.From}
	began := time.Now()
	for {
		missing := q.Limit - len(page.Rows)
		q.From = page.Next
		rows, err := a.slice(ctx, tx, q, missing)
		if err != nil {
			return audit.Page{}, err
		}
		page.Rows = append(page.Rows, rows...)
		if len(rows) == missing {
			last := rows[missing-1].Cursor()
			page.Next = &last
			return page, nil
		}
		if page.Next, err = a.sliceEnd(ctx, tx, q); err != nil {
			return audit.Page{}, err
		}
		if page.Next == nil || time.Since(began) > searchFor {
			return page, nil
		}
	}
}

func order(q audit.Query) string {
	if q.Newer {
		return "at, id"
	}
	return "at DESC, id DESC"
}

// window is the filter's time range and one side of the cursor. A row comparison does not prune partitions, so the time
// is compared as well.
func (a search) window(q audit.Query, s *statement) string {
	text := a.between(s)
	if q.From != nil {
		side := "<"
		if q.Newer {
			side = ">"
		}
		at := s.arg(q.From.At) + "::timestamptz"
		text += fmt.Sprintf(` AND at %s= %s AND (at, id) %s (%s, %s::bigint)`, side, at, side, at, s.arg(q.From.ID))
	}
	return text
}

// slice reads the next rows and returns at most limit that match.
func (a search) slice(ctx context.Context, tx pgx.Tx, q audit.Query, limit int) ([]audit.Row, error) {
	var s statement
	looks := sliceRows
	if len(a.others) == 0 {
		looks = limit
	}
	window := a.window(q, &s)
	text := `SELECT ` + rowColumns + ` FROM ` + a.source(&s, window, order(q), looks) +
		` WHERE ` + a.check(&s) + ` ORDER BY ` + order(q) + ` LIMIT ` + s.arg(limit)
	return db.Collect(ctx, tx, scanRow, text, s.args...)
}

// sliceEnd is the last row that slice read; nil = no rows are left.
func (a search) sliceEnd(ctx context.Context, tx pgx.Tx, q audit.Query) (*audit.Cursor, error) {
	if a.few != nil || len(a.others) == 0 {
		return nil, nil
	}
	var s statement
	window := a.window(q, &s)
	ends, err := db.Collect(ctx, tx, func(row pgx.CollectableRow) (audit.Cursor, error) {
		var c audit.Cursor
		err := row.Scan(&c.At, &c.ID)
		return c, err
	}, `SELECT at, id FROM `+a.source(&s, window, order(q),
		sliceRows)+` ORDER BY `+order(q)+` OFFSET `+s.arg(sliceRows-1), s.args...)
	if err != nil || len(ends) == 0 {
		return nil, err
	}
	return &ends[0], nil
}
