package db_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

const shipOne = `SELECT vault.ship_reads($1, $2, 1, false, ARRAY[decode(repeat('00', 32), 'hex')], ARRAY[$3])::text`

// takenEvents are events that must be stored, each with its row in the log: action, secret and outcome.
var takenEvents = map[string]string{
	`{"action":"read","actor":"client:192.0.2.7","client":"192.0.2.7","secret":"app/x","outcome":"ok",` +
		`"at":"2026-01-01T00:00:00Z"}`: "read app/x ok",
	`{"action":"read","secret":"a\u001b[2Jb\u009bc\u202ed\u0007","outcome":"ok"}`:               "read a?[2Jb?c?d? ok",
	"{\"action\":\"read\",\"secret\":\"a\u009bb\u202ec\u2066d\u200be\x7f\",\"outcome\":\"ok\"}": "read a?b?c?d?e? ok",
	`{"action":"read","secret":"` + strings.Repeat("x", 5000) +
		`","outcome":"ok"}`: "read " + strings.Repeat("x", 255) + " ok",
	`{"action":"read","outcome":"maybe"}`:                                     "read failed",
	`{"action":"read","outcome":"ok","detail":[1]}`:                           "read ok",
	`{"action":"read","outcome":"ok","detail":"x"}`:                           "read ok",
	`{"action":"read","outcome":"ok","detail":null}`:                          "read ok",
	`{"action":"read","outcome":"ok","detail":{"a\u202eb":"c\u001b\\u001b"}}`: "read ok",

	// what no row can be made of
	`{}`:                                    "audit.unreadable failed",
	`[]`:                                    "audit.unreadable failed",
	`77`:                                    "audit.unreadable failed",
	`null`:                                  "audit.unreadable failed",
	`not JSON`:                              "audit.unreadable failed",
	`{"action":"read","secret":"a\u0000b"}`: "audit.unreadable failed",
	`{"action":"read","detail":{"a":"\u0000"}}`: "audit.unreadable failed",
	`{"action":"read","secret":"\ud800"}`:       "audit.unreadable failed",
	`{"action":"read","version":99999999999}`:   "audit.unreadable failed",
	`{"action":"read","version":"one"}`:         "audit.unreadable failed",
	`{"action":"read","client":"fe80::1%eth0"}`: "audit.unreadable failed",
	// and the time claimed
	`{"action":"read","at":"yesterday or so"}`:        "read failed",
	`{"action":"read","at":"294277-01-01T00:00:00Z"}`: "read failed",
	`{"action":"read","detail":{"n":1e999999}}`:       "audit.unreadable failed",
	// The server writes such numbers out: 16 KiB became 200 MiB of text, for all who read the log.
	`{"action":"read","detail":{"n":[1e131071, 1e131071]}}`:                               "audit.unreadable failed",
	`{"action":"read","detail":{"n":[1,-1.5E-16000]}}`:                                    "audit.unreadable failed",
	`{"action":"read","detail":{"n":` + "\n" + `1e+99}}`:                                  "audit.unreadable failed",
	`{"action":"read","outcome":"ok","detail":{"n":"a \" b: 1e131071","m":-1.5}}`:         "read ok",
	`{"action":"read","outcome":"ok","secret":"a,1e99","detail":{"n":"\\","m":["1e99"]}}`: "read a,1e99 ok",
	`{"action":"read","x":` + strings.Repeat("[", 8000) + strings.Repeat("]", 8000) + `}`: "audit.unreadable failed",
}

