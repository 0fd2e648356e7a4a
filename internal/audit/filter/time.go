package filter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/lazyregexp"
)

// Moments returns examples of values of since: and until:, for completion.
func Moments() []string {
	return []string{"-15m", "-1h", "-2h", "-24h", "-7d", "-30d", "today", "yesterday", "monday"}
}

var (
	agoForm  = lazyregexp.New(`\A-(?:[0-9]{1,7}[mhdw])+\z`)
	agoPart  = lazyregexp.New(`([0-9]+)([mhdw])`)
	weekdays = []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

	dateLayout    = "2006-01-02"
	timeLayouts   = []string{"15:04", "15:04:05"} // of today
	momentLayouts = []string{"2006-01-02T15:04", "2006-01-02T15:04:05"}
)

// Moment resolves one time as since: reads it.
func Moment(text string, now time.Time) (time.Time, error) {
	t, err := Term{Key: Since, Text: text}.moment(now)
	return t.Time, err
}

// capitalUnit is refused: M means months elsewhere, and with minutes the result would miss most events.
var capitalUnit = lazyregexp.New(`^-[0-9a-zA-Z]*[0-9][a-z]*[A-Z]`)

// moment resolves a time. For until: a whole day ends where the next one begins.
func (t Term) moment(now time.Time) (Term, error) {
	if capitalUnit().MatchString(t.Text) {
		return t, fmt.Errorf("%s: takes units in small letters (-30m is minutes; there is none for months), not %q", t.Key,
			t.Text)
	}
	if t.Text == "" || t.Text[0] < '0' || t.Text[0] > '9' { // 2026-11-25T10:00Z keeps its case
		t.Text = strings.ToLower(t.Text)
	}
	at, whole, ok := resolve(t.Text, now)
	if !ok {
		return t, fmt.Errorf("%s: takes a time such as -2h, -7d, 2026-11-25, 2026-11-25T10:00, 10:00, today, "+
			"yesterday or monday, not %q", t.Key, t.Text)
	}
	if whole && t.Key == Until {
		at = at.AddDate(0, 0, 1)
	}
	if at.Year() < 1970 || at.Year() > 9999 {
		return t, fmt.Errorf("%s: lies outside the years 1970 to 9999", t.Key)
	}
	t.Time = at
	return t, nil
}

// resolve also reports whether the text is a whole day.
func resolve(text string, now time.Time) (at time.Time, whole, ok bool) {
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	switch {
	case text == "now":
		return now, false, true
	case text == "today":
		return today, true, true
	case text == "yesterday":
		return today.AddDate(0, 0, -1), true, true
	case slices.Contains(weekdays, text): // the last one that is over or has begun, but not today
		back := (int(today.Weekday()) - slices.Index(weekdays, text) + 6) % 7
		return today.AddDate(0, 0, -back-1), true, true
	case agoForm().MatchString(text):
		return ago(text, now), false, true
	}
	if at, err := time.ParseInLocation(dateLayout, text, now.Location()); err == nil {
		return at, true, true
	}
	for _, layout := range timeLayouts {
		if at, err := time.ParseInLocation(dateLayout+" "+layout, today.Format(dateLayout)+" "+text,
			now.Location()); err == nil {
			return at, false, true
		}
	}
	for _, layout := range momentLayouts {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, false, true
		}
		if at, err := time.Parse(layout+"Z07:00", text); err == nil {
			return at.In(now.Location()), false, true
		}
	}
	return time.Time{}, false, false
}

// ago reads -1d12h: days and weeks are the calendar's, so that -1d is the same time yesterday when the clocks changed.
func ago(text string, now time.Time) time.Time {
	at := now
	for _, part := range agoPart().FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(part[1]) // at most 7 digits
		switch part[2] {
		case "w":
			at = at.AddDate(0, 0, -7*n)
		case "d":
			at = at.AddDate(0, 0, -n)
		case "h":
			at = at.Add(-time.Duration(n) * time.Hour)
		case "m":
			at = at.Add(-time.Duration(n) * time.Minute)
		}
	}
	return at
}
