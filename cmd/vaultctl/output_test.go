package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/db"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain äöü 日本":     "plain äöü 日本",
		"\x1b]0;t\x07":     "?]0;t?",
		"a\nb\tc\rd":       "a?b?c?d",
		"\x7f\u0080\u009f": "???",
		"\u00a0":           "\u00a0",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestFitTable(t *testing.T) {
	heading := []string{"NAME", "STATE", "DETAIL"}
	table := func() [][]string {
		return [][]string{{"prod/a", "ok", strings.Repeat("d", 40)}, {"prod/b", strings.Repeat("日", 10), "-"}}
	}
	for _, c := range []struct {
		width int
		want  [][]string
	}{
		{120, table()},
		{70, table()}, // 6 + 20 + 40 and two gaps
		{52, [][]string{{"prod/a", "ok", strings.Repeat("d", 19) + "..."}, {"prod/b", strings.Repeat("日", 10), "-"}}},
		{34, [][]string{{"prod/a", "ok", "ddddddddd..."}, {"prod/b", "日日日日...", "-"}}},
		{10, table()}, // it cannot fit
	} {
		rows := table()
		if fitTable(heading, rows, c.width); !cmp.Equal(rows, c.want) {
			t.Errorf("%d columns: got %q, want %q", c.width, rows, c.want)
		}
	}
}

func TestDurationFlag(t *testing.T) {
	var value *time.Duration
	flag := durationFlag{&value}
	if got := flag.String(); got != "" {
		t.Errorf("before it is given: got %q, want nothing", got)
	}
	if got := (durationFlag{}).String(); got != "" {
		t.Errorf("the zero flag, as pflag makes it: got %q, want nothing", got)
	}
	for _, bad := range []string{"", "-1h", "30", "1y", "1.5d", "99999d"} {
		if err := flag.Set(bad); err == nil || value != nil {
			t.Errorf("%q: got %v, %v, want an error and no value", bad, value, err)
		}
	}
	for text, want := range map[string]time.Duration{"0": 0, "30d": 720 * time.Hour, "1w2d": 216 * time.Hour,
		"90m": 90 * time.Minute} {
		if err := flag.Set(text); err != nil || value == nil || *value != want {
			t.Errorf("%q: got %v, %v, want %v", text, value, err, want)
		}
	}
	if err := flag.Set("1w2d"); err != nil || flag.String() != "9d" {
		t.Errorf("got %q, %v, want 9d", flag.String(), err)
	}
}

func TestStateOfASecret(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := func(d time.Duration) *time.Time { at := now.Add(d); return &at }
	until := in(time.Hour)
	for want, s := range map[string]db.SecretRow{
		"ok":               {NextRotationAt: in(-overdue)},
		"rotation overdue": {NextRotationAt: in(-overdue - 1)},
		"rotating":         {NextRotationAt: in(-1), Job: &db.JobRow{State: "claimed"}},
		"rotation failed":  {NextRotationAt: in(-time.Hour), Job: &db.JobRow{State: "failed"}},
		"deleted, restorable until " + when(until): {RestoreUntil: until, Job: &db.JobRow{State: "failed"}},
		"deleted for good, waiting for the purge":  {RestoreUntil: in(0)},
	} {
		if got := state(s, now); got != want {
			t.Errorf("%+v: got %q, want %q", s, got, want)
		}
	}
}

func TestStateOfAToken(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	earlier, later := now.Add(-1), now.Add(1)
	for _, c := range []struct {
		row  db.TokenRow
		want string
	}{
		{db.TokenRow{}, "good"},
		{db.TokenRow{ExpiresAt: &later}, "good"},
		{db.TokenRow{ExpiresAt: &now}, "expired"},
		{db.TokenRow{ExpiresAt: &earlier}, "expired"},
		{db.TokenRow{ExpiresAt: &later, RevokedAt: &earlier}, "revoked"},
	} {
		if got := tokenState(c.row, now); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.row, got, c.want)
		}
	}
}

