package audit

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func FuzzAppendJSON(f *testing.F) {
	f.Add("client:10.1.2.3", "10.1.2.3", "prod/db/password", 7, "0190f5a6-0c4e-7b6e-8a4e-0242ac120002", "grace", true)
	f.Add("", "", "", 0, "", "", false)
	f.Add("role:\x1b[31m\"\\<>&\u2028", "::1", "\xff\x00", -1, "not-a-uuid", "\u00e9", true)
	f.Fuzz(func(t *testing.T, actor, client, secret string, version int, request, match string, valid bool) {
		e := Event{At: time.Date(2026, 11, 26, 3, 4, 5, 678900000, time.UTC), Actor: actor, Client: client, Action: Verify,
			Secret: secret, Version: version, Outcome: OK, RequestID: request}
		if valid {
			e.Detail = map[string]any{"match": match, "valid": valid, "version_id": uuid.UUID{1, 2, 3}, match: version}
		}
		got, err := e.AppendJSON([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		e.Actor, e.Client, e.Secret, e.RequestID = Printable(e.Actor), Printable(e.Client), Printable(e.Secret),
			Printable(e.RequestID)
		if valid {
			e.Detail = printable(e.Detail).(map[string]any)
		}
		want, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decoded(t, want), decoded(t, got[len("before"):])); diff != "" {
			t.Errorf("it differs from what encoding/json writes (-want +got):\n%s", diff)
		}
	})
}

func decoded(t *testing.T, text []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%q is not JSON: %v", text, err)
	}
	return v
}

func TestAppendJSONOfWhatHasNone(t *testing.T) {
	if got, err := (Event{Detail: map[string]any{"x": make(chan int)}}).AppendJSON(nil); err == nil {
		t.Errorf("got %q, want an error", got)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e := Event{At: time.Now(), Actor: "client:127.0.0.1", Client: "127.0.0.1", Action: Read, Secret: "prod/db/password",
		Version: 3, Outcome: OK, RequestID: uuid.NewString()}
	ofApp := e
	ofApp.Actor = "app:billing"
	ofApp.Detail = map[string]any{"credential": uuid.NewString(), "via": "token", "api": "native"}
	for name, e := range map[string]Event{"read": e, "read by an app": ofApp} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				var err error
				if dst, err = e.AppendJSON(dst[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
