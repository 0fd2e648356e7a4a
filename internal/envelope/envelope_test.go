package envelope

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/chacha20poly1305"
)

func newDataKey() *DataKey {
	dk := new(DataKey)
	rand.Read(dk[:])
	return dk
}

// sealWith seals one value with a key made for it.
func sealWith(dk *DataKey, name string, version int, value []byte) (Sealed, error) {
	k, err := NewKey(dk, name, version)
	if err != nil {
		return Sealed{}, err
	}
	return k.Seal(value)
}

// openWith opens one row with a key made for it.
func openWith(dk *DataKey, name string, version int, s Sealed) (Plaintext, error) {
	k, err := NewKey(dk, name, version)
	if err != nil {
		return nil, err
	}
	return k.Open(s)
}

func mustSeal(t testing.TB, dk *DataKey, name string, version int, value []byte) Sealed {
	t.Helper()
	s, err := sealWith(dk, name, version, value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustOpen(t testing.TB, dk *DataKey, name string, version int, s Sealed) Plaintext {
	t.Helper()
	p, err := openWith(dk, name, version, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustRefuse(t testing.TB, dk *DataKey, name string, version int, s Sealed, want error) {
	t.Helper()
	p, err := openWith(dk, name, version, s)
	if p != nil {
		t.Error("got a value from what should not open")
	}
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func mustNewX(t testing.TB, dk *DataKey) cipher.AEAD {
	t.Helper()
	aead, err := chacha20poly1305.NewX(dk[:])
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

func TestSealThenOpen(t *testing.T) {
	for _, size := range []int{MinValueSize, 2, 15, 16, 17, 63, 64, 65, 255, 256, 4096, MaxValueSize - 1, MaxValueSize} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dk, value := newDataKey(), make([]byte, size)
			rand.Read(value)
			key, before := *dk, bytes.Clone(value)

			s := mustSeal(t, dk, "prod/db", 3, value)
			if *dk != key || !bytes.Equal(value, before) {
				t.Fatal("Seal changed its arguments")
			}
			if s.Format != format1 || len(s.Nonce) != nonceSize || len(s.KeyCommit) != commitSize ||
				len(s.Ciphertext) != size+overhead || s.AAD != "prod/db:3" {
				t.Errorf("got fmt %d, nonce of %d, commitment of %d, ciphertext of %d bytes, aad %q",
					s.Format, len(s.Nonce), len(s.KeyCommit), len(s.Ciphertext), s.AAD)
			}
			p := mustOpen(t, dk, "prod/db", 3, s)
			if *dk != key {
				t.Fatal("Open changed the key")
			}
			if !bytes.Equal(p, value) {
				t.Error("opened to another value")
			}
		})
	}
}

// What is stored is plain XChaCha20-Poly1305: the library's own construction opens it, and
// what the library seals opens here.
func TestAgreesWithLibrary(t *testing.T) {
	dk, value := newDataKey(), []byte("a value of no importance")
	aead := mustNewX(t, dk)

	s := mustSeal(t, dk, "a", 1, value)
	got, err := aead.Open(nil, s.Nonce, s.Ciphertext, []byte("a:1"))
	if err != nil || !bytes.Equal(got, value) {
		t.Errorf("the library opens it to another value, or not at all: %v", err)
	}
	s.Ciphertext = aead.Seal(nil, s.Nonce, value, []byte("a:1"))
	if p := mustOpen(t, dk, "a", 1, s); !bytes.Equal(p, value) {
		t.Error("what the library sealed opened to another value")
	}
}

func TestKeyCommitIsHKDF(t *testing.T) {
	for _, aad := range []string{"a:1", "prod/db:2147483647", strings.Repeat("n", MaxNameSize) + ":10"} {
		dk := newDataKey()
		want, err := hkdf.Key(sha256.New, dk[:], nil, "hyperiondb-vault/commit/1"+aad, commitSize)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, keyCommit(dk, aad)); diff != "" {
			t.Errorf("key commitment for %q (-crypto/hkdf +got):\n%s", aad, diff)
		}
	}
}

func TestSealIsRandomised(t *testing.T) {
	dk, value := newDataKey(), []byte("same")
	a, b := mustSeal(t, dk, "a", 1, value), mustSeal(t, dk, "a", 1, value)
	if bytes.Equal(a.Nonce, b.Nonce) {
		t.Error("two calls used one nonce")
	}
	if bytes.Equal(a.Ciphertext, b.Ciphertext) {
		t.Error("two calls gave one ciphertext")
	}
	if !bytes.Equal(a.KeyCommit, b.KeyCommit) {
		t.Error("the key commitment depends on the nonce")
	}
}

func TestSealRefuses(t *testing.T) {
	value := []byte("v")
	for _, tc := range []struct {
		what    string
		name    string
		version int
		value   []byte
		want    error
	}{
		{"an empty name", "", 1, value, ErrName},
		{"a name with a colon", "a:1", 1, value, ErrName},
		{"a name too long", strings.Repeat("n", MaxNameSize+1), 1, value, ErrName},
		{"no value", "a", 1, nil, ErrValueSize},
		{"an empty value", "a", 1, []byte{}, ErrValueSize},
		{"a value too large", "a", 1, make([]byte, MaxValueSize+1), ErrValueSize},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s, err := sealWith(newDataKey(), tc.name, tc.version, tc.value)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if diff := cmp.Diff(Sealed{}, s); diff != "" {
				t.Errorf("got something sealed (-want +got):\n%s", diff)
			}
		})
	}
	for _, version := range []int{0, -1, maxVersion + 1} {
		if _, err := sealWith(newDataKey(), "a", version, value); err == nil {
			t.Errorf("version %d: sealed", version)
		}
	}
}

