package db

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	vaultsql "github.com/hyperiondb/vault/sql"
)

// feedNames bounds the names of one poll.
const feedNames = 4096

// Instance identifies a running server: memory that follows one server's feed keeps only what the same one answered.
// The zero Instance is unknown, and equals no other.
type Instance struct {
	System  string    // pg_control_system's
	Started time.Time // the server process, to the microsecond
}

// Known reports whether the server is known.
func (i Instance) Known() bool { return i.System != "" && !i.Started.IsZero() }

// Feed follows the changes of kept rows on one node. It is a session of its own, to the same server as the Reader's if
// the connection string names one. It is for one goroutine.
type Feed struct {
	conn     *pgx.Conn
	cookie   string
	instance Instance
}

// Poll is one answer of the feed. All of it is of one snapshot, except Position.
type Poll struct {
	// XMin is what the next Poll takes as since, once Names are dropped and All is heeded.
	XMin uint64
	// Floor: rows below it may be gone.
	Floor uint64
	// Names that changed, at most 4096, perhaps repeated, and perhaps named by an earlier poll. Only those that the role
	// may read. None with All.
	Names []string
	// All: any name may have changed. A row of the feed says so, there are more than 4096 rows, whether or not the role
	// may read their names, or since is below Floor.
	All bool
	// Overflow: All is set because there are more than 4096 rows. It lasts until XMin moves; see [Reader.XMinHolder].
	Overflow bool
	// Scope is another text if the role may read other names than before.
	Scope string
	// Epoch is the access epoch; zero: the node has none.
	Epoch uuid.UUID
	// Position is what the node had replayed, or on a primary flushed, after the snapshot was taken: it holds for the
	// next poll, not for this one.
	Position LSN
	// Now is the node's clock when the poll began there, as now() of a query has it.
	Now time.Time
	// Instance is the server, and the same for all polls of a Feed.
	Instance Instance
}

const instanceQuery = `SELECT system_identifier::text, pg_catalog.to_char(
	pg_catalog.pg_postmaster_start_time(), 'YYYY-MM-DD HH24:MI:SS.US') FROM pg_catalog.pg_control_system()`

// feedQuery always has one row, and looks at no more than feedNames + 1 rows of the feed. Functions of the session run
// after the snapshot is taken. The view of the read path is named so that a role that may no longer read it gets an
// error. The oldest binary that works on the schema is read because it can change while the session lives. "WHERE
// only_row" makes these tables readable by an index, as the session's settings want it.
var feedQuery = fmt.Sprintf(`SELECT pg_snapshot_xmin(pg_current_snapshot()), s.floor, s.system_identifier::text,
	coalesce(current_setting('hyperion_vault.feed', true), ''), c.rows, coalesce(c.names, '{}'),
	pg_has_role(current_user, 'vault_owner', 'USAGE')::text || ARRAY(SELECT prefix FROM vault.service_scope
		WHERE role_id = (SELECT quote_ident(current_user)::regrole) ORDER BY prefix)::text,
	(SELECT epoch FROM vault.access_epoch WHERE only_row),
	coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END,
		'0/0')::text,
	EXISTS (SELECT FROM vault.sealed_versions WHERE false), now(),
	coalesce((SELECT schema_version FROM vault.config WHERE only_row), 0)
	FROM vault.feed_state s, (SELECT count(*) AS rows, array_agg(name) FILTER (WHERE name IS NOT NULL) AS names
		FROM (SELECT tx, name FROM vault.changed_names WHERE tx >= $1 ORDER BY tx LIMIT %d) AS changed) AS c
	WHERE s.only_row`, feedNames+1)

// feedSettings leave one plan for the poll, which reads the feed by its index: the server's statistics may say that the
// feed is empty, or that it has a million rows.
const feedSettings = `SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
	SET enable_indexscan = on; SET enable_indexonlyscan = on; SET enable_nestloop = on;
	SET max_parallel_workers_per_gather = 0; SET plan_cache_mode = force_generic_plan`

// OpenFeed connects to the node. [ErrFeedUnusable]: the node or the connection cannot serve a feed, for the reason that
// the error says.
func (r *Reader) OpenFeed(ctx context.Context) (*Feed, error) {
	conn, err := pgx.ConnectConfig(ctx, r.pool.Config().ConnConfig)
	if err != nil {
		return nil, classify(err)
	}
	f := &Feed{conn: conn, cookie: rand.Text()}
	if err := f.begin(ctx); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Feed) begin(ctx context.Context) error {
	if _, pooled := behindPooler(f.conn.PgConn()); pooled {
		return newError(ErrFeedUnusable, "the connection goes through a pooler, and a feed takes a session of its own")
	}
	if _, err := checkSchema(ctx, session{f.conn}); err != nil {
		return err
	}
	if _, err := f.conn.Exec(ctx, feedSettings+`; SET hyperion_vault.feed = '`+f.cookie+`'`); err != nil {
		return classify(err)
	}
	f.instance = instanceOf(f.conn.PgConn())
	if !f.instance.Known() {
		return newError(ErrFeedUnusable, "the database role may not call pg_control_system and pg_postmaster_start_time")
	}
	_, err := f.Poll(ctx, 0)
	return err
}

