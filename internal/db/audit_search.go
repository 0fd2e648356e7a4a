package db

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
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
)

// statement collects the parameters of a statement.
type statement struct{ args []any }

// arg adds a parameter and returns its placeholder.
func (s *statement) arg(v any) string {
	s.args = append(s.args, v)
	return fmt.Sprintf("$%d", len(s.args))
}

// sql is the text of a condition. Columns and operators are constants of this file; values are parameters.
func (c AuditCondition) sql(s *statement) string {
	column := string(c.Column)
	var any []string
	switch {
	case len(c.Equal) == 1:
		any = append(any, column+" = "+s.arg(c.Equal[0])+c.cast(""))
	case len(c.Equal) > 1:
		any = append(any, column+" = ANY ("+s.arg(c.Equal)+c.cast("[]")+")")
	}
	for _, p := range c.Prefixes {
		any = append(any, column+" ^@ "+s.arg(p)+"::text")
	}
	if len(c.Numbers) > 0 {
		any = append(any, column+" = ANY ("+s.arg(c.Numbers)+"::int[])")
	}
	for _, n := range c.Networks {
		operator := " <<= "
		if n.IsSingleIP() {
			operator = " = "
		}
		any = append(any, column+operator+s.arg(n)+"::inet")
	}
	if c.isRefusal() { // as the index spells it
		return "(outcome <> 'ok' AND (" + strings.Join(any, " OR ") + ") IS " + map[bool]string{true: "NOT "}[c.Not] + "TRUE)"
	}
	if c.Not {
		return "(" + strings.Join(any, " OR ") + ") IS NOT TRUE" // also of no value at all
	}
	return "(" + strings.Join(any, " OR ") + ")"
}

func (c AuditCondition) cast(array string) string {
	if c.Column == AuditRequest {
		return "::uuid" + array
	}
	return "::text" + array
}

// check refuses a condition whose values do not fit its column.
func (c AuditCondition) check() error {
	texts := []AuditColumn{AuditActor, AuditAction, AuditSecret, AuditNode}
	switch {
	case c.Column == AuditClient && len(c.Networks) > 0 && c.Equal == nil && c.Prefixes == nil && c.Numbers == nil,
		c.Column == AuditVersion && len(c.Numbers) > 0 && c.Equal == nil && c.Prefixes == nil && c.Networks == nil,
		slices.Contains([]AuditColumn{AuditOutcome, AuditRequest}, c.Column) && len(c.Equal) > 0 && c.Prefixes == nil &&
			c.Numbers == nil && c.Networks == nil,
		slices.Contains(texts, c.Column) && len(c.Equal)+len(c.Prefixes) > 0 && c.Numbers == nil && c.Networks == nil:
		return nil
	}
	return newError(ErrInvalid, "a condition on %q does not fit it", c.Column)
}

// isRefusal reports whether the condition excludes the outcome "ok", so that the index of refusals has every row it
// matches.
func (c AuditCondition) isRefusal() bool {
	return c.Column == AuditOutcome && slices.Contains(c.Equal, "ok") == c.Not
}

// pieces splits c into conditions of one value each, which an index answers. Nil = there is no index, or too many
// values.
func (c AuditCondition) pieces() []AuditCondition {
	var all []AuditCondition
	switch {
	case c.isRefusal():
		return []AuditCondition{{Column: AuditOutcome, Not: true, Equal: []string{"ok"}}}
	case c.Not:
		return nil
	case c.Column == AuditActor && len(c.Prefixes) > 0: // by the database's collation, they are not adjacent
		return nil
	case c.Column == AuditSecret, c.Column == AuditActor, c.Column == AuditRequest, c.Column == AuditClient:
		for _, v := range c.Equal {
			all = append(all, AuditCondition{Column: c.Column, Equal: []string{v}})
		}
		for _, p := range c.Prefixes {
			all = append(all, AuditCondition{Column: c.Column, Prefixes: []string{p}})
		}
		for _, n := range c.Networks {
			all = append(all, AuditCondition{Column: c.Column, Networks: []netip.Prefix{n}})
		}
	}
	if len(all) > manyPieces {
		return nil
	}
	return all
}

// branches returns the pieces if the index has the rows of each in order.
func (c AuditCondition) branches() []AuditCondition {
	pieces := c.pieces()
	for _, p := range pieces {
		if len(p.Prefixes) > 0 || len(p.Networks) > 0 && !p.Networks[0].IsSingleIP() {
			return nil
		}
	}
	return pieces
}

// order is the order of the piece's index: ORDER BY it makes the planner use that index.
func (c AuditCondition) order() string {
	switch c.Column {
	case AuditOutcome:
		return "at, id"
	case AuditRequest:
		return "request_id"
	}
	return string(c.Column) + ", at, id"
}

// auditSearch is a filter and its plan.
type auditSearch struct {
	filter AuditFilter
	along  []AuditCondition // index lookups, whose union is read; none = the index by time
	few    *AuditCondition  // instead: a condition that matches few rows
	others []AuditCondition // checked on each row
}