// A wiped key is all zero: sealing under it would be no secret, and blaming the row when
// opening with it would send an operator looking for an attacker.
func TestMissingKeyIsRefused(t *testing.T) {
	wiped := newDataKey()
	s := mustSeal(t, wiped, "a", 1, []byte("v"))
	wiped.Wipe()
	wiped.Wipe()
	for what, dk := range map[string]*DataKey{"nil": nil, "wiped": wiped} {
		if _, err := sealWith(dk, "a", 1, []byte("v")); err == nil {
			t.Errorf("%s key: sealed", what)
		}
		p, err := openWith(dk, "a", 1, s)
		if err == nil || p != nil {
			t.Errorf("%s key: opened", what)
		}
		if errors.Is(err, ErrIntegrity) {
			t.Errorf("%s key: got %v, which blames the row", what, err)
		}
	}
}

func TestOpenRefusesNameNoSecretHas(t *testing.T) {
	dk := newDataKey()
	s := mustSeal(t, dk, "a", 1, []byte("v"))
	s.AAD = "a b:1"
	p, err := openWith(dk, "a b", 1, s)
	if !errors.Is(err, ErrName) || errors.Is(err, ErrIntegrity) || p != nil {
		t.Errorf("got %v, want %v alone", err, ErrName)
	}
}

// Every single bit of a stored row matters.
func TestEveryFlippedBitIsRefused(t *testing.T) {
	dk := newDataKey()
	s := mustSeal(t, dk, "prod/db", 3, []byte("the value"))
	for part, column := range map[string][]byte{"nonce": s.Nonce, "ciphertext": s.Ciphertext,
		"key commitment": s.KeyCommit} {
		for i := range 8 * len(column) {
			column[i/8] ^= 1 << (i % 8)
			p, err := openWith(dk, "prod/db", 3, s)
			if !errors.Is(err, ErrIntegrity) || p != nil {
				t.Errorf("bit %d of the %s flipped: got %v", i, part, err)
			}
			column[i/8] ^= 1 << (i % 8)
		}
	}
	aad := s.AAD
	for i := range 8 * len(aad) {
		flipped := []byte(aad)
		flipped[i/8] ^= 1 << (i % 8)
		s.AAD = string(flipped)
		mustRefuse(t, dk, "prod/db", 3, s, ErrIntegrity)
	}
	s.AAD = aad
	mustOpen(t, dk, "prod/db", 3, s) // all bits were put back: it was the flips
}

