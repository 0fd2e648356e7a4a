package envelope

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"runtime"
)

// Plaintext is an opened value. Its owner wipes it after use. Like a DataKey it prints as a
// placeholder in every formatter, with the same exceptions.
type Plaintext []byte

const redactedPlaintext = "[plaintext]"

// Wipe overwrites the value. It may be called more than once. A copy that was made of it, by
// append, by conversion to a string or otherwise, is not reached.
func (p Plaintext) Wipe() { Wipe(p) }

// Wipe overwrites a secret value that has no type of its own. KeepAlive keeps the compiler from dropping writes that
// are never read.
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(&b)
}

func (Plaintext) Format(s fmt.State, _ rune)   { fmt.Fprint(s, redactedPlaintext) }
func (Plaintext) LogValue() slog.Value         { return slog.StringValue(redactedPlaintext) }
func (Plaintext) MarshalText() ([]byte, error) { return []byte(redactedPlaintext), nil }

// EqualValues reports whether a and b are the same bytes. It compares their SHA-256, in
// constant time: how long it takes depends on the two lengths taken singly, not on whether
// they are equal, nor on how many bytes are. It leaves no copy of either behind.
func EqualValues(a, b []byte) (equal bool) {
	withSecrets(func() { equal = equalDigests(a, b) })
	return equal
}

func equalDigests(a, b []byte) bool {
	h := sha256.New()
	defer zeroState(h) // up to 63 bytes of the last value
	sums := new([2][sha256.Size]byte)
	defer clear(sums[:])

	for i, value := range [][]byte{a, b} {
		h.Reset()
		h.Write(value)
		h.Sum(sums[i][:0])
	}
	return subtle.ConstantTimeCompare(sums[0][:], sums[1][:]) == 1
}
