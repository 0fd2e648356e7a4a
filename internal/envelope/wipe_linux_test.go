package envelope

import (
	"bufio"
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/crypto/chacha20"
)

// search looks for secrets in every writable mapping of its own process. What it looks for it
// keeps XORed with a mask and cut into words of 8 bytes, so that it does not find itself, and
// finds a piece of a key as well as a whole one.
type search struct {
	mask   uint64
	words  map[uint64]string // masked word -> what it is a part of
	likely [1 << 16]bool     // by the low bits of a masked word: most bytes need no map access
	chunk  []byte            // the read buffer; not searched itself
}

func newSearch() *search {
	var mask [8]byte
	rand.Read(mask[:])
	return &search{
		mask:  binary.LittleEndian.Uint64(mask[:]),
		words: map[uint64]string{},
		chunk: make([]byte, 1<<20),
	}
}

// add makes every aligned 8 bytes of secret something to look for, as long as it is random.
func (s *search) add(what string, secret []byte) {
	for ; len(secret) >= 8; secret = secret[8:] {
		word := binary.LittleEndian.Uint64(secret) ^ s.mask
		s.words[word] = what
		s.likely[uint16(word)] = true
	}
}

// addDerived adds what Seal and Open derive from the key.
func (s *search) addDerived(t *testing.T, dk *DataKey, nonce []byte) {
	t.Helper()
	key, err := subkey(dk, nonce[:16])
	if err != nil {
		t.Fatal(err)
	}
	s.add("HChaCha20 subkey", key)

	stream, err := chacha20.NewUnauthenticatedCipher(key, append(make([]byte, 4), nonce[16:]...))
	if err != nil {
		t.Fatal(err)
	}
	blocks := make([]byte, 6*64)
	stream.XORKeyStream(blocks, blocks)
	s.add("Poly1305 key", blocks[:32])
	s.add("key stream", blocks[64:])
	clear(blocks)
	*stream = chacha20.Cipher{}
	clear(key)

	k := newHKDFState()
	k.hmac(k.prk[:], nil, dk[:])
	s.add("HKDF pseudorandom key", k.prk[:])
	for _, pad := range []byte{0x36, 0x5c} {
		for i, b := range k.prk {
			k.block[i] = b ^ pad
		}
		s.add(fmt.Sprintf("HKDF pseudorandom key under pad %#x", pad), k.block[:32])
	}
	k.wipe()
}

// addEnds adds the first and the last 256 bytes of a value that may be large.
func (s *search) addEnds(what string, value []byte) {
	s.add(what, value[:min(256, len(value))])
	s.add(what, value[len(value)-min(256, len(value)):])
}

// find returns which secrets are in memory, and where, without repetition.
func (s *search) find(t *testing.T) []string {
	t.Helper()
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	defer clear(s.chunk)

	found := map[string]bool{}
	for _, m := range writableMappings(t) {
		for at := m.from; at < m.to; {
			n := int(min(uint64(len(s.chunk)), m.to-at))
			if _, err := mem.ReadAt(s.chunk[:n], int64(at)); err != nil {
				t.Fatalf("reading %#x of mapping %q: %v", at, m.what, err)
			}
			s.findIn(s.chunk[:n], at, m.what, found)
			if at += uint64(n); at < m.to {
				at -= 7 // a word may lie across two chunks
			}
		}
	}
	var all []string
	for what := range found {
		all = append(all, what)
	}
	slices.Sort(all)
	return all
}

// findIn looks at every byte of hundreds of megabytes. Hence norace, and the leap over pages
// that are zero, up to where a word could reach into the next.
//
//go:norace
func (s *search) findIn(chunk []byte, at uint64, where string, found map[string]bool) {
	const pageSize = 4096
	var zeroPage [pageSize]byte
	own := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(s.chunk))))
	for i := 0; i+8 <= len(chunk); i++ {
		if i%pageSize == 0 && i+pageSize <= len(chunk) && bytes.Equal(chunk[i:i+pageSize], zeroPage[:]) {
			i += pageSize - 8
			continue
		}
		word := binary.LittleEndian.Uint64(chunk[i:]) ^ s.mask
		if !s.likely[uint16(word)] {
			continue
		}
		if what, hit := s.words[word]; hit {
			if addr := at + uint64(i); addr < own || addr >= own+uint64(len(s.chunk)) {
				found[what+" in "+where] = true
			}
		}
	}
}