func TestMatches(t *testing.T) {
	dk := newDataKey()
	k := mustNewKey(t, dk, "prod/db", 3)
	s := mustSeal(t, dk, "prod/db", 3, []byte("the value"))
	for presented, want := range map[string]bool{"the value": true, "the valuE": false, "the valu": false,
		"the value ": false, "": false} {
		if same, err := k.Matches(s, []byte(presented)); same != want || err != nil {
			t.Errorf("%q: got %t and %v, want %t", presented, same, err, want)
		}
	}
	for what, wrong := range map[string]struct {
		name    string
		version int
	}{"another name": {"prod/dc", 3}, "another version": {"prod/db", 4}} {
		if same, err := mustNewKey(t, dk, wrong.name, wrong.version).Matches(s,
			[]byte("the value")); same || !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: got %t and %v, want %v", what, same, err, ErrIntegrity)
		}
	}
	s.Ciphertext[0] ^= 1
	if same, err := k.Matches(s, []byte("the value")); same || !errors.Is(err, ErrIntegrity) {
		t.Errorf("tampered: got %t and %v, want %v", same, err, ErrIntegrity)
	}
}

// The attack that key commitment is for: a ciphertext that the AEAD accepts under the key in
// hand, stored with the commitment of the key it was supposed to be under.
func TestKeyCommitmentIsCheckedBeforeTheAEAD(t *testing.T) {
	genuine, other := newDataKey(), newDataKey()
	value := []byte("the value")
	row := mustSeal(t, genuine, "prod/db", 3, value)
	forged := mustSeal(t, other, "prod/db", 3, value)
	if _, err := openAEAD(other, forged.Nonce, []byte(forged.AAD), forged.Ciphertext); err != nil {
		t.Fatalf("the AEAD does not accept the forged ciphertext, the test shows nothing: %v", err)
	}

	forged.KeyCommit = row.KeyCommit
	_, err := openWith(other, "prod/db", 3, forged)
	if !errors.Is(err, ErrIntegrity) || !strings.Contains(err.Error(), "key commitment") {
		t.Errorf("got %v, want the key commitment refused", err)
	}
	// With nothing but noise for a ciphertext the answer is the same: it was not looked at.
	rand.Read(forged.Ciphertext)
	_, noise := openWith(other, "prod/db", 3, forged)
	if noise == nil || noise.Error() != err.Error() {
		t.Errorf("got %v, want %v", noise, err)
	}
}

// CheckCommit says yes to the one key of the one version, and to nothing else.
func TestCheckCommit(t *testing.T) {
	dk := newDataKey()
	s := mustSeal(t, dk, "prod/db", 3, []byte("value"))
	k := mustNewKey(t, dk, "prod/db", 3)
	if err := k.CheckCommit(s.KeyCommit); err != nil {
		t.Errorf("its own key: %v", err)
	}
	for what, err := range map[string]error{
		"another key":        mustNewKey(t, newDataKey(), "prod/db", 3).CheckCommit(s.KeyCommit),
		"another name":       mustNewKey(t, dk, "prod/dc", 3).CheckCommit(s.KeyCommit),
		"another version":    mustNewKey(t, dk, "prod/db", 4).CheckCommit(s.KeyCommit),
		"a short commitment": k.CheckCommit(s.KeyCommit[:31]),
		"no commitment":      k.CheckCommit(nil),
	} {
		if !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: got %v, want ErrIntegrity", what, err)
		}
	}
}

