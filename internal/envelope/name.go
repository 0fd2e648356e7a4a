package envelope

import (
	"fmt"
	"strconv"
)

// CheckName returns nil if a secret can have this name: 1 to MaxNameSize bytes of
//
//	[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_][A-Za-z0-9_-]*)*
//
// that is, parts separated by single dots or slashes, none empty and none starting with "-".
// Otherwise the error matches ErrName and names the first byte that does not fit, and its offset
// from 0. It does not repeat the name, which may be a value in the wrong place.
//
// A name holds no ":", which is what makes AAD unambiguous.
func CheckName(name string) error {
	if len(name) < 1 || len(name) > MaxNameSize {
		return fmt.Errorf("%w: %d bytes, want 1 to %d", ErrName, len(name), MaxNameSize)
	}
	partStart := true // no byte of the current part has been seen
	for i := range len(name) {
		switch c := name[i]; {
		case isWordByte(c):
			partStart = false
		case partStart:
			return fmt.Errorf(`%w: %q at offset %d, want a letter, a digit or "_"`, ErrName, name[i:i+1], i)
		case c == '-':
		case c == '.' || c == '/':
			partStart = true
		default:
			return fmt.Errorf(`%w: %q at offset %d, want a letter, a digit, "_", "-", "." or "/"`, ErrName, name[i:i+1], i)
		}
	}
	if partStart {
		last := len(name) - 1
		return fmt.Errorf(`%w: ends with %q at offset %d, want a letter, a digit or "_" after it`, ErrName, name[last:], last)
	}
	return nil
}

func isWordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// AAD returns name ":" version, the version in decimal: what the AEAD, the key commitment and
// the KMS bind a version to. The name must satisfy CheckName and the version be 1 to 2147483647;
// AAD does not check.
func AAD(name string, version int) string {
	return name + ":" + strconv.Itoa(version)
}

func validVersion(version int) bool {
	return version >= 1 && version <= maxVersion
}
