package rotation

import (
	_ "embed"
	"strings"
	"sync"

	"github.com/hyperiondb/vault/internal/envelope"
)

// words.txt is the project's own list: exactly 2048 common English words of three to seven
// lower-case letters, sorted, one to a line. It leaves out sound-alikes (one of "thyme" and
// "time") and words spelled differently in Britain and America, so a phrase survives being
// read over a telephone.
//
// Changing a word is safe for stored values, which are never decoded; changing how many there
// are is not, because wordBits says how much entropy each one carries.
//
//go:embed words.txt
var wordsFile string

const (
	wordBits      = 11 // 2048 words
	longestWord   = 7  // letters
	wordSeparator = '-'
)

// wordList splits the file on first use: most runs of the commands never need it.
var wordList = sync.OnceValue(func() []string { return strings.Fields(wordsFile) })

// fillWords makes a phrase of count words. Two random bytes choose each word, and since 2048
// divides 65536 the low 11 of their bits are uniform without rejecting anything.
func fillWords(count int, random randomSource) []byte {
	words := wordList()
	raw := make([]byte, 2*count)
	defer envelope.Wipe(raw)
	random(raw)

	// Room for the longest phrase: growing would leave half a secret behind in freed memory.
	out := make([]byte, 0, count*(longestWord+1))
	for i := range count {
		if i > 0 {
			out = append(out, wordSeparator)
		}
		n := (int(raw[2*i])<<8 | int(raw[2*i+1])) & (1<<wordBits - 1)
		out = append(out, words[n]...)
	}
	return out
}