// A key opens its own version, and refuses everything else.
func TestKey(t *testing.T) {
	dk, value := newDataKey(), []byte("value")
	s := mustSeal(t, dk, "prod/db", 3, value)
	of := func(dk *DataKey, name string, version int) *Key { return mustNewKey(t, dk, name, version) }
	k := of(dk, "prod/db", 3)
	if got, err := k.Open(s); err != nil || !bytes.Equal(got, value) {
		t.Errorf("got %d bytes and %v, want the value", len(got), err)
	}
	if same, err := k.Matches(s, value); !same || err != nil {
		t.Errorf("the value itself: got %t, %v", same, err)
	}
	if same, err := k.Matches(s, []byte("other")); same || err != nil {
		t.Errorf("another value: got %t, %v", same, err)
	}
	other := newDataKey()
	forged := mustSeal(t, other, "prod/db", 3, value)
	forged.KeyCommit = s.KeyCommit
	for what, try := range map[string]func() (Plaintext, error){
		"another data key":      func() (Plaintext, error) { return of(other, "prod/db", 3).Open(s) },
		"another's commitment":  func() (Plaintext, error) { return of(other, "prod/db", 3).Open(forged) },
		"bound to another name": func() (Plaintext, error) { return of(dk, "prod/dc", 3).Open(s) },
		"bound to another":      func() (Plaintext, error) { return of(dk, "prod/db", 4).Open(s) },
	} {
		if got, err := try(); got != nil || !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: got %d bytes and %v, want ErrIntegrity", what, len(got), err)
		}
	}
	if _, err := NewKey(dk, "prod//db", 3); !errors.Is(err, ErrName) {
		t.Errorf("got %v, want ErrName", err)
	}
	if _, err := NewKey(dk, "prod/db", 0); !errors.Is(err, ErrIntegrity) {
		t.Errorf("got %v, want ErrIntegrity", err)
	}
	k.Wipe()
	for _, none := range []*DataKey{nil, &k.DataKey} {
		if _, err := NewKey(none, "prod/db", 3); err == nil || errors.Is(err, ErrIntegrity) {
			t.Errorf("a missing key: got %v", err)
		}
	}
	if _, err := k.Open(s); err == nil {
		t.Error("a wiped key opened something")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if text := fmt.Sprintf(verb, of(dk, "prod/db", 3)); strings.Count(text, redactedKey) != 1 {
			t.Errorf("by %s it prints as %s", verb, text)
		}
	}
}

func mustNewKey(t testing.TB, dk *DataKey, name string, version int) *Key {
	t.Helper()
	k, err := NewKey(dk, name, version)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestErrorsShowNoData(t *testing.T) {
	dk, value := newDataKey(), bytes.Repeat([]byte("hunter2!"), 4)
	good := mustSeal(t, dk, "prod/db", 3, value)
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[0] ^= 1; return b }
	for _, change := range []func(*Sealed){
		func(s *Sealed) { s.Format = 7 },
		func(s *Sealed) { s.Nonce = flip(s.Nonce) },
		func(s *Sealed) { s.Nonce = s.Nonce[:12] },
		func(s *Sealed) { s.Ciphertext = flip(s.Ciphertext) },
		func(s *Sealed) { s.Ciphertext = s.Ciphertext[:3] },
		func(s *Sealed) { s.KeyCommit = flip(s.KeyCommit) },
		func(s *Sealed) { s.KeyCommit = nil },
		func(s *Sealed) { s.AAD = string(value) },
	} {
		s := good
		change(&s)
		_, err := openWith(dk, "prod/db", 3, s)
		if err == nil {
			t.Fatal("opened")
		}
		secrets := [][]byte{dk[:], value, good.Nonce, good.Ciphertext, good.KeyCommit}
		assertShowsNone(t, fmt.Sprintf("%+v", err), secrets...)
	}
}