func TestDetailOfAnEvent(t *testing.T) {
	for in, want := range map[string]string{
		`{}`: "",
		`{"reason":"a \"b\" c","attempt":2,"given_up":true}`: `attempt=2 given_up=true reason="a \"b\" c"`,
		`not json`: "not json",
	} {
		if got := detail(audit.Row{Detail: json.RawMessage(in)}); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestWorriesOfAStatus(t *testing.T) {
	none, one, late, tooLate := 0, 1, 30.0, 60.5
	for _, c := range []struct {
		health db.Health
		failed []db.RotationRow
		want   string
	}{
		{db.Health{RotationsQueued: 3, RotationsClaimed: 2, MaxRotations: &one, LagSeconds: &late}, nil, ""},
		{db.Health{RotationsFailed: 1}, nil, "rotations: 1 failed"},
		{db.Health{RotationsFailed: 5}, []db.RotationRow{{Name: "a", LastError: "x\x1b"}, {Name: "b", LastError: "y"}},
			`rotations: 5 failed ("a": x?; "b": y; 3 more)`},
		{db.Health{RotationsOverdue: 4}, nil, "rotations: 4 overdue"},
		{db.Health{RotationsFailed: 1, RotationsOverdue: 4}, nil, "rotations: 1 failed, 4 overdue"},
		{db.Health{MaxRotations: &none}, nil, "rotations: all are stopped (vaultctl rotation limit 0)"},
		{db.Health{MaxRotations: &none, RotationsOverdue: 4, LagSeconds: &tooLate, RoundFailures: 1}, nil,
			"behind: the last heartbeat of the primary that this node has is 1m old; " +
				"rotations: all are stopped (vaultctl rotation limit 0), 4 overdue; " +
				"rounds: 1 that are not shown to this role, or work again by now"},
	} {
		got := ""
		if err := statusProblem(db.Status{Health: c.health}, nil, c.failed); err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c.health, diff)
		}
	}
}

func TestSchemaVerdicts(t *testing.T) {
	for want, s := range map[string]db.MigrationState{
		"the vault is not set up in this database":      {Have: 0, Want: 2},
		"the schema is older than this binary":          {Have: 1, Want: 2},
		"the schema is newer than this binary":          {Have: 3, Want: 2, FunctionsCurrent: true},
		"the installed functions are not this binary's": {Have: 2, Want: 2},
	} {
		if err := compareSchema(s); err == nil || err.Error() != want {
			t.Errorf("%+v: got %v, want %q", s, err, want)
		}
	}
	if err := compareSchema(db.MigrationState{Have: 2, Want: 2, FunctionsCurrent: true}); err != nil {
		t.Errorf("up to date: got %v", err)
	}
}

// TestEscapedJSON checks that on a terminal control characters are escaped, in any pieces of writing, and that the JSON
// means the same.
func TestEscapedJSON(t *testing.T) {
	const text = "csi \u009b31m, osc \u009d, del \u007f, nel \u0085, override \u202e, isolate \u2066, mark \u200f, " +
		"zero width \u200b\u200d\ufeff, soft hyphen \u00ad, line \u2028\u2029, tag \U000e0041, plain ä 語 😀 \\ \" \x1b \n"
	var document bytes.Buffer
	encoder := json.NewEncoder(&document)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(map[string]string{"v": text}); err != nil {
		t.Fatal(err)
	}
	for _, piece := range []int{1, 2, 3, 5, 1000} {
		var shown bytes.Buffer
		e := &escapedJSON{to: &shown}
		for part := range slices.Chunk(document.Bytes(), piece) {
			if n, err := e.Write(part); n != len(part) || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
		}
		got := strings.TrimSuffix(shown.String(), "\n")
		if printable(got) != got {
			t.Errorf("in pieces of %d: %q steers a terminal", piece, got)
		}
		if !strings.Contains(got, "plain ä 語 😀") {
			t.Errorf("in pieces of %d: plain letters are escaped: %q", piece, got)
		}
		var back map[string]string
		if err := json.Unmarshal([]byte(got), &back); err != nil || back["v"] != text {
			t.Errorf("in pieces of %d: reads back as %q, %v", piece, back["v"], err)
		}
	}
}
