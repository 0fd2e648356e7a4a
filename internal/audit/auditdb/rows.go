package auditdb

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/audit/spool"
)

// A row of the log is one event, or several reads of one secret: the newest in the columns of an event, those before it
// in arrays. This file takes rows apart into reads. Its texts refer to columns of vault.audit_log by their names.

// longestSpan is the longest time between the reads of a row (the constraint audit_earlier).
const longestSpan = `interval '1 minute'`

// isOfRead reports whether the reads of one row may differ in the condition's column.
func (c condition) isOfRead() bool {
	switch c.key {
	case filter.Actor, filter.IP, filter.Version, filter.Request:
		return true
	}
	return false
}

// several selects the rows of several reads among which a condition's may be.
func (a search) several(c condition) string {
	if c.key != filter.Request || c.not {
		return "since IS NOT NULL"
	}
	var any []string
	for _, t := range c.terms {
		id, err := uuid.Parse(t.Text)
		made, ok := spool.TimeOf(id)
		if err != nil || !ok {
			continue // no row of several reads has such an id
		}
		literal := func(t time.Time) string { return t.UTC().Format(`'2006-01-02 15:04:05.999999Z'::timestamptz`) }
		from, to := made.Add(-spool.AroundRequest), made.Add(spool.AroundRequest)
		if to.Year() > 9999 {
			continue
		}
		any = append(any, fmt.Sprintf("at >= %[1]s AND at <= %[2]s + %[3]s AND since <= %[2]s", literal(from), literal(to),
			longestSpan))
	}
	if len(any) == 0 {
		return "since IS NOT NULL AND false"
	}
	return "since IS NOT NULL AND (" + strings.Join(any, " OR ") + ")"
}

// check selects the rows that may have a matching read; of those with one event, exactly these.
func (a search) check(s *statement) string {
	return checkRows(s, a.conditions) + a.untilRows(s)
}

func (a search) untilRows(s *statement) string {
	if a.until.IsZero() {
		return ""
	}
	until := s.arg(a.until) + `::timestamptz`
	return ` AND (at < ` + until + ` OR since < ` + until + `)`
}

func checkRows(s *statement, conditions []condition) string {
	text := "true"
	var own, reader []string
	request := ""
	for _, c := range conditions {
		switch {
		case !c.isOfRead():
			text += " AND " + c.sql(s)
			continue
		case c.key != filter.Request:
			reader = append(reader, c.sql(s))
		case !c.not:
			request = ` AND ` + search{}.several(c) + ` AND EXISTS (SELECT FROM unnest(requests) AS r (request_id) WHERE ` +
				c.sql(s) + `)`
		}
		own = append(own, c.sql(s))
	}
	if len(own) == 0 {
		return text
	}
	several := `since IS NOT NULL` + request
	if len(reader) > 0 {
		several += ` AND EXISTS (SELECT FROM ` + readersOfRow + ` WHERE ` + strings.Join(reader, " AND ") + `)`
	}
	return text + ` AND (` + strings.Join(own, " AND ") + ` OR ` + several + `)`
}

// readersOfRow are the readers before the newest.
const readersOfRow = `unnest(actors, clients, versions) AS reader (actor, client, version)`

// checkReads is the conditions and the time range, on the columns of a read.
func (a search) checkReads(s *statement) string {
	text := "true"
	for _, c := range a.conditions {
		text += " AND " + c.sql(s)
	}
	if !a.since.IsZero() {
		text += ` AND moment >= ` + s.arg(a.since) + `::timestamptz`
	}
	if !a.until.IsZero() {
		text += ` AND moment < ` + s.arg(a.until) + `::timestamptz`
	}
	return text
}