// Poll reads what changed since an earlier poll's XMin; 0: nothing is known, and no names are wanted. It is one round
// trip of one statement. After an error the Feed is of no more use; ErrFeedUnusable: nor is another, until an operator
// or the supervisor has removed the cause. ErrSchema: the schema has become too new for this binary.
func (f *Feed) Poll(ctx context.Context, since uint64) (Poll, error) {
	if since == 0 {
		since = math.MaxUint64 // above every row and floor
	}
	p := Poll{Instance: f.instance}
	var system, cookie, position string
	var rows int64
	var compatibleSince int
	var epoch uuid.NullUUID
	err := f.conn.QueryRow(ctx, feedQuery, since).Scan(&p.XMin, &p.Floor, &system, &cookie, &rows, &p.Names,
		&p.Scope, &epoch, &position, nil, &p.Now, &compatibleSince)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Poll{}, newError(ErrFeedUnusable, "vault.feed_state has no row")
	case err != nil:
		return Poll{}, unusable(err)
	case compatibleSince > vaultsql.Version():
		return Poll{}, newerSchema(compatibleSince)
	case cookie != f.cookie:
		return Poll{}, newError(ErrFeedUnusable, "another session answered: there is a pooler in between")
	case system != f.instance.System:
		return Poll{}, newError(ErrFeedUnusable, "the change feed comes from another server; "+
			"the next round of the supervisor on the primary empties it")
	}
	p.Epoch = epoch.UUID
	if p.Position, err = ParseLSN(position); err != nil {
		return Poll{}, err
	}
	p.Overflow = rows > feedNames
	p.All = p.Overflow || since < p.Floor || slices.Contains(p.Names, "")
	if p.All {
		p.Names = nil
	}
	return p, nil
}

// Close ends the session without waiting for the server.
func (f *Feed) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = f.conn.Close(ctx)
}

// unusable classifies an error of the feed's statements: a role without the right to them has no feed.
func unusable(err error) error {
	err = classify(err)
	var known *Error
	if errors.As(err, &known) && (known.Code == "42501" || known.Code == "42P01" || known.Code == "3F000") {
		return &Error{Kind: ErrFeedUnusable, Text: known.Text, Code: known.Code}
	}
	return err
}

const instanceKey = "hyperiondb-vault: instance" // in a connection's CustomData

// instanceOf is the server that a session of the pool is on; unknown behind a pooler.
func instanceOf(conn *pgconn.PgConn) Instance {
	i, _ := conn.CustomData()[instanceKey].(Instance)
	return i
}

// queryConfigAndInstance is queryConfig, and in the same round trip the instance, which it stores with the connection.
// The instance is unknown if the role may not call the functions.
func queryConfigAndInstance(ctx context.Context, s session) (c Config, err error) {
	conn := s.PgConn()
	results, err := conn.Exec(ctx, configQuery+`; `+instanceQuery).ReadAll()
	var server *pgconn.PgError
	switch {
	case err != nil && (len(results) < 2 || !errors.As(err, &server) || isDisconnect(server)):
		return c, classify(err)
	case len(results[0].Rows) != 1:
		return c, classify(pgx.ErrNoRows)
	case err == nil:
		var i Instance
		row := results[1].Rows[0]
		i.System = string(row[0])
		if i.Started, err = time.Parse("2006-01-02 15:04:05.999999", string(row[1])); err != nil {
			return c, classify(err)
		}
		conn.CustomData()[instanceKey] = i
	}
	row := results[0].Rows[0]
	c.DefaultKMSKey = string(row[1])
	if c.ClusterID, err = uuid.Parse(string(row[0])); err == nil {
		err = c.setVersions(row[2], row[3])
	}
	return c, classify(err)
}

// LoadLive is [Reader.ReadLive] for memory: with the server that answered, which is unknown behind a pooler. The query
// begins after the call.
func (r *Reader) LoadLive(ctx context.Context, name string) (Reading, Instance, error) {
	s, err := r.read(ctx, r.live, name)
	reading, err := reading(s, err)
	return reading, s.instance, err
}

// XMinHolder describes the transaction that keeps a poll's XMin from moving: the oldest running one with an id, of any
// database, or a prepared one. It has no text of a statement. "": none runs, or the node is a standby, whose
// transactions run on the primary.
func (r *Reader) XMinHolder(ctx context.Context) (string, error) {
	var h *Transaction
	if err := r.pool.QueryRow(ctx, `SELECT vault.xmin_holder()`).Scan(&h); err != nil || h == nil {
		return "", classify(err)
	}
	return h.describe(), nil
}

// describe names a transaction on one line.
func (h *Transaction) describe() string {
	text := fmt.Sprintf("pid %d (application %q, role %q)", h.PID, h.Application, h.Role)
	if h.Prepared != "" {
		text = fmt.Sprintf("prepared transaction %q (role %q)", h.Prepared, h.Role)
	}
	if h.Database != "" {
		text += fmt.Sprintf(" in database %q", h.Database)
	}
	if h.State != "" {
		text += ", " + h.State
	}
	if h.Since != nil {
		text += ", since " + h.Since.UTC().Format(time.RFC3339)
	}
	return text
}