type mapping struct {
	from, to uint64
	what     string
}

func writableMappings(t *testing.T) []mapping {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	var all []mapping
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if !strings.HasPrefix(fields[1], "rw") {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		m := mapping{what: "memory"}
		if len(fields) > 5 {
			m.what = fields[5]
		}
		if m.from, err = strconv.ParseUint(from, 16, 64); err != nil {
			t.Fatal(err)
		}
		if m.to, err = strconv.ParseUint(to, 16, 64); err != nil {
			t.Fatal(err)
		}
		if m.to-m.from > 1<<30 {
			continue // the race detector's own, terabytes without data in them
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		t.Fatal("no writable mapping")
	}
	return all
}

// burn overwrites far more of the stack than sweepStack does. It cleans up after the tests
// themselves, before the code under test runs.
//
//go:noinline
func burn() {
	var frame [100 << 10]byte
	clear(frame[:])
	runtime.KeepAlive(&frame)
}

// story seals, opens, compares and fails to open one value, as a daemon would, and wipes what
// is its own to wipe. It adds all that passed through to the search, before it starts.
type story struct {
	dk    *DataKey
	nonce []byte
	value []byte
}

func newStory(t *testing.T, s *search, size int) *story {
	t.Helper()
	st := &story{dk: newDataKey(), nonce: make([]byte, nonceSize), value: make([]byte, size)}
	burn() // before the secrets, so that the stack of the test does not grow under them
	runtime.Gosched()
	rand.Read(st.nonce)
	rand.Read(st.value)
	s.add("data key", st.dk[:])
	s.addEnds("value", st.value)
	s.addDerived(t, st.dk, st.nonce)
	clearRegisters()
	burn()
	return st
}

// steps is how many calls of this package a whole story makes.
const steps = 8

// run makes the first so many calls of the story, so that each of them is once the last, whose
// traces nothing covers.
func (st *story) run(t *testing.T, calls int) {
	runtime.Gosched() // a fresh time slice: preemption is 10 ms away
	defer clear(st.value)
	defer st.dk.Wipe()

	k, err := NewKey(st.dk, "prod/db", 3)
	if err != nil {
		t.Error(err)
		return
	}
	defer k.Wipe()
	var s Sealed
	var p Plaintext
	defer func() { p.Wipe() }()
	for _, call := range []func(){
		func() {
			if s, err = k.seal(st.nonce, st.value); err != nil {
				t.Error(err)
			}
		},
		func() {
			if p, err = k.Open(s); err != nil {
				t.Error(err)
			}
		},
		func() {
			if !EqualValues(p, st.value) {
				t.Error("opened to another value")
			}
		},
		func() {
			if err := k.CheckCommit(s.KeyCommit); err != nil {
				t.Errorf("its own commitment: %v", err)
			}
		},
		func() {
			if same, err := k.Matches(s, st.value); !same || err != nil {
				t.Errorf("its own value does not match: %v", err)
			}
		},
		func() {
			s.Ciphertext[0] ^= 1
			if _, err := k.Open(s); !errors.Is(err, ErrIntegrity) {
				t.Errorf("tampered ciphertext: got %v, want %v", err, ErrIntegrity)
			}
		},
		func() {
			s.KeyCommit[0] ^= 1
			if _, err := k.Open(s); !errors.Is(err, ErrIntegrity) {
				t.Errorf("tampered commitment: got %v, want %v", err, ErrIntegrity)
			}
		},
	}[:calls-1] {
		call()
	}
}

// stacks runs functions on goroutines of their own, which stay afterwards: a stack that were
// given back would be covered by the next one's frames, and its traces with it.
type stacks struct {
	release chan struct{}
	left    sync.WaitGroup
}

func (st *stacks) run(f func()) {
	ran := make(chan struct{})
	st.left.Go(func() {
		f()
		close(ran)
		<-st.release
	})
	<-ran
}

// assertLeavesNothing fails if anything the stories add to the search is found afterwards. Only
// an interruption in the middle of a call may leave a piece, as the package documentation says,
// and does not come three times in a row; what the code leaves, it leaves each time.
func assertLeavesNothing(t *testing.T, stories func(*search, *stacks)) {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // collections come when they are asked for
	var found []string
	for range 3 {
		s, st := newSearch(), &stacks{release: make(chan struct{})}
		stories(s, st)
		if found = s.find(t); len(found) == 0 {
			runtime.GC()
			found = s.find(t)
		}
		close(st.release)
		st.left.Wait()
		if len(found) == 0 {
			return
		}
	}
	t.Errorf("still in memory: %s", strings.Join(found, "; "))
}

func TestSearchFindsWhatIsPlanted(t *testing.T) {
	s := newSearch()
	st := newStory(t, s, 64)
	if got := strings.Join(s.find(t), "; "); !strings.Contains(got, "data key") || !strings.Contains(got, "value") {
		t.Errorf("on the heap: found %q, want the data key and the value", got)
	}
	onStack := *st.dk
	st.dk.Wipe()
	clear(st.value)
	if got := strings.Join(s.find(t), "; "); !strings.Contains(got, "data key") || strings.Contains(got, "value") {
		t.Errorf("on the stack: found %q, want the data key alone", got)
	}
	clear(onStack[:])
	runtime.KeepAlive(&onStack)
}

// Without the care that this package takes there is something to find: a cipher of the library
// outlives the key, and so does what HKDF leaves behind.
func TestSearchFindsWhatTheLibraryLeaves(t *testing.T) {
	s := newSearch()
	st := newStory(t, s, 64)
	aead := mustNewX(t, st.dk)
	aead.Seal(nil, st.nonce, st.value, nil)
	if _, err := hkdf.Key(sha256.New, st.dk[:], nil, "info", 32); err != nil {
		t.Fatal(err)
	}
	st.dk.Wipe()
	clear(st.value)
	if got := strings.Join(s.find(t), "; "); !strings.Contains(got, "data key") {
		t.Errorf("found %q, want the data key", got)
	} else {
		t.Log(got)
	}
	zeroState(aead)
}

func TestNothingIsLeftInMemory(t *testing.T) {
	for _, size := range []int{8, 40, 256, 4096, MaxValueSize} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			assertLeavesNothing(t, func(s *search, on *stacks) {
				for calls := 1; calls <= steps; calls++ {
					st := newStory(t, s, size)
					on.run(func() { st.run(t, calls) })
				}
			})
		})
	}
}

// However much stack there is left when Seal is called, growing it leaves no copy.
func TestNothingIsLeftByStackGrowth(t *testing.T) {
	assertLeavesNothing(t, func(s *search, on *stacks) {
		for depth := range 250 {
			st := newStory(t, s, 64)
			on.run(func() { descend(depth, func() { st.run(t, 2+depth%2) }) })
		}
	})
}

// Collections between the calls shrink the stack again and again.
func TestNothingIsLeftByCollections(t *testing.T) {
	assertLeavesNothing(t, func(s *search, on *stacks) {
		var stories []*story
		for i := range 40 {
			stories = append(stories, newStory(t, s, 64+i))
		}
		on.run(func() {
			for i, st := range stories {
				descend(8*i, runtime.GC)
				st.run(t, 1+i%steps)
			}
		})
	})
}

//go:noinline
func descend(depth int, f func()) {
	var frame [128]byte
	if depth > 0 {
		descend(depth-1, f)
	} else {
		f()
	}
	runtime.KeepAlive(&frame)
}
