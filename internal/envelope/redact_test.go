package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// assertShowsNone fails if output shows any of the secrets. It never prints the output.
func assertShowsNone(t *testing.T, output string, secrets ...[]byte) {
	t.Helper()
	for i, secret := range secrets {
		if how := shownAs(output, secret); how != "" {
			t.Errorf("shows secret %d as %s", i, how)
		}
	}
}

// shownAs looks for four bytes in a row of secret in the ways in which Go prints bytes, and
// returns which of them it found, or "".
func shownAs(output string, secret []byte) string {
	list := func(format string, b []byte) string { return strings.Trim(fmt.Sprintf(format, b), "[]") }
	lower := strings.ToLower(output)
	for i := 0; i+4 <= len(secret); i++ {
		b := secret[i : i+4]
		for how, shown := range map[string]string{
			"text":           string(b),
			"quoted text":    strings.Trim(fmt.Sprintf("%q", b), `"`),
			"hex":            hex.EncodeToString(b),
			"spaced hex":     fmt.Sprintf("% x", b),
			"Go syntax":      strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte{"), "}"),
			"decimal":        list("%d", b),
			"a decimal list": strings.ReplaceAll(list("%d", b), " ", ","),
			"octal":          list("%o", b),
			"binary":         list("%b", b),
			"code points":    list("%U", b),
		} {
			if strings.Contains(lower, strings.ToLower(shown)) {
				return how
			}
		}
	}
	if strings.Contains(output, base64.RawStdEncoding.EncodeToString(secret)[:8]) {
		return "base64"
	}
	return ""
}

type holder struct {
	Key      DataKey
	KeyPtr   *DataKey
	Value    Plaintext
	ValuePtr *Plaintext
	Any      any
	Keys     []DataKey
	Values   map[string]Plaintext
}

// nested returns the two secrets in every shape in which code may come to hold them.
func nested(dk *DataKey, p Plaintext) map[string]any {
	h := holder{*dk, dk, p, &p, p, []DataKey{*dk}, map[string]Plaintext{"a": p}}
	return map[string]any{
		"key":              *dk,
		"key pointer":      dk,
		"plaintext":        p,
		"plaintext ptr":    &p,
		"slice of keys":    []DataKey{*dk},
		"slice of ptrs":    []*DataKey{dk},
		"array":            [1]Plaintext{p},
		"slice of any":     []any{*dk, dk, p, &p},
		"map value":        map[string]any{"k": *dk, "v": p},
		"map key":          map[DataKey]string{*dk: "x"},
		"struct":           h,
		"struct pointer":   &h,
		"struct in struct": struct{ H holder }{h},
		"anonymous":        struct{ V any }{&p},
		"embedded":         struct{ Plaintext }{p},
		"error":            fmt.Errorf("opening %v under %v", p, dk),
		"wrapped error":    fmt.Errorf("get: %w", fmt.Errorf("opening %x under %#v", p, *dk)),
		"joined error":     errors.Join(fmt.Errorf("%q", p), fmt.Errorf("%s", dk)),
		"error in struct":  struct{ Err error }{fmt.Errorf("%v", h)},
	}
}

func printable() (*DataKey, Plaintext) {
	dk, p := new(DataKey), Plaintext("Tr0ub4dor&3 is not 'it'")
	for i := range dk {
		dk[i] = byte(0x41 + 5*i) // printable ones and others
	}
	return dk, p
}

func TestEveryVerbRedacts(t *testing.T) {
	dk, p := printable()
	// Not %T, which prints the type, nor %p and %w, about which fmt does not ask the value.
	const verbs = "abcdefghijklmnoqrstuvxyzABCDEFGHIJKLMNOPQRSUVWXYZ!%"
	for shape, v := range nested(dk, p) {
		t.Run(shape, func(t *testing.T) {
			for _, flags := range []string{"", "+", "#", "# ", "0", "-40.3"} {
				var printed strings.Builder
				for _, verb := range verbs {
					fmt.Fprintf(&printed, "%"+flags+string(verb)+"\n", v)
				}
				assertShowsNone(t, printed.String(), dk[:], p)
			}
			assertShowsNone(t, fmt.Sprint(v)+fmt.Sprintln(v)+string(fmt.Append(nil, v)), dk[:], p)
			noVerb := "the report of an extra argument prints it too"
			//lint:ignore SA5009 the extra argument is what is tested
			assertShowsNone(t, fmt.Sprintf(noVerb, v), dk[:], p)
		})
	}
}

// In an unexported field fmt asks no method: a pointer shows its address and no more, under the
// verbs that a holder can be printed with.
func TestUnexportedPointerShowsNoKey(t *testing.T) {
	dk, p := printable()
	v := struct {
		key   *DataKey
		value *Plaintext
	}{dk, &p}
	for _, format := range []string{"%v", "%+v", "%#v"} {
		assertShowsNone(t, fmt.Sprintf(format, v)+fmt.Sprintf(format, &v)+fmt.Sprintf(format, []any{v}), dk[:], p)
	}
}

func TestLogsAndEncodersRedact(t *testing.T) {
	dk, p := printable()
	for shape, v := range nested(dk, p) {
		t.Run(shape, func(t *testing.T) {
			var logged bytes.Buffer
			for _, handler := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
				log := slog.New(handler)
				log.Info("m", "v", v)
				log.With("v", v).WithGroup("g").Info("m", slog.Group("h", "v", v))
			}
			if logged.Len() == 0 {
				t.Fatal("nothing was logged")
			}
			assertShowsNone(t, logged.String(), dk[:], p)

			encoded, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			assertShowsNone(t, string(encoded), dk[:], p)
		})
	}
}

func TestPlaceholders(t *testing.T) {
	dk, p := printable()
	for want, v := range map[string]any{"[data key]": dk, "[plaintext]": p} {
		for _, format := range []string{"%v", "%s", "%x", "%#v", "%d", "%q"} {
			if got := fmt.Sprintf(format, v); got != want {
				t.Errorf("%s: got %q, want %q", format, got, want)
			}
		}
		encoded, err := json.Marshal(map[string]any{"v": v})
		if got, want := string(encoded), `{"v":"`+want+`"}`; err != nil || got != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
}

// The checker above must be able to fail: it finds the same bytes without their type.
func TestRedactionCheckerSeesBareBytes(t *testing.T) {
	_, p := printable()
	bare := []byte(p)
	encoded, err := json.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	shown := []string{string(encoded)}
	for _, format := range []string{"%v", "%s", "%x", "% x", "%X", "%#v", "%q", "%o", "%b", "%U", "%d"} {
		shown = append(shown, fmt.Sprintf(format, bare))
	}
	for _, output := range shown {
		if shownAs(output, bare) == "" {
			t.Errorf("does not notice %s", output)
		}
	}
}