// Every event is recorded; one that cannot become a row is recorded as unreadable, and does not stop those after it.
func TestOneEventKeepsNoOtherFromTheLog(t *testing.T) {
	store := vaulttest.New(t)
	conn := mustConnect(t, store.URL(vaulttest.Daemon))
	var before uuid.UUID // the node's spool before; the first has none
	for event, want := range takenEvents {
		boot := uuid.New()
		_, err := conn.Exec(t.Context(), shipOne, "n", boot, event)
		if err != nil {
			t.Errorf("%.200s: %v", event, err)
			continue
		}
		checkFollows(t, store, boot, before)
		before = boot
		got := store.MustQuery(t,
			`SELECT concat_ws(' ', action, secret, outcome) FROM vault.audit_log
				WHERE detail->>'boot' = $1 AND action <> 'audit.spool'`, boot.String())
		if got != want {
			t.Errorf("%.200s: got %.300q on record, want %.300q", event, got, want)
		}
	}
	var events []string
	for event := range takenEvents {
		events = append(events, `{"action":"read","outcome":"ok","secret":"before"}`, event)
	}
	boot := uuid.New()
	must(t, shipAll(t.Context(), conn, boot, events))
	checkFollows(t, store, boot, before)
	if got, want := store.MustQuery(t,
		`SELECT count(*) || ' ' || count(*) FILTER (WHERE secret = 'before') || ' ' || count(DISTINCT detail->'seq')
			FROM vault.audit_log WHERE detail->>'boot' = $1 AND action <> 'audit.spool'`,
		boot.String()), fmt.Sprintf("%d %d %[1]d", len(events), len(takenEvents)); got != want {
		t.Errorf("got rows, good ones and numbers %q of one batch, want %q", got, want)
	}
	checkShown(t, store)
}

// checkFollows checks that the log says once which spool of the node was before this one, or nothing before the first.
func checkFollows(t *testing.T, store *vaulttest.Store, boot, before uuid.UUID) {
	t.Helper()
	want := ""
	if before != uuid.Nil {
		want = "n failed " + before.String() + " 2"
	}
	if got := store.MustQuery(t, `SELECT coalesce(string_agg(concat_ws(' ', node, outcome, detail->>'after',
		detail->>'after_next'), ', '), '') FROM vault.audit_log WHERE detail->>'boot' = $1 AND action = 'audit.spool'`,
		boot.String()); got != want {
		t.Errorf("spool %s: the log says that it follows %q, want %q", boot, got, want)
	}
}

// shipAll ships events as one batch, chained as a spool's.
func shipAll(ctx context.Context, conn *pgx.Conn, boot uuid.UUID, events []string) error {
	var hash [32]byte
	previous := make([][]byte, len(events))
	for i, event := range events {
		before := hash
		previous[i] = before[:]
		record := binary.BigEndian.AppendUint64(nil, uint64(i+1))
		hash = sha256.Sum256(append(append(record, before[:]...), event...))
	}
	_, err := conn.Exec(ctx, `SELECT vault.ship_reads('n', $1, 1, false, $2, $3)`, boot, previous, events)
	return err
}

// checkShown checks that no text of the log or the spools would control a terminal that shows it.
func checkShown(t *testing.T, store *vaulttest.Store) {
	t.Helper()
	rows, err := mustConnect(t, store.URL(vaulttest.Superuser)).Query(t.Context(), `SELECT to_jsonb(l)::text
		FROM vault.audit_log l
		UNION ALL SELECT to_jsonb(s)::text FROM vault.audit_spools s`)
	must(t, err)
	for rows.Next() {
		var text string
		must(t, rows.Scan(&text))
		var row any
		must(t, json.Unmarshal([]byte(text), &row))
		walk(row, func(shown string) {
			if strings.ContainsFunc(shown, acts) {
				t.Errorf("the log has %.200q", shown)
			}
		})
	}
	must(t, rows.Err())
}

// acts reports whether a terminal acts on a character, or shows no glyph for it.
func acts(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r >= 0x200b && r <= 0x200f || r == '\u2028' ||
		r == '\u2029' || r == '\ufeff'
}

func walk(value any, see func(string)) {
	switch v := value.(type) {
	case string:
		see(v)
	case []any:
		for _, inner := range v {
			walk(inner, see)
		}
	case map[string]any:
		for name, inner := range v {
			see(name)
			walk(inner, see)
		}
	}
}

