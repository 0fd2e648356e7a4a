//go:build !race

// The race detector maps terabytes of shadow memory, which cannot be searched; the test runs without it.

package vault_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/vault"
)

// After a put and a get whose buffers were wiped, the value is nowhere in the memory of the process. What is looked for
// is kept masked, so that the search does not find itself.
func TestValueLeavesMemory(t *testing.T) {
	s := newStory(t, nil)
	mask := byte(0xa5)
	masked := make([]byte, 48)
	for i := range masked {
		masked[i] = byte(i*7+11) ^ mask
	}
	value := make([]byte, len(masked))
	for i := range value {
		value[i] = masked[i] ^ mask
	}
	if !inMemory(t, masked, mask) {
		t.Fatal("the search does not find a value that is there")
	}
	_, err := s.Put(t.Context(), vault.PutRequest{Change: s.as, Name: "app/x", Value: value})
	must(t, err)
	got, err := s.Get(t.Context(), "app/x", vault.GetOptions{})
	must(t, err)
	if !bytes.Equal(got.Value, value) {
		t.Fatal("got another value than the one that was put")
	}
	got.Wipe()
	clear(value)
	runtime.GC()
	if inMemory(t, masked, mask) {
		t.Error("the value is still in memory")
	}
	runtime.KeepAlive(value)
	runtime.KeepAlive(got)
}

// inMemory searches every writable mapping, comparing without ever holding the pattern unmasked.
func inMemory(t *testing.T, masked []byte, mask byte) bool {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	must(t, err)
	defer maps.Close()
	memory, err := os.Open("/proc/self/mem")
	must(t, err)
	defer memory.Close()
	type region struct{ from, to int64 }
	var regions []region
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var r region
		if strings.Contains(lines.Text(), " rw") && !strings.Contains(lines.Text(), "[v") {
			if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &r.from, &r.to); err == nil {
				regions = append(regions, r)
			}
		}
	}
	chunk := make([]byte, 1<<20)
	overlap := len(masked) - 1
	found := false
	for _, r := range regions {
		for at := r.from; at < r.to; at += int64(len(chunk) - overlap) {
			n, _ := memory.ReadAt(chunk[:min(int64(len(chunk)), r.to-at)], at) // pages that are not there read short
			for i := range chunk[:n] {
				chunk[i] ^= mask // masked in place: a chunk that is read again holds no plain copy
			}
			found = found || bytes.Contains(chunk[:n], masked)
			clear(chunk)
		}
	}
	return found
}
