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

// A search reads an index in the order of (at, id) and filters by the other conditions. Then it takes the rows that it
// found apart into reads (see reads in rows.go). Three rules keep its cost independent of the size of the log:
//
//   - If an index has this order (one secret, one actor, one address, the refusals, or no condition at all), it
//     reads little more than it returns.
//   - If a condition matches few rows of the whole log, it reads those and sorts them.
//   - Otherwise it reads up to [sliceRows] rows at a time until the page is full or [searchFor] is over, and returns
//     where it stopped.
//
// The indexes of actors and addresses have the newest read of a row only. A search along one of them reads the rows of
// several reads beside it, in the order of time and within the same bounds; each lists its readers once, so that this
// looks at far fewer readers than there are reads.
const (
	fewRows    = 5000  // up to so many are read and sorted
	firstRows  = 2000  // read by the first statement
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
				all = append(all, condition{c.key, terms[0].Not, spelledOut(terms)})
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

// spelledOut has the terms that others stand for.
func spelledOut(terms []filter.Term) (all []filter.Term) {
	for _, t := range terms {
		switch t.Key {
		case filter.Actor:
			for _, t.Text = range t.Actors() {
				all = append(all, t)
			}
		case filter.Node:
			all = append(all, t.Nodes()...)
		default:
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
	if c.isOfRead() {
		counts = append(counts, `(SELECT count(*) FROM (SELECT FROM vault.audit_log WHERE `+a.several(c)+window+`
			ORDER BY at, since, id LIMIT `+limit+`) piece)`)
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
	if !a.until.IsZero() { // a row that ends later may begin before
		text += ` AND at < ` + s.arg(a.until) + `::timestamptz + ` + longestSpan
	}
	return text
}

// parts are the statements that together select every row with a matching read on one side of the cursor, each in order
// and up to a limit.
func (a search) parts(s *statement, window, order string, along, several int) []string {
	rows := func(condition string, limit int) string {
		return `SELECT at, id, (` + a.check(s) + `) AS passes FROM vault.audit_log WHERE ` + condition + window +
			` ORDER BY ` + order + ` LIMIT ` + s.arg(limit)
	}
	if a.few != nil {
		return []string{`SELECT at, id, (` + a.check(s) + `) AS passes FROM ` + a.fewSource(s, window)}
	}
	if len(a.along) == 0 {
		return []string{rows("true", several)}
	}
	var parts []string
	for _, c := range a.along {
		parts = append(parts, rows(c.sql(s), along))
	}
	if c := a.along[0]; c.isOfRead() {
		parts = append(parts, rows(a.several(c), several))
	}
	return parts
}

// fewSource selects all rows of few, piece by piece and each once. OFFSET 0 is an optimisation fence: without it, the
// planner would use the index by time for the sake of the order.
func (a search) fewSource(s *statement, window string) string {
	var parts []string
	before := ""
	pieces := a.few.pieces()
	for i, p := range pieces {
		if i > 0 {
			before += ` AND ` + pieces[i-1].sql(s) + ` IS NOT TRUE`
		}
		parts = append(parts, `(SELECT * FROM vault.audit_log WHERE `+p.sql(s)+window+before+` OFFSET 0)`)
	}
	if last := pieces[len(pieces)-1]; last.isOfRead() {
		before += ` AND ` + last.sql(s) + ` IS NOT TRUE`
		parts = append(parts, `(SELECT * FROM vault.audit_log WHERE `+a.several(last)+window+before+` OFFSET 0)`)
	}
	return `(` + strings.Join(parts, ` UNION ALL `) + `) s`
}

// page reads slices from the cursor on until the page is full, no rows are left or searchFor is over.
func (a search) page(ctx context.Context, tx pgx.Tx, q audit.Query) (audit.Page, error) {
	if !a.until.IsZero() && !q.Newer && (q.From == nil || !q.From.At.Before(a.until)) {
		q.From = &audit.Cursor{At: a.until}
	}
	page := audit.Page{Rows: []audit.Row{}, Next: q.From}
	began := time.Now()
	for looks := firstRows; ; looks = min(4*looks, sliceRows) {
		q.From = page.Next
		missing := q.Limit - len(page.Rows)
		slice, err := a.look(ctx, tx, q, missing, looks)
		if err != nil {
			return audit.Page{}, err
		}
		rows, err := a.slice(ctx, tx, q, slice, missing)
		if err != nil {
			return audit.Page{}, err
		}
		page.Rows = append(page.Rows, rows...)
		if len(rows) == missing {
			last := rows[missing-1].Cursor()
			page.Next = &last
			return page, nil
		}
		page.Next = slice.end
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
		side, also := "<", ""
		if q.Newer {
			side = ">"
			if q.From.Read > 0 { // the row has newer reads of the same time
				also = "="
			}
		}
		at := s.arg(q.From.At) + "::timestamptz"
		text += fmt.Sprintf(` AND at %s= %s AND (at, id) %s%s (%s, %s::bigint)`, side, at, side, also, at, s.arg(q.From.ID))
	}
	return text
}

// found is the rows of a slice: those with a matching read, and where the slice ends. Of the reads up to there, each is
// in one of these rows or in one that ends beyond the slice.
type found struct {
	ids []int64
	ats []time.Time
	end *audit.Cursor // nil = no rows are left
}

// look finds the next rows, at most limit, among the first looks of each part. The slice ends with the last of limit
// rows, or where the first part ends that has more rows.
func (a search) look(ctx context.Context, tx pgx.Tx, q audit.Query, limit, looks int) (f found, err error) {
	var s statement
	along := looks
	if len(a.others) == 0 {
		along = limit
	}
	several := looks
	if len(a.conditions) == 0 {
		several = limit
	}
	order, most := order(q), s.arg(limit)
	nearest := "max"
	if q.Newer {
		nearest = "min"
	}
	window := a.window(q, &s)
	var looked []string
	for i, part := range a.parts(&s, window, order, along, several) {
		rows := several
		if i < len(a.along) {
			rows = along
		}
		last := "false"
		if a.few == nil {
			last = "n = " + s.arg(rows)
		}
		// The rest reads this again, so of the rows that do not pass it has only the one with which the part ends.
		looked = append(looked, `(SELECT at, id, passes, `+last+` AS last FROM (
			SELECT row_number() OVER () AS n, at, id, passes FROM (`+part+`) p) p WHERE passes OR `+last+`)`)
	}
	side := ">="
	if q.Newer {
		side = "<="
	}
	var at *time.Time
	var id *int64
	err = tx.QueryRow(ctx, `WITH looked AS MATERIALIZED (`+strings.Join(looked, ` UNION ALL `)+`),
		few AS MATERIALIZED (SELECT at, id FROM looked WHERE passes GROUP BY at, id ORDER BY `+order+` LIMIT `+most+`),
		ends AS MATERIALIZED ((SELECT at, id FROM few ORDER BY `+order+` OFFSET `+most+` - 1 LIMIT 1)
			UNION ALL (SELECT at, id FROM looked WHERE last)),
		ending AS MATERIALIZED (SELECT at, `+nearest+`(id) AS id FROM ends WHERE at = (SELECT `+nearest+`(at) FROM ends)
			GROUP BY at)
		SELECT (SELECT at FROM ending), (SELECT id FROM ending), array_agg(id), array_agg(at) FROM few
			WHERE NOT EXISTS (SELECT FROM ending) OR (at, id) `+side+` (SELECT at, id FROM ending)`,
		s.args...).Scan(&at, &id, &f.ids, &f.ats)
	if at != nil {
		f.end = &audit.Cursor{At: *at, ID: *id}
	}
	return f, err
}

// rowsOf selects rows by their keys.
func rowsOf(s *statement, ids []int64, ats []time.Time) string {
	return `SELECT l.* FROM unnest(` + s.arg(ids) + `::bigint[], ` + s.arg(ats) + `::timestamptz[]) AS u (id, at)
		JOIN vault.audit_log l ON l.id = u.id AND l.at = u.at`
}

// slice reads the matching reads of the found rows, and of those that end beyond them, up to the slice's end.
func (a search) slice(ctx context.Context, tx pgx.Tx, q audit.Query, f found, limit int) ([]audit.Row, error) {
	var s statement
	rows := []string{rowsOf(&s, f.ids, f.ats)}
	newest, oldest := q.From, f.end
	if q.Newer {
		newest, oldest = f.end, q.From
	}
	check := a.checkReads(&s)
	position := func(c *audit.Cursor) string {
		return `(` + s.arg(c.At) + `::timestamptz, ` + s.arg(c.ID) + `::bigint, ` + s.arg(-c.Read) + `::int)`
	}
	side := map[bool][2]string{false: {"<", ">="}, true: {"<=", ">"}}[q.Newer]
	if newest != nil {
		at := s.arg(newest.At) + "::timestamptz"
		beyond := ">="
		if q.Newer {
			beyond = ">"
		}
		rows = append(rows, `SELECT * FROM vault.audit_log WHERE since IS NOT NULL AND at >= `+at+` AND at <= `+at+` + `+
			longestSpan+` AND since <= `+at+` AND (at, id) `+beyond+` (`+at+`, `+s.arg(newest.ID)+`::bigint) AND `+a.check(&s))
		check += ` AND (moment, id, nth) ` + side[0] + ` ` + position(newest)
	}
	if oldest != nil {
		check += ` AND (moment, id, nth) ` + side[1] + ` ` + position(oldest)
	}
	direction := " DESC"
	if q.Newer {
		direction = ""
	}
	by := fmt.Sprintf("moment%[1]s, id%[1]s, nth%[1]s", direction)
	return db.Collect(ctx, tx, scanRow, readsOf(strings.Join(rows, ` UNION ALL `), check, by, s.arg(limit)), s.args...)
}
