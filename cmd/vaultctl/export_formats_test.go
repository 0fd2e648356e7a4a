package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/vault"
)

// mustFormat returns the output of a format, and the reasons of the secrets that it cannot hold.
func mustFormat(t *testing.T, o exportOptions, secrets ...string) (text string, refused []string) {
	t.Helper()
	format := o.formatter()
	text = format.begin()
	for i := 0; i < len(secrets); i += 2 {
		e := vault.Exported{Secret: vault.Secret{Name: secrets[i], Value: []byte(secrets[i+1])}}
		line, err := format.append(make([]byte, 0, longestLine), e)
		if err != nil {
			refused = append(refused, err.Error())
			continue
		}
		text += string(line)
	}
	return text + format.end(), refused
}

func TestExportDotenvIsReadAlike(t *testing.T) {
	values := []string{"", "plain", "it's", "two\nlines\n", `$HOME #"x"`, "ä", "a=b", " blanks "}
	var secrets []string
	for i, v := range values {
		secrets = append(secrets, "prod/app/key-"+string(rune('a'+i)), v)
	}
	text, refused := mustFormat(t, exportOptions{format: "dotenv", prefix: "prod/app/"}, secrets...)
	if len(refused) > 0 {
		t.Fatalf("got %q refused", refused)
	}
	var got []string
	for _, line := range dotenvOf(t, text) {
		_, pair, _ := strings.Cut(line, " ")
		got = append(got, pair)
	}
	var want []string
	for i, v := range values {
		want = append(want, "KEY_"+string(rune('A'+i))+"="+v)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("import of the export (-want +got):\n%s", diff)
	}
	_, refused = mustFormat(t, exportOptions{format: "dotenv"}, "a", "\xff", "1a", "x", "b", "'${", "c.d", "x", "c-d", "y",
		"e", "a\x00b")
	wantEntries(t, "refused", refused, "its value is not text", "its name makes no variable's name",
		"no spelling of its value is read alike...", `it would be C_D, as "c.d" is`, "no spelling of its value...")
}

func TestExportJSON(t *testing.T) {
	for _, secrets := range [][]string{{"a", "x"}, {"a", "\"\\\n\x01ä", "b/c", ""}} {
		text, refused := mustFormat(t, exportOptions{format: "json"}, secrets...)
		var got map[string]string
		if err := json.Unmarshal([]byte(text), &got); err != nil || len(refused) > 0 {
			t.Fatalf("%q: %v, %q refused", text, err, refused)
		}
		for i := 0; i < len(secrets); i += 2 {
			if got[secrets[i]] != secrets[i+1] {
				t.Errorf("%q: got %q, want %q", secrets[i], got[secrets[i]], secrets[i+1])
			}
		}
	}
	text, refused := mustFormat(t, exportOptions{format: "json"}, "a", "\xff", "b", "x")
	if text != "{\n  \"b\": \"x\"\n}\n" || len(refused) != 1 {
		t.Errorf("got %q and %q", text, refused)
	}
}

func TestExportKubernetes(t *testing.T) {
	o := exportOptions{format: "kubernetes", name: "app", prefix: "prod/app/"}
	text, refused := mustFormat(t, o, "prod/app/db/password", "a\x00\xff", "prod/app/db.password", "y",
		"prod/app/k@x", "z")
	var got struct {
		APIVersion, Kind, Type string
		Metadata               struct{ Name string }
		Data                   map[string][]byte
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if got.APIVersion != "v1" || got.Kind != "Secret" || got.Type != "Opaque" || got.Metadata.Name != "app" ||
		len(got.Data) != 1 || string(got.Data["db.password"]) != "a\x00\xff" {
		t.Errorf("got %+v", got)
	}
	wantEntries(t, "refused", refused, `it would be db.password, as "prod/app/db/password" is`,
		"its name makes no key of a Secret")
}