// FuzzShipReads ships one event of a spool: within the bounds, it is recorded once, as text that can be shown;
// otherwise it is refused. Each fuzzing process has a database.
func FuzzShipReads(f *testing.F) {
	for event := range takenEvents {
		f.Add("db2@host", event)
	}
	f.Add("n\x1b[2J\u202e",
		`{"action":"\u001b","actor":"worker:\u009b","secret":"\\u001b\n","request_id":"\u2066","detail":{"a\\":"\\\n"}}`)
	f.Add(strings.Repeat("x", 256), strings.Repeat(" ", 17<<10))
	store := vaulttest.New(f)
	conn, super := mustConnect(f, store.URL(vaulttest.Daemon)), mustConnect(f, store.URL(vaulttest.Superuser))
	f.Fuzz(func(t *testing.T, node, event string) {
		boot := uuid.New()
		var at string
		err := conn.QueryRow(t.Context(), shipOne, node, boot, event).Scan(&at)
		fits := node != "" && len(node) <= 255 && len(event) >= 2 && len(event) <= 16<<10
		text := utf8.ValidString(node) && utf8.ValidString(event) && !strings.ContainsRune(node+event, 0)
		if (err == nil) != (fits && text) {
			t.Fatalf("node %q, event %q: %v", node, event, err)
		}
		if err != nil {
			if code, message := sqlState(err); text && code != "22023" {
				t.Fatalf("node %q, event %q: got %s %s, want 22023", node, event, code, message)
			}
			return
		}
		var rows int
		var row string
		must(t, super.QueryRow(t.Context(),
			`SELECT count(*), min(to_jsonb(l)::text) FROM vault.audit_log l WHERE detail->>'boot' = $1 AND detail->>'seq' = '1'`,
			boot.String()).Scan(&rows, &row))
		if rows != 1 || !strings.Contains(at, `"next_seq": 2`) {
			t.Fatalf("node %q, event %q: got %d rows and the position %s", node, event, rows, at)
		}
		var v any
		must(t, json.Unmarshal([]byte(row), &v))
		walk(v, func(shown string) {
			if strings.ContainsFunc(shown, acts) {
				t.Errorf("node %q, event %q: the log has %q", node, event, shown)
			}
		})
	})
}

// Names of nodes that differ only in characters that are not shown do not keep migrate from its work, and each spool
// keeps its own position.
func TestMigrateKeepsSpoolsApart(t *testing.T) {
	store := vaulttest.New(t)
	takeBack(t, store, 9)
	const boot = `11111111-1111-1111-1111-111111111111`
	for i, node := range []string{`n\x01`, `n\x02`, `n?`, `m\x1b`, `m`} {
		store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.audit_spools (node, boot, next_seq) VALUES (E'%s', '%s', %d)`, node,
			boot, i+1))
	}
	_, err := db.Migrate(t.Context(), store.URL(vaulttest.Superuser), "test", "")
	must(t, err)
	got := store.MustQuery(t, `SELECT string_agg(regexp_replace(node, '[0-9a-f]{32}', 'md5') || '=' || next_seq, ' '
		ORDER BY next_seq) FROM vault.audit_spools`)
	if want := "n??md5=1 n??md5=2 n?=3 m?=4 m=5"; got != want {
		t.Errorf("got the spools %q, want %q", got, want)
	}
}

// 40 MiB in one event took the server 15 seconds: an event and a batch have bounds, and larger ones are refused before
// they are parsed.
func TestAHugeEventIsRefused(t *testing.T) {
	store := vaulttest.New(t)
	ship := func(count, bytes int) error { // the server makes them, so that its log need not hold them
		return runSession(t, store.URL(vaulttest.Daemon), []string{fmt.Sprintf(`SELECT vault.ship_reads('n',
			gen_random_uuid(), 1, false,
			array_fill(decode(repeat('00', 32), 'hex'), ARRAY[%[1]d]), array_fill(repeat(' ', %[2]d - 2) || '{}',
			ARRAY[%[1]d]))`, count, bytes)})
	}
	for want, err := range map[string]error{
		"an event of p_events has 41943040 bytes: it must have 2 to 16384": ship(1, 40<<20),
		"an event of p_events has 16385 bytes: it must have 2 to 16384":    ship(1, spool.MaxEvent+1),
		"the bytes of p_events is 16793600: it must be 2 to 16777216":      ship(1025, spool.MaxEvent),
		"a batch has at most 10000 records":                                ship(10001, 2),
	} {
		if code, text := sqlState(err); code != "22023" || !strings.Contains(text, want) {
			t.Errorf("got %s %q, want 22023 %q", code, text, want)
		}
	}
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.audit_spools`); got != "0" {
		t.Errorf("got %s spools, want none", got)
	}
	must(t, ship(1, spool.MaxEvent))
}
