package seal

import (
	"crypto/sha256"
	"math/bits"
)

// Tree computes the Merkle tree hash of RFC 6962 over a stream of leaves, in memory that grows with the logarithm of
// their number.
type Tree struct {
	n     uint64
	stack []Hash // roots of the complete subtrees, the largest first: one for every bit of n that is set
}

// Add appends a leaf hash.
func (t *Tree) Add(leaf Hash) {
	for range bits.TrailingZeros64(^t.n) { // as many subtrees of equal size close
		leaf = node(t.stack[len(t.stack)-1], leaf)
		t.stack = t.stack[:len(t.stack)-1]
	}
	t.stack = append(t.stack, leaf)
	t.n++
}

// Len is the number of leaves.
func (t *Tree) Len() int64 { return int64(t.n) }

// Root is the hash of all leaves so far; of none, the hash of nothing.
func (t *Tree) Root() Hash {
	if len(t.stack) == 0 {
		return sha256.Sum256(nil)
	}
	root := t.stack[len(t.stack)-1]
	for i := len(t.stack) - 2; i >= 0; i-- {
		root = node(t.stack[i], root)
	}
	return root
}

// Reset empties the tree.
func (t *Tree) Reset() { t.n, t.stack = 0, t.stack[:0] }

func node(left, right Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}
