package main

import (
	"strings"

	"github.com/hyperiondb/vault/internal/envelope"
)

// checkPrefix refuses a prefix that no name can begin with: it would cover nothing, most likely by a typing error.
func checkPrefix(flag, prefix string) error {
	err := envelope.CheckName(prefix)
	if err != nil && len(prefix) < envelope.MaxNameSize {
		err = envelope.CheckName(prefix + "x")
	}
	if err != nil {
		return usage("--%s: no name begins with this: %s", flag, err)
	}
	return nil
}

// warnPrefix says that a prefix which does not end at a "/" or "." covers longer words too. It is no error: the prefix
// of one whole name is how a role gets one secret.
func (a *app) warnPrefix(flag, prefix string) {
	if prefix != "" && !strings.HasSuffix(prefix, "/") && !strings.HasSuffix(prefix, ".") {
		a.note("warning: --%s %s also covers names such as %[2]sX; to end at a whole word: --%[1]s %[2]s/", flag, prefix)
	}
}
