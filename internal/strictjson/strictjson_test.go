package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

type decoded struct {
	value []byte
	name  *string
	cas   *int
}

func decode(body string) (decoded, error) {
	var d decoded
	err := Decode([]byte(body), Fields{"value": &d.value, "name": &d.name, "cas": &d.cas})
	return d, err
}

func TestDecode(t *testing.T) {
	for body, want := range map[string]string{
		`{"value":"a"}`:                    "a",
		" {\n\t\"value\" :\r \"a\" } \n":   "a",
		`{"value":""}`:                     "",
		`{"\u0076alue":"a"}`:               "a",
		`{"value":"\"\\\/\b\f\n\r\t"}`:     "\"\\/\b\f\n\r\t",
		`{"value":"\u0000\u00e4\uFFFD"}`:   "\x00ä\uFFFD",
		`{"value":"\ud83d\ude00"}`:         "😀",
		`{"value":"ä😀"}`:                   "ä😀",
		`{"name":"x","value":"a","cas":7}`: "a",
		`{"value":"}\\"}`:                  `}\`,
	} {
		d, err := decode(body)
		if err != nil || d.value == nil || string(d.value) != want {
			t.Errorf("%s: got %q, %v, want %q", body, d.value, err, want)
		}
	}
	d, err := decode(`{"cas":2147483647,"name":"x"}`)
	if err != nil || d.value != nil || *d.cas != 2147483647 || *d.name != "x" {
		t.Errorf("got %+v, %v", d, err)
	}
	if d, err := decode(`{}`); err != nil || d.value != nil || d.name != nil || d.cas != nil {
		t.Errorf("the empty object: got %+v, %v, want all absent", d, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for why, bodies := range map[string][]string{
		"no object": {``, ` `, `null`, `"hunter2"`, `[]`, `["value"]`, `1`, `true`, "\xef\xbb\xbf{}"},
		"unfinished": {`{`, `{"`, `{"value`, `{"value"`, `{"value":`, `{"value":"`, `{"value":"a`, `{"value":"a"`,
			`{"value":"a",`, `{"value":"\`, `{"value":"\"`, `{"value":"\u`, `{"value":"\u00`, `{"cas":`, `{"cas":1`},
		"trailing data": {`{} {}`, `{"value":"a"}x`, `{"value":"a"},`, `{}null`, "{}\x00"},
		"a name twice":  {`{"value":"a","value":"hunter2"}`, `{"value":"a","\u0076alue":"hunter2"}`, `{"cas":1,"cas":1}`},
		"unknown field": {`{"hunter2":"a"}`, `{"Value":"a"}`, `{"VALUE":"a"}`, `{"":"a"}`, `{"value ":"a"}`,
			`{"value\u0000":"a"}`, `{"ｖalue":"a"}`},
		"wrong type": {`{"value":null}`, `{"value":1}`, `{"value":true}`, `{"value":["a"]}`, `{"value":{"value":"a"}}`,
			`{"name":null}`, `{"cas":"1"}`, `{"cas":null}`, `{value:"a"}`, `{"value":'a'}`},
		"odd numbers": {`{"cas":-1}`, `{"cas":01}`, `{"cas":1.0}`, `{"cas":1e3}`, `{"cas":2147483648}`,
			`{"cas":99999999999999999999}`, `{"cas":+1}`, `{"cas":}`, `{"cas":0x1}`, `{"cas":-0}`},
		"commas": {`{,}`, `{"value":"a",}`, `{,"value":"a"}`, `{"value":"a" "cas":1}`, `{"value" "a"}`},
		"escapes": {`{"value":"\x41"}`, `{"value":"\u12g4"}`, `{"value":"\u 123"}`, `{"value":"\U0041"}`,
			`{"value":"\'"}`, `{"value":"\u12"}`, `{"value":"\u+123"}`},
		"control bytes": {"{\"value\":\"a\nb\"}", "{\"value\":\"a\x00\"}", "{\"value\":\"\t\"}"},
		"half surrogate": {`{"value":"\ud800"}`, `{"value":"\udc00"}`, `{"value":"\ud800a"}`, `{"value":"\ud800\u0041"}`,
			`{"value":"\udc00\ud800"}`, `{"value":"\ud800\ud800"}`, `{"value":"\ud800\n"}`},
		"broken utf-8": {"{\"value\":\"\xff\"}", "{\"value\":\"\xc0\xaf\"}", "{\"value\":\"\xed\xa0\x80\"}",
			"{\"value\xff\":\"a\"}", "{}\xff"},
		"white space": {"{\u00a0}", "{\v}", "\f{}", "\u2028{}"},
		"comments":    {`{/**/}`, `{}//`, `{} #`},
	} {
		for _, body := range bodies {
			d, err := decode(body)
			if err == nil {
				t.Errorf("%s: %q gives %+v, want a refusal", why, body, d)
				continue
			}
			if strings.Contains(err.Error(), "hunter2") || why == "broken utf-8" != errors.Is(err, ErrUTF8) {
				t.Errorf("%s: %q gives %q, want what is wrong and nothing of what was given", why, body, err)
			}
		}
	}
}

// The standard decoder accepts every accepted text and reads the same; both read back written texts.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{}`, `{"value":"a","cas":1}`, `{"value":"\ud83d\ude00\u0000"}`, `{"value":"\ud800"}`,
		`{"name":"\\\"","value":""}`, `{"Value":"a"}`, "\x00", `{"value":"a"} x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if d, err := decode(string(body)); err == nil {
			var std map[string]any
			if err := json.Unmarshal(body, &std); err != nil {
				t.Fatalf("%q was accepted, but %v", body, err)
			}
			if v, ok := std["value"]; ok != (d.value != nil) || ok && v != string(d.value) {
				t.Errorf("%q: got value %q, want %q", body, d.value, v)
			}
			if v, ok := std["name"]; ok != (d.name != nil) || ok && v != *d.name {
				t.Errorf("%q: got name %v, want %q", body, d.name, v)
			}
			if v, ok := std["cas"]; ok != (d.cas != nil) || ok && v != float64(*d.cas) {
				t.Errorf("%q: got cas %v, want %v", body, d.cas, v)
			}
		}
		if !utf8.Valid(body) {
			return
		}
		written := append(AppendString([]byte(`{"value":`), body), '}')
		var std struct{ Value string }
		if err := json.Unmarshal(written, &std); err != nil || std.Value != string(body) {
			t.Errorf("%q was written as %s, which reads as %q, %v", body, written, std.Value, err)
		}
		if d, err := decode(string(written)); err != nil || !bytes.Equal(d.value, body) {
			t.Errorf("%q was written as %s, which reads as %q, %v", body, written, d.value, err)
		}
		if got, want := StringSize(body), len(AppendString(nil, body)); got != want {
			t.Errorf("%q: got size %d, want %d", body, got, want)
		}
	})
}
