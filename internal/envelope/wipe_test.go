package envelope

import (
	"crypto/sha256"
	"reflect"
	"testing"
	"unsafe"

	"golang.org/x/crypto/chacha20poly1305"
)

// zeroState reaches what a state holds by value. If a release of x/crypto or of Go moves the
// key behind a pointer, this fails, and wiping must find another way.
func TestForeignStatesAreHeldByValue(t *testing.T) {
	aead, err := chacha20poly1305.New(make([]byte, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	for what, state := range map[string]any{"ChaCha20-Poly1305": aead, "SHA-256": sha256.New()} {
		v := reflect.ValueOf(state)
		if v.Kind() != reflect.Pointer {
			t.Errorf("%s: %s is not a pointer: zeroState cannot write to it", what, v.Type())
			continue
		}
		if by := indirection(v.Type().Elem()); by != nil {
			t.Errorf("%s: %s holds a %s, which zeroState does not follow", what, v.Type(), by)
		}
	}
	if indirection(reflect.TypeFor[struct{ a [2]struct{ key []byte } }]()) == nil {
		t.Error("the check does not notice a slice inside")
	}
}

// indirection returns the first type in typ that refers to memory elsewhere, or nil.
func indirection(typ reflect.Type) reflect.Type {
	switch typ.Kind() {
	case reflect.Struct:
		for i := range typ.NumField() {
			if by := indirection(typ.Field(i).Type); by != nil {
				return by
			}
		}
		return nil
	case reflect.Array:
		return indirection(typ.Elem())
	case reflect.Pointer, reflect.Slice, reflect.String, reflect.Map, reflect.Interface, reflect.Chan, reflect.Func,
		reflect.UnsafePointer:
		return typ
	default:
		return nil
	}
}

func TestZeroStateZeroes(t *testing.T) {
	key := make([]byte, KeySize)
	for i := range key {
		key[i] = 0xa5
	}
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	h.Write(key)
	for what, state := range map[string]any{"ChaCha20-Poly1305": aead, "SHA-256": h} {
		if reflect.ValueOf(state).Elem().IsZero() {
			t.Fatalf("%s: zero before it is wiped, the test shows nothing", what)
		}
		zeroState(state)
		if !reflect.ValueOf(state).Elem().IsZero() {
			t.Errorf("%s: not zero", what)
		}
	}
}

// The ballast, and the frame of growStack, stand in branches that are not reached, and take their room all the same.
func TestBallastTakesStack(t *testing.T) {
	var took uintptr
	depth := func() {
		var outside byte
		withSecrets(func() {
			var inside byte
			took = uintptr(unsafe.Pointer(&outside)) - uintptr(unsafe.Pointer(&inside))
		})
	}
	depth() // grows the stack, so that it does not move between the two addresses in the next call
	if depth(); took < stackBallast {
		t.Errorf("withSecrets takes %d bytes of the stack, want at least the %d of its ballast", took, stackBallast)
	}
}

func TestGrowStackGrows(t *testing.T) {
	grown := make(chan int)
	go func() { grown <- growths(256) }()
	if <-grown == 0 {
		t.Error("growStack has never moved the stack")
	}
}

// growths counts how often growStack moves the stack on the way down. It reaches further than the next frame, so that
// every growth is its.
//
//go:noinline
func growths(depth int) (moved int) {
	if depth == 0 {
		return 0
	}
	var here [256]byte
	before := uintptr(unsafe.Pointer(&here))
	growStack()
	if uintptr(unsafe.Pointer(&here)) != before {
		moved = 1
	}
	return moved + growths(depth-1)
}

func TestHKDFStateIsWiped(t *testing.T) {
	k := newHKDFState()
	k.hmac(k.prk[:], nil, newDataKey()[:])
	h := k.hash
	k.wipe()
	if !reflect.ValueOf(h).Elem().IsZero() {
		t.Error("the state of SHA-256 is not zero")
	}
	if !reflect.ValueOf(k).Elem().IsZero() {
		t.Error("the intermediate values are not zero")
	}
}

func TestWipe(t *testing.T) {
	dk, p := printable()
	dk.Wipe()
	p.Wipe()
	if *dk != (DataKey{}) {
		t.Error("the key was not overwritten")
	}
	for i, b := range p {
		if b != 0 {
			t.Errorf("byte %d of the plaintext was not overwritten", i)
		}
	}
	Plaintext(nil).Wipe() // nothing to do, and no panic
}
