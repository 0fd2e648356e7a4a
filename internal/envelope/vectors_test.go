package envelope

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// hexBytes is a []byte written as hexadecimal in JSON.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// bulk is bytes given literally, by rule, or by what they hash to. See testdata/README.md.
type bulk struct {
	Hex    hexBytes
	Mod251 int
	Zero   int
	Size   int
	SHA256 hexBytes
}

// bytes is not for the kind that is given by its hash.
func (b bulk) bytes() []byte {
	if b.Zero > 0 {
		return make([]byte, b.Zero)
	}
	if b.Mod251 > 0 {
		p := make([]byte, b.Mod251)
		for i := range p {
			p[i] = byte(i % 251)
		}
		return p
	}
	return b.Hex
}

func (b bulk) matches(p []byte) bool {
	if b.SHA256 == nil {
		return bytes.Equal(p, b.bytes())
	}
	sum := sha256.Sum256(p)
	return len(p) == b.Size && bytes.Equal(sum[:], b.SHA256)
}

type vector struct {
	ID         string
	Note       string
	DataKey    hexBytes `json:"data_key"`
	Name       string
	Version    int
	Value      bulk
	Format     int `json:"fmt"`
	Nonce      hexBytes
	AAD        string
	Ciphertext bulk
	KeyCommit  hexBytes `json:"key_commit"`
	Error      string
	Part       string
}

func (v vector) key(t *testing.T) *DataKey {
	t.Helper()
	if len(v.DataKey) != KeySize {
		t.Fatalf("vector %q: data key of %d bytes", v.ID, len(v.DataKey))
	}
	return (*DataKey)(v.DataKey)
}

func (v vector) sealed() Sealed {
	return Sealed{
		Format:     v.Format,
		Nonce:      v.Nonce,
		Ciphertext: v.Ciphertext.bytes(),
		KeyCommit:  v.KeyCommit,
		AAD:        v.AAD,
	}
}

func mustReadJSON(t *testing.T, file string, into any) {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec := json.NewDecoder(f)
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		t.Fatalf("reading %s: %v", file, err)
	}
}

func mustReadVectors(t *testing.T, file string) []vector {
	t.Helper()
	var vectors []vector
	mustReadJSON(t, file, &vectors)
	seen := map[string]bool{}
	for _, v := range vectors {
		if v.ID == "" || seen[v.ID] {
			t.Fatalf("%s: id %q is empty or used twice", file, v.ID)
		}
		seen[v.ID] = true
	}
	return vectors
}

func TestDraftVectors(t *testing.T) {
	var draft struct {
		HChaCha20 struct{ Key, Nonce, Subkey hexBytes }
		AEAD      struct{ Key, Nonce, AAD, Plaintext, Ciphertext, Tag hexBytes }
	}
	mustReadJSON(t, "draft-xchacha-03.json", &draft)

	t.Run("HChaCha20", func(t *testing.T) {
		v := draft.HChaCha20
		got, err := subkey((*DataKey)(v.Key), v.Nonce)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, v.Subkey) {
			t.Errorf("got subkey %x, want %x", got, v.Subkey)
		}
	})
	t.Run("AEAD", func(t *testing.T) {
		v := draft.AEAD
		want := append(bytes.Clone(v.Ciphertext), v.Tag...)
		got, err := sealAEAD((*DataKey)(v.Key), v.Nonce, v.AAD, v.Plaintext)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got ciphertext and tag %x, want %x", got, want)
		}
		opened, err := openAEAD((*DataKey)(v.Key), v.Nonce, v.AAD, want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(opened, v.Plaintext) {
			t.Error("the draft's ciphertext opened to something other than the draft's plaintext")
		}
	})
}

func TestGoodVectors(t *testing.T) {
	for _, v := range mustReadVectors(t, "good.json") {
		t.Run(v.ID, func(t *testing.T) {
			value := v.Value.bytes()
			s, err := mustNewKey(t, v.key(t), v.Name, v.Version).seal(v.Nonce, value)
			if err != nil {
				t.Fatal(err)
			}
			if s.Format != v.Format || s.AAD != v.AAD {
				t.Errorf("got fmt %d, aad %q; want %d, %q", s.Format, s.AAD, v.Format, v.AAD)
			}
			if !v.Ciphertext.matches(s.Ciphertext) {
				t.Error("the ciphertext differs from the vector's")
			}
			if !bytes.Equal(s.KeyCommit, v.KeyCommit) {
				t.Errorf("got key commitment %x, want %x", s.KeyCommit, v.KeyCommit)
			}
			opened, err := openWith(v.key(t), v.Name, v.Version, s)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(opened, value) {
				t.Error("opened to another value")
			}
		})
	}
}

func TestTamperedVectors(t *testing.T) {
	part := map[string]string{ // how Open names the part
		"format":         "unknown format",
		"nonce":          "the nonce is",
		"ciphertext":     "the ciphertext is",
		"key commitment": "the key commitment is",
		"version":        "version ",
		"aad":            "the aad is not",
		"tag":            "the tag does not",
	}
	for _, v := range mustReadVectors(t, "tampered.json") {
		t.Run(v.ID, func(t *testing.T) {
			opened, err := openWith(v.key(t), v.Name, v.Version, v.sealed())
			if opened != nil {
				t.Error("got a value")
			}
			if !errors.Is(err, ErrIntegrity) {
				t.Fatalf("got %v, want %v", err, ErrIntegrity)
			}
			if got, want := errors.Is(err, errFormat), v.Error == "format"; got != want {
				t.Errorf("got %v, matching errFormat: %t, want %t", err, got, want)
			}
			if want := ErrIntegrity.Error() + ": " + part[v.Part]; part[v.Part] == "" || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %q, want it to start with %q for part %q", err, want, v.Part)
			}
			if len(v.KeyCommit) != commitSize && !strings.HasSuffix(err.Error(), "bytes, want 32") {
				t.Errorf("got %q, want the commitment's length refused, not compared", err)
			}
		})
	}
}
