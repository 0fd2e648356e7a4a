package rotation

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxInterval is the longest interval ParseInterval accepts: 3650 days, about ten years. A
// longer one is far more likely a slip of the unit than a plan.
const maxInterval = 3650 * day

const (
	day  = 24 * time.Hour
	week = 7 * day
)

var (
	errIntervalTooLong = errors.New("longer than 3650d")
	errIntervalUnit    = errors.New("every number needs a unit: w, d, h, m, s, ms, us or ns")
)

// ParseInterval reads a span of time as people write it: the syntax of time.ParseDuration
// plus "d" (24 hours) and "w" (7 days), in any order, for example "30d", "1w2d", "1d12h",
// "90m" or "0". Days and weeks are whole numbers; the other units may have a fraction
// ("1.5h"). The result is between 0 and maxInterval.
//
// A sign, white space, an unknown or missing unit and a fraction of a day or a week are
// refused. So are months and years, which have no fixed length.
func ParseInterval(s string) (time.Duration, error) {
	d, err := parseInterval(s)
	if err != nil {
		return 0, fmt.Errorf("interval %.64q: %w (examples: 30d, 1w2d, 1d12h, 90m)", s, err)
	}
	return d, nil
}

func parseInterval(s string) (time.Duration, error) {
	switch {
	case s == "":
		return 0, errors.New("empty")
	case s == "0":
		return 0, nil
	case s[0] == '-' || s[0] == '+':
		return 0, errors.New("a sign is not allowed")
	}
	var total time.Duration
	for s != "" {
		number, unit, rest := cutTerm(s)
		d, err := parseTerm(number, unit)
		if err != nil {
			return 0, err
		}
		// Both are at most maxInterval here, so their sum cannot overflow.
		if total += d; total > maxInterval {
			return 0, errIntervalTooLong
		}
		s = rest
	}
	return total, nil
}

// cutTerm splits the first number and its unit off s: "1.5h30m" gives "1.5", "h", "30m".
func cutTerm(s string) (number, unit, rest string) {
	isNumber := func(r rune) bool { return r == '.' || '0' <= r && r <= '9' }
	number = s
	if i := strings.IndexFunc(s, func(r rune) bool { return !isNumber(r) }); i >= 0 {
		number = s[:i]
	}
	unit = s[len(number):]
	if i := strings.IndexFunc(unit, isNumber); i >= 0 {
		unit = unit[:i]
	}
	return number, unit, s[len(number)+len(unit):]
}

func parseTerm(number, unit string) (time.Duration, error) {
	if strings.Count(number, ".") > 1 || strings.Trim(number, ".") == "" {
		return 0, errors.New("not a number and a unit")
	}
	switch unit {
	case "d":
		return wholeUnits(number, day)
	case "w":
		return wholeUnits(number, week)
	case "ns", "us", "µs", "μs", "ms", "s", "m", "h":
		// The syntax has been checked, so overflow is all that can still be wrong.
		d, err := time.ParseDuration(number + unit)
		if err != nil || d > maxInterval {
			return 0, errIntervalTooLong
		}
		return d, nil
	}
	return 0, errIntervalUnit
}

func wholeUnits(number string, unit time.Duration) (time.Duration, error) {
	if strings.Contains(number, ".") {
		return 0, errors.New("days and weeks are whole numbers")
	}
	n, err := strconv.Atoi(number)
	if err != nil || n > int(maxInterval/unit) {
		return 0, errIntervalTooLong
	}
	return time.Duration(n) * unit, nil
}

// FormatInterval writes d in days, hours, minutes and seconds, leaving out what is zero:
// "30d", "1d12h", "1h30m", "0s". ParseInterval reads the result back as exactly d, for d
// between 0 and maxInterval. Weeks are not written, because "30d" is easier to compare with
// "14d" than with "2w". A negative d, which no interval is, gets time.Duration's notation.
func FormatInterval(d time.Duration) string {
	if d <= 0 {
		return d.String()
	}
	var b []byte
	for _, u := range []struct {
		name string
		size time.Duration
	}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}} {
		if n := d / u.size; n > 0 {
			b = strconv.AppendInt(b, int64(n), 10)
			b = append(b, u.name...)
			d -= n * u.size
		}
	}
	if d > 0 {
		b = append(b, d.String()...)
	}
	return string(b)
}
