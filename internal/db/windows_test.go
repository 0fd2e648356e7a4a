package db_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// Days on which the clock of a zone is put forward or back, and one on which it is not.
var clockChanges = []struct{ zone, gap, overlap string }{
	{"Europe/Berlin", "2026-03-29", "2026-10-25"},       // 02:00 to 03:00
	{"Africa/Cairo", "2026-04-24", "2026-10-29"},        // 00:00 to 01:00, and midnight back to 23:00
	{"Australia/Lord_Howe", "2026-10-04", "2026-04-05"}, // by half an hour
	{"Asia/Kathmandu", "", "2026-06-01"},                // never; 5:45 from UTC
	{"America/Santiago", "2026-09-06", "2026-04-04"},    // at midnight
	{"America/Nuuk", "2026-03-28", "2026-10-24"},        // 23:00 to midnight
	{"Pacific/Apia", "2011-12-30", "2011-04-02"},        // a whole day
}

var dayWindows = []string{"02:00-03:00", "02:10-02:50", "02:30-05:00", "01:30-02:30", "00:00-01:00", "00:15-00:45",
	"23:30-00:30", "23:00-23:59", "22:00-04:00", "02:00-02:30", "12:00-13:00"}

// wallClock has the minutes of eight days by what a zone's clock shows.
type wallClock struct {
	zone   *time.Location
	around time.Time
	shown  map[string][]int64
}

func newWallClock(t *testing.T, zone string, around time.Time) wallClock {
	t.Helper()
	location, err := time.LoadLocation(zone)
	must(t, err)
	w := wallClock{zone: location, around: around, shown: map[string][]int64{}}
	for m := around.Add(-96 * time.Hour); m.Before(around.Add(96 * time.Hour)); m = m.Add(time.Minute) {
		wall := m.In(location).Format("2006-01-02 15:04")
		w.shown[wall] = append(w.shown[wall], m.Unix())
	}
	return w
}

// reference computes a window in Go: the minutes at which the local clock shows a time within it; if it shows none of a
// day's, those minutes by the clock before the change.
type reference struct {
	begins, len int // minutes
	open        map[int64]bool
}

func newReference(t *testing.T, window string, wall wallClock) reference {
	t.Helper()
	var h1, m1, h2, m2 int
	_, err := fmt.Sscanf(window, "%d:%d-%d:%d", &h1, &m1, &h2, &m2)
	must(t, err)
	r := reference{begins: h1*60 + m1, open: map[int64]bool{}}
	r.len = (h2*60 + m2 - r.begins + 24*60) % (24 * 60)
	for day := wall.around.AddDate(0, 0, -3); day.Before(wall.around.AddDate(0, 0, 3)); day = day.AddDate(0, 0, 1) {
		begin := time.Date(day.Year(), day.Month(), day.Day(), 0, r.begins, 0, 0, time.UTC) // a wall clock, not a moment
		found := false
		for i := range r.len {
			for _, m := range wall.shown[begin.Add(time.Duration(i)*time.Minute).Format("2006-01-02 15:04")] {
				r.open[m], found = true, true
			}
		}
		if !found {
			_, before := begin.Add(-48 * time.Hour).In(wall.zone).Zone()
			for i := range r.len {
				r.open[begin.Add(time.Duration(i)*time.Minute).Unix()-int64(before)] = true
			}
		}
	}
	return r
}

// Windows by SQL equal windows by Go, every five minutes, on days with a gap, an overlap and neither; the next opening
// is the first minute that is open.
func TestWindowsWhereClocksChange(t *testing.T) {
	conn := mustConnect(t, vaulttest.New(t).URL(vaulttest.Superuser))
	ask := func(sql string, args ...any) (answer string) {
		must(t, conn.QueryRow(t.Context(), sql, args...).Scan(&answer))
		return answer
	}
	for _, c := range clockChanges {
		for _, date := range []string{c.gap, c.overlap} {
			if date == "" {
				continue
			}
			day, err := time.Parse(time.DateOnly, date)
			must(t, err)
			wall := newWallClock(t, c.zone, day)
			for _, window := range dayWindows {
				r := newReference(t, window, wall)
				from := day.Add(-24 * time.Hour)
				got := ask(`SELECT string_agg(CASE vault._in_window($1, m)
						WHEN true THEN '1' WHEN false THEN '0' ELSE '?' END, '' ORDER BY m)
					FROM generate_series($2::timestamptz, $2::timestamptz + interval '2879 minutes', '5 minutes') m`,
					window+" "+c.zone, from)
				var want strings.Builder
				for i := range 2880 / 5 {
					want.WriteByte("01"[map[bool]int{true: 1}[r.open[from.Add(time.Duration(5*i)*time.Minute).Unix()]]])
				}
				if i := differ(got, want.String()); i >= 0 {
					t.Errorf("%s %s at %s: got %c, want %c", window, c.zone, from.Add(time.Duration(5*i)*time.Minute), got[i],
						want.String()[i])
				}
				opens := ask(`SELECT string_agg(extract(epoch FROM vault._window_opens($1, m))::bigint::text, ' '
					ORDER BY m)
					FROM generate_series($2::timestamptz, $2::timestamptz + interval '1 day', '395 minutes') m`,
					window+" "+c.zone, from)
				for i, got := range strings.Fields(opens) {
					m := from.Add(time.Duration(395*i) * time.Minute)
					first := m
					for !r.open[first.Unix()] && first.Before(m.Add(72*time.Hour)) {
						first = first.Add(time.Minute)
					}
					if want := fmt.Sprint(first.Unix()); got != want {
						t.Errorf("%s %s opens after %s at %s, want %s", window, c.zone, m, got, first.UTC())
					}
				}
			}
		}
	}
}

func differ(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

// Rotations are due in their window: after a put, a rotation, and a change of the window; without one, at any time.
func TestNextRotationIsInTheWindow(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/a")
	in := func() string {
		return store.MustQuery(t, `SELECT coalesce(vault._in_window(rotation_window, next_rotation_at)::text, 'none')
			|| ' ' ||
			(next_rotation_at > rotated_at + rotation_interval * 0.9) FROM vault.secrets`)
	}
	for _, step := range []struct{ what, statement, want string }{
		{"a window is set",
			`SELECT vault.update_secret('app1/a', gen_random_uuid(), NULL, NULL, NULL, false, false, NULL,
				'02:00-02:30 Asia/Kathmandu')`, "true true"},
		{"the interval changes", `SELECT vault.update_secret('app1/a', gen_random_uuid(), NULL, '3 days', NULL)`,
			"true true"},
		{"a value is put", put("app1/a", 2, 24, 32, "00000000-0000-4000-8000-000000000001"), "true true"},
		{"the window ends",
			`SELECT vault.update_secret('app1/a', gen_random_uuid(), NULL, NULL, NULL, false, false, NULL, '')`, "none true"},
	} {
		mustAdmin(t, store, step.statement)
		if got := in(); got != step.want {
			t.Errorf("%s: got %s, want %s", step.what, got, step.want)
		}
	}
}
