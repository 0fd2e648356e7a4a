package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestIsObject(t *testing.T) {
	nested := func(n int) string { return strings.Repeat(`{"a":`, n-1) + `{}` + strings.Repeat(`}`, n-1) }
	lists := func(n int) string { return `{"a":` + strings.Repeat(`[`, n-1) + strings.Repeat(`]`, n-1) + `}` }
	for _, text := range []string{
		`{}`, " \t\r\n{ } \n", `{"a":1}`, `{"a":"x","b":[1,{"a":null}],"c":{"a":true,"b":false}}`,
		`{"n":[0,-0,10,-1.5,0.0,1e9,1E+9,1e-9,123456789012345678901234567890.000000000000000000001]}`,
		`{"":""}`, `{"ä":"😀","\ud83d\ude00":"\ud83d\ude00"}`, `{"a":"\"\\\/\b\f\n\r\t\u0000"}`,
		`{"a":{"b":1},"b":{"a":1}}`, `{"a":"a","b":"a"}`, `{"A":1,"a":2}`, nested(MaxDepth), lists(MaxDepth),
	} {
		if !IsObject([]byte(text)) {
			t.Errorf("%.60s is not taken as an object", text)
		}
		if !json.Valid([]byte(text)) {
			t.Errorf("%.60s is no json", text)
		}
	}
	for why, texts := range map[string][]string{
		"no object": {``, ` `, `null`, `"a"`, `[]`, `[{}]`, `1`, `true`, "\xef\xbb\xbf{}", `a=b`, `{a:1}`, `{'a':1}`},
		"unfinished": {`{`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":"\`, `{"a":"\"`, `{"a":[`, `{"a":[1`,
			`{"a":{`},
		"trailing data": {`{} {}`, `{}x`, `{},`, "{}\x00", `{"a":1}}`},
		"a name twice": {`{"a":1,"a":1}`, `{"a":1,"b":2,"\u0061":3}`, `{"x":{"a":1,"a":2}}`, `{"x":[{"a":1,"a":2}]}`,
			`{"":1,"":2}`, `{"/":1,"\/":2}`},
		"commas": {`{,}`, `{"a":1,}`, `{"a":[1,]}`, `{"a":[,1]}`, `{"a" 1}`, `{"a":1 "b":2}`, `{"a":[1 2]}`},
		"numbers": {`{"a":01}`, `{"a":-}`, `{"a":+1}`, `{"a":.5}`, `{"a":1.}`, `{"a":1e}`, `{"a":1e+}`,
			`{"a":0x1}`, `{"a":NaN}`, `{"a":- 1}`},
		"words": {`{"a":True}`, `{"a":nul}`, `{"a":nulll}`, `{"a":undefined}`},
		"strings": {"{\"a\":\"\n\"}", `{"a":"\x41"}`, `{"a":"\u12"}`, `{"a":"\ud800"}`,
			`{"a":"\udc00\ud800"}`, `{"\ud800":1}`},
		"broken utf-8": {"{\"a\":\"\xff\"}", "{\"\xed\xa0\x80\":1}"},
		"white space":  {"{\u00a0}", "{\v}", "\f{}"},
		"comments":     {`{/**/}`, `{}//`},
		"nested too far": {nested(MaxDepth + 1), lists(MaxDepth + 1),
			strings.Repeat(`{"a":`, 10000), `{"a":` + strings.Repeat(`[`, 60000)},
	} {
		for _, text := range texts {
			if IsObject([]byte(text)) {
				t.Errorf("%s: %.60q is taken as an object", why, text)
			}
		}
	}
}

// In an object of as many names as a value can hold, one that is there twice is found.
func TestIsObjectOfManyNames(t *testing.T) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range 7000 {
		fmt.Fprintf(&b, `"%x":0,`, i*7919%100003)
	}
	if !IsObject(append(bytes.Clone(b.Bytes()), `"z":0}`...)) {
		t.Error("an object of different names is not taken")
	}
	if IsObject(append(bytes.Clone(b.Bytes()), `"1eef":0}`...)) {
		t.Error("an object with a name twice is taken")
	}
}

// What is an object here is one for encoding/json, with the same members.
func FuzzIsObject(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":[1,{"b":null}],"c":"\ud83d\ude00"}`, `{"a":1,"a":2}`, `{"a":-0.0e+1}`,
		` {"":true} `, `{"\u0061":1,"a":2}`, `[]`, `{"a":"\`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		is := IsObject(text)
		if !bytes.Equal(before, text) {
			t.Fatalf("%q was changed to %q", before, text)
		}
		var members map[string]json.RawMessage
		err := json.Unmarshal(text, &members)
		if is && (err != nil || members == nil) {
			t.Fatalf("%q is taken as an object; encoding/json: %v", text, err)
		}
	})
}
