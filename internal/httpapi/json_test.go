package httpapi

import (
	"strings"
	"testing"
)

// A body that strict JSON refuses is a 400 that repeats nothing of it.
func TestDecodeObjectRefuses(t *testing.T) {
	for _, body := range []string{``, `{"value":"hunter2"`, `{"hunter2":"a"}`, `{"value":"a","value":"hunter2"}`,
		`{"value":1}`, "{\"value\":\"hunter2\xff\"}", `{} hunter2`} {
		var value []byte
		err := decodeObject([]byte(body), fields{"value": &value})
		if err == nil || outcomeOf(err).status != 400 || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q gives %v, want a 400 that does not repeat it", body, err)
		}
	}
}

// A client that misspelt a field, or sends back all that a GET answered, is told the fields that there are.
func TestAnUnknownFieldNamesTheKnownOnes(t *testing.T) {
	var value, name []byte
	err := decodeObject([]byte(`{"hunter2":"a"}`), fields{"value": &value, "name": &name})
	if want := "unknown field, known here: name, value"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want it to end in %q", err, want)
	}
}
