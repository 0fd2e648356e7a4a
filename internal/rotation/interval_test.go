package rotation

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseInterval(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0":             0,
		"0s":            0,
		"0d":            0,
		"30d":           30 * 24 * time.Hour,
		"1w2d":          9 * 24 * time.Hour,
		"2d1w":          9 * 24 * time.Hour,
		"36h":           36 * time.Hour,
		"1d12h":         36 * time.Hour,
		"90m":           90 * time.Minute,
		"1h1h":          2 * time.Hour,
		"007d":          7 * 24 * time.Hour,
		"1.5h":          90 * time.Minute,
		".5h":           30 * time.Minute,
		"1d0.5s":        24*time.Hour + 500*time.Millisecond,
		"1s2ms3us4ns":   1002003004,
		"5µs6μs":        11 * time.Microsecond,
		"3650d":         maxInterval,
		"521w3d":        maxInterval,
		"87600h":        maxInterval,
		"3649d23h3600s": maxInterval,
	} {
		got, err := ParseInterval(in)
		if err != nil || got != want {
			t.Errorf("ParseInterval(%q): got %v, %v, want %v", in, got, err, want)
		}
	}
}

func TestParseIntervalRefuses(t *testing.T) {
	const examples = " (examples: 30d, 1w2d, 1d12h, 90m)"
	for in, why := range map[string]string{
		"":                           "empty",
		"-1d":                        "a sign is not allowed",
		"+1d":                        "a sign is not allowed",
		"-0":                         "a sign is not allowed",
		"1d-2h":                      errIntervalUnit.Error(), // the unit would be "d-"
		"30":                         errIntervalUnit.Error(),
		"00":                         errIntervalUnit.Error(),
		"1d12":                       errIntervalUnit.Error(),
		"1mo":                        errIntervalUnit.Error(),
		"1y":                         errIntervalUnit.Error(),
		"30D":                        errIntervalUnit.Error(),
		"30 d":                       errIntervalUnit.Error(),
		"30d ":                       errIntervalUnit.Error(),
		"1e3s":                       errIntervalUnit.Error(),
		"1\xffs":                     errIntervalUnit.Error(),
		"٣d":                         "not a number and a unit",
		" 30d":                       "not a number and a unit",
		"d":                          "not a number and a unit",
		".d":                         "not a number and a unit",
		".h":                         "not a number and a unit",
		"1.2.3h":                     "not a number and a unit",
		"monthly":                    "not a number and a unit",
		"1.5d":                       "days and weeks are whole numbers",
		"0.5w":                       "days and weeks are whole numbers",
		"1.d":                        "days and weeks are whole numbers",
		"3651d":                      "longer than 3650d",
		"522w":                       "longer than 3650d",
		"521w4d":                     "longer than 3650d",
		"3650d1ns":                   "longer than 3650d",
		"87601h":                     "longer than 3650d",
		"9223372036854775807ns":      "longer than 3650d",
		"99999999999999999999h":      "longer than 3650d",
		"99999999999999999999d":      "longer than 3650d",
		"9223372036854775807w":       "longer than 3650d",
		"3650d9223372036854775807ns": "longer than 3650d", // the sum would wrap around
		"213504d":                    "longer than 3650d", // so would this product, to 25 minutes
	} {
		got, err := ParseInterval(in)
		want := "interval " + strconv.Quote(in) + ": " + why + examples
		if err == nil || err.Error() != want {
			t.Errorf("ParseInterval(%q):\ngot  %v, %v\nwant %v", in, got, err, want)
		}
	}
}

func TestParseIntervalQuotesOnlyTheStartOfALongInput(t *testing.T) {
	_, err := ParseInterval(strings.Repeat("x", 1<<20))
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("got %d bytes of error, want at most 200", len(err.Error()))
	}
}

func TestFormatInterval(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                            "0s",
		time.Nanosecond:              "1ns",
		1500 * time.Millisecond:      "1.5s",
		90 * time.Second:             "1m30s",
		90 * time.Minute:             "1h30m",
		time.Hour:                    "1h",
		24 * time.Hour:               "1d",
		36 * time.Hour:               "1d12h",
		7 * 24 * time.Hour:           "7d",
		30 * 24 * time.Hour:          "30d",
		24*time.Hour + 1:             "1d1ns",
		maxInterval:                  "3650d",
		-time.Hour:                   "-1h0m0s",
		time.Duration(math.MinInt64): "-2562047h47m16.854775808s",
	} {
		if got := FormatInterval(d); got != want {
			t.Errorf("FormatInterval(%d): got %q, want %q", int64(d), got, want)
		}
	}
}

func FuzzParseInterval(f *testing.F) {
	for _, s := range []string{
		"0", "30d", "1w2d", "36h", "1d12h", "90m", "1.5h", ".5s", "5.ns", "1us2µs3μs", "3650d",
		"", "-1d", "1.5d", "d", "1", "99999999999999999999h", "0.1ns", "3649d24h1ns", "\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseInterval(s)
		if err != nil {
			if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "examples: ") {
				t.Errorf("ParseInterval(%q): error %q is not one line with examples", s, err)
			}
			return
		}
		if d < 0 || d > maxInterval {
			t.Fatalf("ParseInterval(%q): got %d, want 0 to %d", s, d, maxInterval)
		}
		text := FormatInterval(d)
		again, err := ParseInterval(text)
		if err != nil || again != d {
			t.Errorf("%q is %d, written %q, read back as %d, %v", s, d, text, again, err)
		}
	})
}
