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