// readsOf selects the reads of rows that hold a check, in an order of moment, id and nth (0, -1, -2, ...: from the
// newest of a row to the oldest). What is in the details and requests is read for the selected reads only. A row whose
// arrays were changed by hand, so that they do not fit, is shown as its newest read, and says so.
func readsOf(rows, check, order, limit string) string {
	return `SELECT id, -nth, moment, recorded_at, actor, db_role, coalesce(host(client), ''), coalesce(node, ''), action,
			coalesce(secret, ''), coalesce(version, 0), outcome,
			coalesce((CASE WHEN nth < 0 THEN requests[-nth] ELSE own_request END)::text, ''),
			(CASE WHEN nth < 0 THEN coalesce(details[reader], '{}') ||
				jsonb_build_object('boot', detail -> 'boot', 'seq', (detail ->> 'seq')::bigint - back)
			WHEN since IS NOT NULL AND NOT fits THEN detail || '{"damaged": "the reads before it do not fit"}'
			ELSE detail END)::text
		FROM (SELECT * FROM (` + readsOfRows(rows) + `) r WHERE ` + check + ` ORDER BY ` + order + ` LIMIT ` + limit + `) e
		ORDER BY ` + order
}

// rowFits reports whether the arrays of a row s are as the constraint audit_earlier has them.
const rowFits = `coalesce(s.reads = cardinality(s.ago) + 1 AND cardinality(s.back) = cardinality(s.ago)
	AND cardinality(s.requests) = cardinality(s.ago) AND cardinality(s.reader) = cardinality(s.ago)
	AND array_position(s.ago, NULL) IS NULL AND array_position(s.back, NULL) IS NULL
	AND cardinality(s.actors) >= ALL (s.reader) AND 1 <= ALL (s.reader)
	AND array_position(s.actors, NULL) IS NULL AND s.detail ->> 'seq' ~ '^[0-9]{1,18}$', false)`

// readsOfRows are the reads of rows with the columns that a filter needs.
func readsOfRows(rows string) string {
	return `SELECT s.id, s.tx, n.nth, n.moment, s.recorded_at, s.db_role::text AS db_role, s.node, s.action, s.secret,
			s.outcome, s.since, s.fits, s.detail, s.details, s.requests, n.back, n.reader, s.request_id AS own_request,
			CASE WHEN n.nth < 0 THEN s.actors[n.reader] ELSE s.actor END AS actor,
			CASE WHEN n.nth < 0 THEN s.clients[n.reader] ELSE s.client END AS client,
			CASE WHEN n.nth < 0 THEN s.versions[n.reader] ELSE s.version END AS version,
			CASE WHEN n.nth < 0 THEN s.requests[-n.nth] ELSE s.request_id END AS request_id
		FROM (SELECT s.*, CASE WHEN s.since IS NOT NULL THEN ` + rowFits + ` END AS fits FROM (` + rows + `) s OFFSET 0) s
		CROSS JOIN LATERAL (SELECT 0 AS nth, s.at AS moment, 0 AS back, 0::smallint AS reader
			UNION ALL
			SELECT -u.n::int, s.at - u.ago * interval '1 microsecond', u.back, u.reader
				FROM unnest(CASE WHEN s.fits THEN s.ago END, CASE WHEN s.fits THEN s.back END,
					CASE WHEN s.fits THEN s.reader END) WITH ORDINALITY AS u (ago, back, reader, n)) n`
}

// readsOfRow is about how many reads of a row s match the conditions: exactly, unless some of its readers match and
// some do not. Then it takes each reader for as busy as the others, and guessed is true.
func readsOfRow(s *statement, conditions []condition) (reads, guessed string) {
	if !slices.ContainsFunc(conditions, condition.isOfRead) {
		return "coalesce(reads, 1)", "false"
	}
	if slices.ContainsFunc(conditions, func(c condition) bool { return c.key == filter.Request && !c.not }) {
		return "1", "false"
	}
	var own, reader []string
	for _, c := range conditions {
		if c.isOfRead() && c.key != filter.Request {
			own, reader = append(own, c.sql(s)), append(reader, c.sql(s))
		}
	}
	if len(own) == 0 { // all but some requests
		return "coalesce(reads, 1)", "false"
	}
	matching := `(SELECT avg(((` + strings.Join(reader, " AND ") + `) IS TRUE)::int) FROM ` + readersOfRow + `)`
	return `((` + strings.Join(own, " AND ") + `) IS TRUE)::int + coalesce(reads - 1, 0) * coalesce(` + matching + `, 0)`,
		`since IS NOT NULL AND ` + matching + ` NOT IN (0, 1)`
}
