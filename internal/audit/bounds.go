package audit

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Printable replaces control characters, characters that change the direction of writing, and invisible ones by "?":
// many programs show the log. The primary does the same (vault._printable).
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if hidden(r) {
			return '?'
		}
		return r
	}, text)
}

func hidden(r rune) bool {
	switch {
	case r < ' ', r >= 0x7f && r <= 0x9f, r == 0x061c, r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e,
		r >= 0x2060 && r <= 0x2069, r == 0xfeff:
		return true
	}
	return false
}

// Cut is the beginning of a text, at most so many bytes of whole characters.
func Cut(text string, bytes int) string {
	if len(text) <= bytes {
		return text
	}
	for bytes > 0 && !utf8.RuneStart(text[bytes]) {
		bytes--
	}
	return text[:bytes]
}

const (
	longestText   = 255 // bytes of a column; longer ones are cut, as the log keeps no more characters
	longestDetail = 256 // bytes of a detail as JSON; longer ones are replaced by their length
	mostDetails   = 8
)

// Shortened is the event in less than 16 KiB. It names what was cut, with its length. An event that is too long for the
// spool would refuse the read it records.
func (e Event) Shortened() Event {
	if e.isShort() {
		return e
	}
	detail := map[string]any{}
	for _, text := range []struct {
		name  string
		value *string
	}{
		{"actor", &e.Actor}, {"client", &e.Client}, {"node", &e.Node}, {"action", &e.Action}, {"secret", &e.Secret},
		{"request_id", &e.RequestID},
	} {
		if len(*text.value) > longestText {
			detail["truncated_"+text.name] = len(*text.value)
			*text.value = Cut(*text.value, longestText)
		}
	}
	left := 0
	for _, name := range slices.Sorted(maps.Keys(e.Detail)) {
		if left == mostDetails || len(name) > 64 {
			detail["truncated_details"] = len(e.Detail)
			continue
		}
		if value, err := marshalDetail(e.Detail[name]); err != nil || len(value) > longestDetail {
			detail[name] = map[string]int{"truncated": len(value)}
		} else {
			detail[name] = e.Detail[name]
		}
		left++
	}
	e.Detail = detail
	return e
}

// isShort reports that nothing has to be cut; false also where finding out would cost as much as cutting.
func (e Event) isShort() bool {
	for _, text := range []string{e.Actor, e.Client, e.Node, e.Action, e.Secret, e.RequestID} {
		if len(text) > longestText {
			return false
		}
	}
	for name, value := range e.Detail {
		// A character of a text takes six bytes at most, and so does each byte that is no character.
		if text, ok := value.(string); !ok || len(name) > 64 || 6*len(text)+2 > longestDetail {
			return false
		}
	}
	return len(e.Detail) <= mostDetails
}
