package db

import "regexp"

// givenPassword is a password in a URL's user, in its query, or as a keyword. It may find one where libpq would not: it
// decides about a warning.
var givenPassword = regexp.MustCompile(`(?i)^\s*[a-z0-9+.:-]+://[^/?#\s]*:[^/?#\s]+@|(^|[?&\s])(ssl)?password\s*=\s*[^&\s]`)

// HasPassword reports whether a connection string has a password in it.
func HasPassword(url string) bool { return givenPassword.MatchString(url) }