// planAudit chooses the plan. If several indexes could answer, it counts a few rows of each.
func planAudit(ctx context.Context, tx pgx.Tx, f AuditFilter) (auditSearch, error) {
	for _, c := range f.Conditions {
		if err := c.check(); err != nil {
			return auditSearch{}, err
		}
	}
	plan := auditSearch{filter: f, others: f.Conditions}
	if len(f.Conditions) == 1 && len(f.Conditions[0].branches()) > 0 {
		return plan.walk(0), nil
	}
	for i, c := range f.Conditions {
		few, err := f.isFew(ctx, tx, c)
		if err != nil {
			return plan, err
		}
		if few {
			plan = plan.walk(i)
			return auditSearch{filter: f, few: &f.Conditions[i], others: plan.others}, nil
		}
		if plan.along == nil && len(c.branches()) > 0 {
			plan = plan.walk(i)
		}
	}
	return plan, nil
}

// walk plans to read the index of a condition.
func (a auditSearch) walk(i int) auditSearch {
	c := a.filter.Conditions[i]
	a.along, a.others = c.branches(), a.filter.without(i)
	if c.isRefusal() { // the index has all refusals, so the condition is still checked
		a.others = a.filter.Conditions
	}
	return a
}

func (f AuditFilter) without(i int) []AuditCondition {
	return slices.Delete(slices.Clone(f.Conditions), i, i+1)
}

// isFew counts the rows of a condition that has an index, up to [fewRows].
func (f AuditFilter) isFew(ctx context.Context, tx pgx.Tx, c AuditCondition) (bool, error) {
	pieces := c.pieces()
	if len(pieces) == 0 {
		return false, nil
	}
	var s statement
	var counts []string
	limit := s.arg(fewRows + 1)
	window := f.between(&s)
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
func (f AuditFilter) between(s *statement) string {
	text := ""
	if !f.Since.IsZero() {
		text += ` AND at >= ` + s.arg(f.Since) + `::timestamptz`
	}
	if !f.Until.IsZero() {
		text += ` AND at < ` + s.arg(f.Until) + `::timestamptz`
	}
	return text
}

// source selects the rows of the index in order, as a FROM item; window is further conditions.
func (a auditSearch) source(s *statement, window, order string, limit int) string {
	if a.few != nil {
		return a.fewSource(s, window)
	}
	along := a.along
	if len(along) == 0 {
		along = []AuditCondition{{}}
	}
	most := s.arg(limit)
	var parts []string
	for _, c := range along {
		condition := "true"
		if c.Column != "" {
			condition = c.sql(s)
		}
		parts = append(parts, `(SELECT * FROM vault.audit_log WHERE `+condition+window+` ORDER BY `+order+` LIMIT `+most+`)`)
	}
	return `(SELECT * FROM (` + strings.Join(parts, ` UNION ALL `) + `) one ORDER BY ` + order + ` LIMIT ` + most + `) s`
}

// fewSource selects all rows of few, piece by piece and each once. OFFSET 0 is an optimisation fence: without it, the
// planner would use the index by time for the sake of the order.
func (a auditSearch) fewSource(s *statement, window string) string {
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
func (a auditSearch) check(s *statement) string {
	text := "true"
	for _, c := range a.others {
		text += " AND " + c.sql(s)
	}
	return text
}

// page reads slices from the cursor on until the page is full, no rows are left or searchFor is over.
func (a auditSearch) page(ctx context.Context, tx pgx.Tx, q AuditQuery) (AuditPage, error) {
	page := AuditPage{Rows: []AuditRow{}, Next: q.From}
	began := time.Now()
	for {
		missing := q.Limit - len(page.Rows)
		q.From = page.Next
		rows, err := a.slice(ctx, tx, q, missing)
		if err != nil {
			return AuditPage{}, err
		}
		page.Rows = append(page.Rows, rows...)
		if len(rows) == missing {
			last := rows[missing-1].Cursor()
			page.Next = &last
			return page, nil
		}
		if page.Next, err = a.sliceEnd(ctx, tx, q); err != nil {
			return AuditPage{}, err
		}
		if page.Next == nil || time.Since(began) > searchFor {
			return page, nil
		}
	}
}

func (q AuditQuery) order() string {
	if q.Newer {
		return "at, id"
	}
	return "at DESC, id DESC"
}

// window is the filter's time range and one side of the cursor. A row comparison does not prune partitions, so the time
// is compared as well.
func (q AuditQuery) window(s *statement) string {
	text := q.Filter.between(s)
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
func (a auditSearch) slice(ctx context.Context, tx pgx.Tx, q AuditQuery, limit int) ([]AuditRow, error) {
	var s statement
	looks := sliceRows
	if len(a.others) == 0 {
		looks = limit
	}
	window := q.window(&s)
	text := `SELECT ` + auditColumns + ` FROM ` + a.source(&s, window, q.order(), looks) +
		` WHERE ` + a.check(&s) + ` ORDER BY ` + q.order() + ` LIMIT ` + s.arg(limit)
	return collect(ctx, tx, scanAudit, text, s.args...)
}

// sliceEnd is the last row that slice read; nil = no rows are left.
func (a auditSearch) sliceEnd(ctx context.Context, tx pgx.Tx, q AuditQuery) (*AuditCursor, error) {
	if a.few != nil || len(a.others) == 0 {
		return nil, nil
	}
	var s statement
	window := q.window(&s)
	ends, err := collect(ctx, tx, func(row pgx.CollectableRow) (AuditCursor, error) {
		var c AuditCursor
		err := row.Scan(&c.At, &c.ID)
		return c, err
	}, `SELECT at, id FROM `+a.source(&s, window, q.order(),
		sliceRows)+` ORDER BY `+q.order()+` OFFSET `+s.arg(sliceRows-1), s.args...)
	if err != nil || len(ends) == 0 {
		return nil, err
	}
	return &ends[0], nil
}
