// Package format_test holds docs/FORMAT.md against two implementations that share no code: this module's packages, and
// docs/format/format.py, which was written from the document.
package format_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms"
)

// hexBytes is written as hexadecimal, with or without PostgreSQL's \x.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(bytes.TrimPrefix(text, []byte(`\x`))))
	return err
}

type vector struct {
	KEK       hexBytes `json:"kek"`
	ClusterID string   `json:"cluster_id"`
	DataKey   hexBytes `json:"data_key"`
	WrapNonce hexBytes `json:"wrap_nonce"`
	WrapAAD   hexBytes `json:"wrap_aad"`
	Nonce     hexBytes `json:"nonce"`
	Value     hexBytes `json:"value"`
	Row       struct {
		Name       string   `json:"name"`
		Version    int      `json:"version"`
		Format     int      `json:"fmt"`
		KMSKeyID   string   `json:"kms_key_id"`
		WrappedDEK hexBytes `json:"wrapped_dek"`
		Nonce      hexBytes `json:"nonce"`
		Ciphertext hexBytes `json:"ciphertext"`
		KeyCommit  hexBytes `json:"key_commit"`
		AAD        string   `json:"aad"`
	} `json:"row"`
}

// The vectors were made by format.py. This module opens them with the key file and nothing else.
func TestRowsOfTheOtherProgramOpen(t *testing.T) {
	text, err := os.ReadFile("../../docs/format/vectors.json")
	must(t, err)
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var vectors []vector
	must(t, decoder.Decode(&vectors))
	if len(vectors) < 2 {
		t.Fatalf("got %d vectors, want at least 2", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Row.AAD, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "kek")
			must(t, os.WriteFile(path, v.KEK, 0o600))
			keys, err := kms.OpenKeyring(t.Context(), []string{"local://" + path})
			must(t, err)
			defer keys.Close()
			if id, err := keys.Default().KeyID(t.Context()); err != nil || id != v.Row.KMSKeyID {
				t.Errorf("got key id %q, error %v, want %q", id, err, v.Row.KMSKeyID)
			}
			dk, err := keys.Unwrap(t.Context(), envelope.WrappedKey{KeyID: v.Row.KMSKeyID, Blob: v.Row.WrappedDEK},
				envelope.KeyContext{AAD: envelope.AAD(v.Row.Name, v.Row.Version), ClusterID: v.ClusterID})
			must(t, err)
			if !bytes.Equal(dk[:], v.DataKey) {
				t.Error("the wrapped key unwraps to another data key")
			}
			key, err := envelope.NewKey(dk, v.Row.Name, v.Row.Version)
			must(t, err)
			value, err := key.Open(envelope.Sealed{Format: v.Row.Format, Nonce: v.Row.Nonce, Ciphertext: v.Row.Ciphertext,
				KeyCommit: v.Row.KeyCommit, AAD: v.Row.AAD})
			must(t, err)
			if !bytes.Equal(value, v.Value) {
				t.Error("the row opens to another value")
			}
		})
	}
}

// format.py computes every vector of the repository: rows, wrapped keys, audit rows and seals.
func TestTheOtherProgramHasTheSameVectors(t *testing.T) {
	out, err := exec.Command("/usr/bin/python3", "-B", "../../docs/format/format.py", "check", "../..").CombinedOutput()
	if err != nil {
		t.Fatalf("format.py: %v\n%s\nhint: tools/install-nacl", err, out)
	}
	if !bytes.HasSuffix(out, []byte(" vectors fit\n")) {
		t.Errorf("got %q, want the number of vectors", out)
	}
}

// format.py verifies a log with rows of many reads, as this module seals and archives it. It finds a change of their
// arrays, and a row that was sealed with arrays that do not fit one another.
func TestTheOtherProgramVerifiesRowsOfManyReads(t *testing.T) {
	const earlier = `{"reads": 3, "ago": [250, 1500], "back": [1, 2], "requests": [null, null],
		"reader": [1, 2], "actors": ["client:10.0.0.7", "app:café"], "clients": ["10.0.0.7", null], "versions": [1, null],
		"details": [null, {"via": "token"}]}`
	archive := archiveOf(t, earlier)
	out, err := formatAudit(t, archive)
	if want := "1 seals fit 2 rows; 0 rows are not sealed\n"; err != nil || out != want {
		t.Fatalf("got %q, error %v, want %q", out, err, want)
	}
	sealedWith := func(old, new string) string { return archiveOf(t, strings.Replace(earlier, old, new, 1)) }
	for _, c := range []struct{ name, text, replaced, by, want string }{
		{"an actor", archive, "app:café", "app:cafe", "seal 1 does not fit its 2 rows"},
		{"the beginning", archive, `"since":"2026-11-25T09:59:59.9985Z"`, `"since":"2026-11-25T09:59:59.9984Z"`,
			"seal 1 does not fit its 2 rows"},
		{"no beginning", archive, `"since":"2026-11-25T09:59:59.9985Z",`, "", "the reads of row 2 do not fit one another"},
		{"too few reads", sealedWith(`"reads": 3`, `"reads": 2`), "", "",
			"the reads of row 2 do not fit one another"},
		{"an unknown reader", sealedWith(`[1, 2], "actors"`, `[1, 3], "actors"`), "", "",
			"the reads of row 2 do not fit one another"},
		{"not in order", sealedWith(`[250, 1500]`, `[1500, 250]`), "", "", "the reads of row 2 do not fit one another"},
	} {
		if !strings.Contains(c.text, c.replaced) {
			t.Fatalf("%s: %q is not in the archive", c.name, c.replaced)
		}
		out, err := formatAudit(t, strings.Replace(c.text, c.replaced, c.by, 1))
		if want := "format.py: " + c.want + "\n"; err == nil || out != want {
			t.Errorf("%s: got %q, error %v, want %q", c.name, out, err, want)
		}
	}
}

// archiveOf is an archive with a seal over a row of one event and a row of many reads.
func archiveOf(t *testing.T, earlier string) string {
	t.Helper()
	cluster := uuid.MustParse("00000000-0000-4000-8000-00000000ca0a")
	at := seal.Moment{Time: time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)}
	event := seal.Row{ID: 1, SystemID: 7, Tx: 100, At: at, RecordedAt: at, Actor: "token:root", DBRole: "operator",
		Action: "put", Outcome: "ok", Detail: json.RawMessage(`{}`)}
	reads := event
	reads.ID, reads.Tx, reads.Actor, reads.Action = 2, 101, "client:10.0.0.7", "read"
	reads.Since, reads.Earlier = &seal.Moment{Time: at.Add(-1500 * time.Microsecond)}, json.RawMessage(earlier)
	key, err := seal.NewKey(bytes.Repeat([]byte{7}, 32))
	must(t, err)
	window := seal.Window{SystemID: 7, ToTx: 102, LastHash: seal.Genesis(cluster), Rows: []seal.Row{event, reads},
		Now: at.Add(time.Hour)}
	seals, err := window.Seal(t.Context(), key)
	must(t, err)
	var text bytes.Buffer
	w, err := seal.NewWriter(&text, seal.Header{Cluster: cluster})
	must(t, err)
	for _, e := range []seal.Entry{{Seal: &seals[0]}, {Row: &event}, {Row: &reads}} {
		must(t, w.Write(e))
	}
	must(t, w.Close())
	return text.String()
}

func formatAudit(t *testing.T, archive string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive.jsonl")
	must(t, os.WriteFile(path, []byte(archive), 0o600))
	out, err := exec.Command("/usr/bin/python3", "-B", "../../docs/format/format.py", "audit", path).CombinedOutput()
	return string(out), err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
