package strictjson

import (
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
