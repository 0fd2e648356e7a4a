package access

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hyperiondb/vault/internal/envelope"
)

// ErrPattern says that a text is no pattern.
var ErrPattern = errors.New("not a pattern")

// Pattern is a set of names: one name, the names below a prefix ("prod/app/*", "prod.app.*"), or all ("*"). Upper and
// lower case differ. "prod/app/*" covers neither "prod/app" nor "prod/apple". The zero Pattern covers nothing.
type Pattern struct {
	// name is a whole name, or a prefix that ends with "/" or ".", or "" for every name.
	name string
	// below says that name is a prefix.
	below bool
}

// ParsePattern reads a pattern. It refuses a text that covers no name: what stands before the "*" has to end with "/"
// or "." and to be a name otherwise.
func ParsePattern(text string) (Pattern, error) {
	if text == "*" {
		return Pattern{below: true}, nil
	}
	prefix, below := strings.CutSuffix(text, "*")
	if !below {
		return Pattern{name: text}, checkPatternName(text)
	}
	name := strings.TrimSuffix(prefix, "/")
	if name == prefix {
		name = strings.TrimSuffix(prefix, ".")
	}
	if name == prefix {
		return Pattern{}, fmt.Errorf(`%w: "*" stands alone, or at the end after "/" or "." (prod/app/*)`, ErrPattern)
	}
	// A prefix of the greatest length of a name has no name below it.
	if len(prefix) >= envelope.MaxNameSize {
		return Pattern{}, fmt.Errorf("%w: it is too long for a name below it", ErrPattern)
	}
	return Pattern{name: prefix, below: true}, checkPatternName(name)
}

func checkPatternName(name string) error {
	if err := envelope.CheckName(name); err != nil {
		hint := ""
		if strings.Contains(name, "*") {
			hint = `; "*" stands alone, or at the end after "/" or "." (prod/app/*)`
		}
		return fmt.Errorf("%w: %w%s", ErrPattern, err, hint)
	}
	return nil
}

// String is the text that ParsePattern reads.
func (p Pattern) String() string {
	if p.below {
		return p.name + "*"
	}
	return p.name
}

// IsZero reports whether the pattern covers nothing.
func (p Pattern) IsZero() bool { return p == Pattern{} }

// Covers reports whether the name is in the set. The caller has checked the name with envelope.CheckName.
func (p Pattern) Covers(name string) bool {
	if p.below {
		return len(name) > len(p.name) && strings.HasPrefix(name, p.name)
	}
	return name != "" && name == p.name
}

// Within reports whether every name of the set begins with the scope of an admin token.
func (p Pattern) Within(scope string) bool {
	return !p.IsZero() && strings.HasPrefix(p.name, scope)
}

// Reaches reports whether the set has a name that begins with the prefix: a listing of the prefix can show something.
func (p Pattern) Reaches(prefix string) bool {
	if p.below {
		return strings.HasPrefix(prefix, p.name) || strings.HasPrefix(p.name, prefix)
	}
	return !p.IsZero() && strings.HasPrefix(p.name, prefix)
}
