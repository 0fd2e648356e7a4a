package target

import (
	"fmt"
)

// appendJSON appends a JSON string. encoding/json would leave a copy of the value in a pool of its own. Text must be
// UTF-8.
func appendJSON(to, text []byte) []byte {
	to = append(to, '"')
	for _, b := range text {
		switch {
		case b == '"' || b == '\\':
			to = append(to, '\\', b)
		case b < 0x20 || b == 0x7f:
			to = fmt.Appendf(to, `\u%04x`, b)
		default:
			to = append(to, b)
		}
	}
	return append(to, '"')
}

// jsonRoom is the most bytes that appendJSON needs for a text, so that a buffer is never copied to grow.
func jsonRoom(text []byte) int { return 2 + 6*len(text) }
