package token

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestEachTokenHasOneText(t *testing.T) {
	for range 1000 {
		id := uuid.New()
		var secret [SecretSize]byte
		rand.Read(secret[:])
		text := App.Text(id, secret)
		gotID, gotSecret, err := App.Parse(text)
		if err != nil || gotID != id || gotSecret != secret {
			t.Fatalf("the parsed token is another one, or: %v", err)
		}
	}
}

// The last character has four bits that belong to no byte.
func TestOtherTextsOfTheSameBytesAreRefused(t *testing.T) {
	text := App.Text(uuid.UUID{1}, [SecretSize]byte{2})
	head, last := text[:len(text)-1], strings.IndexByte(alphabet, text[len(text)-1])
	for other := range len(alphabet) {
		_, _, err := App.Parse(head + alphabet[other:other+1])
		if taken := err == nil; taken != (other == last) {
			t.Errorf("with %q at the end: got error %v", alphabet[other], err)
		}
	}
	for _, bad := range []string{"\n", "\r", "=", "A", "0", "1", "8", " ", "\x00", "\xff"} {
		for _, at := range []int{len(App), 40, len(text) - 1} {
			if _, _, err := App.Parse(text[:at] + bad + text[at+1:]); !errors.Is(err, ErrText) {
				t.Errorf("with %q at %d: got error %v, want ErrText", bad, at, err)
			}
		}
	}
}

// decode takes what encoding/base32 takes, as long as it is what that would have written.
func FuzzDecode(f *testing.F) {
	f.Add(App.Text(uuid.UUID{1}, [SecretSize]byte{2})[len(App):])
	f.Add(strings.Repeat("a", textSize))
	f.Add(strings.Repeat("7", textSize))
	f.Add(strings.Repeat("a", textSize-1) + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) != textSize { // Parse asks for no other
			return
		}
		var got [rawSize]byte
		ok := decode(&got, text)
		want, err := encoding.DecodeString(text)
		wantOK := err == nil && encoding.EncodeToString(want) == text
		if ok != wantOK || ok && !bytes.Equal(got[:], want) {
			t.Errorf("%q: got %v, %x, want %v, %x", text, ok, got, wantOK, want)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := App.Text(uuid.New(), [SecretSize]byte{2})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := App.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
