package db

import "github.com/hyperiondb/vault/internal/lazyregexp"

// givenPassword matches a password in the user part or the query of a URL, or as a keyword. It may match where libpq
// reads no password, because it only decides about a warning.
var givenPassword = lazyregexp.New(`(?i)^\s*[a-z0-9+.:-]+://[^/?#\s]*:[^/?#\s]+@|` +
	`(^|[?&\s])(ssl)?password\s*=\s*[^&\s]`)

// HasPassword reports whether a connection string has a password in it.
func HasPassword(url string) bool { return givenPassword().MatchString(url) }
