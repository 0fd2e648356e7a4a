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
	"testing"

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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