func TestEqualValues(t *testing.T) {
	long := bytes.Repeat([]byte("x"), MaxValueSize)
	for _, tc := range []struct {
		what string
		a, b []byte
		want bool
	}{
		{"same", []byte("secret"), []byte("secret"), true},
		{"nil and empty", nil, []byte{}, true},
		{"both large", long, slices.Clone(long), true},
		{"last byte differs", []byte("secret"), []byte("secreT"), false},
		{"first byte differs", []byte("secret"), []byte("Secret"), false},
		{"prefix", []byte("secret"), []byte("secre"), false},
		{"zero byte more", []byte("secret"), []byte("secret\x00"), false},
		{"empty and zero byte", nil, []byte{0}, false},
		{"large, one byte shorter", long, long[1:], false},
	} {
		t.Run(tc.what, func(t *testing.T) {
			if got := EqualValues(tc.a, tc.b); got != tc.want {
				t.Errorf("got %t, want %t", got, tc.want)
			}
			if got := EqualValues(tc.b, tc.a); got != tc.want {
				t.Errorf("the other way round: got %t, want %t", got, tc.want)
			}
		})
	}
}

// FuzzOpen opens arbitrary rows with one key. Only the genuine row opens.
func FuzzOpen(f *testing.F) {
	dk := &DataKey{0: 1, 31: 2}
	nonce := bytes.Repeat([]byte{0x24}, nonceSize)
	value := []byte("the genuine value")
	genuine, err := mustNewKey(f, dk, "prod/db", 3).seal(nonce, value)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("prod/db", 3, genuine.Format, genuine.Nonce, genuine.Ciphertext, genuine.KeyCommit, genuine.AAD)
	f.Add("prod/db", 2, genuine.Format, genuine.Nonce, genuine.Ciphertext, genuine.KeyCommit, "prod/db:2")
	f.Add("prod/db", 3, genuine.Format, genuine.Nonce[:12], genuine.Ciphertext, genuine.KeyCommit, genuine.AAD)
	f.Add("prod/db", 3, 2, []byte{}, genuine.Ciphertext[:15], []byte(nil), "")
	f.Add("", -1, 0, []byte(nil), []byte(nil), []byte(nil), ":")

	f.Fuzz(func(t *testing.T, name string, version, format int, nonce, ciphertext, commit []byte, aad string) {
		s := Sealed{Format: format, Nonce: nonce, Ciphertext: ciphertext, KeyCommit: commit, AAD: aad}
		p, err := openWith(dk, name, version, s)
		isGenuine := name == "prod/db" && version == 3 && format == genuine.Format && aad == genuine.AAD &&
			bytes.Equal(nonce, genuine.Nonce) && bytes.Equal(ciphertext, genuine.Ciphertext) &&
			bytes.Equal(commit, genuine.KeyCommit)
		switch {
		case isGenuine && (err != nil || !bytes.Equal(p, value)):
			t.Errorf("the genuine row did not open: %v", err)
		case !isGenuine && (err == nil || p != nil):
			t.Error("opened something other than the genuine row")
		case !isGenuine && !errors.Is(err, ErrIntegrity) && !errors.Is(err, ErrName):
			t.Errorf("got %v, want %v or %v", err, ErrIntegrity, ErrName)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{256, MaxValueSize} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			dk, value := newDataKey(), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				mustSeal(b, dk, "prod/db", 3, value)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{256, MaxValueSize} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			dk := newDataKey()
			s := mustSeal(b, dk, "prod/db", 3, make([]byte, size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				mustOpen(b, dk, "prod/db", 3, s).Wipe()
			}
		})
	}
}

// BenchmarkOpenKnown is a read that found its key in the cache.
func BenchmarkOpenKnown(b *testing.B) {
	dk := newDataKey()
	s := mustSeal(b, dk, "prod/db", 3, make([]byte, 256))
	k := mustNewKey(b, dk, "prod/db", 3)
	b.SetBytes(256)
	b.ReportAllocs()
	for b.Loop() {
		value, err := k.Open(s)
		if err != nil {
			b.Fatal(err)
		}
		value.Wipe()
	}
}

func BenchmarkMatches(b *testing.B) {
	dk, value := newDataKey(), make([]byte, 256)
	s, k := mustSeal(b, dk, "prod/db", 3, value), mustNewKey(b, dk, "prod/db", 3)
	b.ReportAllocs()
	for b.Loop() {
		if same, err := k.Matches(s, value); !same || err != nil {
			b.Fatal(err)
		}
	}
}
