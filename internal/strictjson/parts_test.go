package strictjson

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// shape writes a value in a canonical way.
func shape(v Value) string {
	if members, ok := v.Members(); ok {
		var all []string
		for _, m := range members {
			all = append(all, fmt.Sprintf("%s:%s", m.Name, shape(m.Value)))
		}
		return "{" + strings.Join(all, ",") + "}"
	}
	if elements, ok := v.Elements(); ok {
		var all []string
		for _, e := range elements {
			all = append(all, shape(e))
		}
		return "[" + strings.Join(all, ",") + "]"
	}
	if text, ok := v.Text(); ok {
		return string(text)
	}
	return "=" + string(v.Raw())
}

func TestDocuments(t *testing.T) {
	for text, want := range map[string]string{
		"":    "",
		" \n": "",
		`{}`:  "1{}",
		`{"a":"b"}` + "\n" + `{"c":[1,-2.5e3,true,null,{"d":"\u00e4"}]}`: "1{a:b} 2{c:[=1,=-2.5e3,=true,=null,{d:ä}]}",
		"\n\n[ ]{ }\"x\"":             "3[] 3{} 3x",
		` { "a" : { } , "b" : [ ] } `: "1{a:{},b:[]}",
	} {
		values, err := Documents([]byte(text))
		var got []string
		for _, v := range values {
			got = append(got, fmt.Sprintf("%d%s", v.Line(), shape(v)))
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestDocumentsRefuses(t *testing.T) {
	for _, text := range []string{`{`, `{"a":1,}`, `{"a":1,"a":2}`, `{"a" "hunter2"}`, `[1,]`, `hunter2`, `{"a":"\ud800"}`,
		"\"\xff\"", strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1), `{"a":01}`, `"a`} {
		if values, err := Documents([]byte(text)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%.40q: got %d values, %v, want an error that repeats nothing", text, len(values), err)
		}
	}
}

func TestDocumentsSaysWhereAndWhatIsWrong(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth+1)
	for text, want := range map[string]string{
		"{\n \"a\": \"hunter2\",\n \"b\": 1,\n \"ä\": 2, \"b\": 3, \"b\": 4}": "4:10 a name is twice in one object",
		`{"x":{"a":1},"\u0078":2}`:  "1:14 a name is twice in one object",
		`{"a": [1, {"b": "hunter2"`: "1:26 " + cutShort, `{"a": "hunter2`: "1:15 " + cutShort, "{": "1:2 " + cutShort,
		"[tru": "1:5 " + cutShort, "[-": "1:3 " + cutShort, "{\"a\":1\n": "2:1 " + cutShort, "[1,": "1:4 " + cutShort,
		`{"a":"\`: "1:8 " + cutShort, `{"a":"\u00`: "1:8 the text ends inside an escape",
		`["\u0"]`: "1:4 want four hexadecimal digits", `["\u00e`: "1:4 the text ends inside an escape",
		"hunter2: x": `1:1 not JSON, perhaps YAML: a document begins with "{" or "["`,
		"---\na: b":  `1:1 not JSON, perhaps YAML: a document begins with "{" or "["`,
		"{}\n# b":    `2:1 not JSON, perhaps YAML: a document begins with "{" or "["`,
		"{a: 1}":     `1:2 want a name in "..."`, `{"a":1,}`: `1:8 want a name in "..."`, `{"a" 1}`: `1:6 want ":"`,
		"{\n\"a\": hunter2}": "2:6 want a JSON value", `{"a":1 "b":2}`: `1:8 want "," or "}"`,
		`[1 2]`:    `1:4 want "," or "]"`,
		`{"a":01}`: `1:7 want "," or "}"`, `[1.x]`: "1:4 want a digit", `[1ex]`: "1:4 want a digit",
		`[trux]`:         "1:2 want a JSON value",
		deep:             fmt.Sprintf("1:%d objects and arrays are nested deeper than %d levels", MaxDepth+1, MaxDepth),
		"\"ä\xff\"":      "1:3 not valid UTF-8",
		`{"a":"\ud800"}`: "1:13 half of a surrogate pair",
		"[\"a\tb\"]":     "1:4 a control character in a string, want an escape",
	} {
		_, err := Documents([]byte(text))
		var at *PlaceError
		if !errors.As(err, &at) {
			t.Errorf("%q: got %v, want a place", text, err)
		} else if got := fmt.Sprintf("%d:%d %s", at.Line, at.Column, at.What); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func FuzzDocuments(f *testing.F) {
	for _, text := range []string{`{"a":[1,{"b":"c"}]} null`, `{"a":"\ud83d\ude00"}`, `[[],{}]`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		values, err := Documents(text)
		for _, v := range values {
			if shape(v) == "=" {
				t.Errorf("%q: a value without a text: %v", text, err)
			}
			if object := len(v.Raw()) > 0 && v.Raw()[0] == '{'; object != IsObject(v.Raw()) {
				t.Errorf("%q: IsObject says %t of %q", text, !object, v.Raw())
			}
		}
	})
}
