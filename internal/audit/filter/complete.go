package filter

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Actions returns the known actions, for completion; an event may have others.
func Actions() []string {
	return []string{"read", "verify", "list", "describe", "identify", "put", "rotate", "rollback", "update", "delete",
		"restore", "purge", "rewrap", "expire", "grace.end",
		"app.create", "app.delete", "app.token", "app.revoke", "app.allow", "app.disallow", "app.enable", "app.disable",
		"token.create", "token.revoke", "grant", "grant.revoke", "grant.gone", "rotation.request", "rotation.retry",
		"rotation.pause", "rotation.resume", "rotation.limit", "rotation.keep", "config",
		"audit.damaged", "audit.gap", "audit.unreadable", "audit.prune", "audit.refused",
		"audit.seal_key", "audit.spool", "audit.torn_tail", "audit.unrecorded"}
}

// Completion has the words that can complete an unfinished filter.
type Completion struct {
	Keep  string   // the part of the text before the completed word
	Key   Key      // whose values complete it; "" = keys
	Typed string   // the beginning of the value, or of the key
	Words []string // known without a query, to be put after Keep
}

// Complete completes the last word of a text. Values of secret, actor and node come from the database: the caller asks
// for those of Key that begin with Typed, and [Completion.Of] makes words of them.
func Complete(text string) Completion {
	start := 0
	if i := strings.LastIndexFunc(text, unicode.IsSpace); i >= 0 {
		start = i + 1 // a space of several bytes completes wrongly, which is rare
	}
	c := Completion{Keep: text[:start], Typed: text[start:]}
	if rest := strings.TrimLeft(c.Typed, "-!"); len(c.Typed)-len(rest) == 1 {
		c.Keep, c.Typed = c.Keep+c.Typed[:1], rest
	}
	if key, value, found := strings.Cut(c.Typed, ":"); found && slices.Contains(Keys(), Key(strings.ToLower(key))) {
		c.Keep, c.Key, c.Typed = c.Keep+key+":", Key(strings.ToLower(key)), value
		c.Words = beginning(value, known(c.Key))
		return c
	}
	for _, k := range Keys() {
		if word := string(k) + ":"; strings.HasPrefix(word, strings.ToLower(c.Typed)) {
			c.Words = append(c.Words, word)
		}
	}
	if len(c.Words) == 0 && !strings.ContainsAny(c.Typed, `:"*`) { // a word alone begins a secret's name
		c.Key = Secret
	}
	return c
}

func known(key Key) []string {
	switch key {
	case Action:
		return Actions()
	case Outcome:
		return Outcomes()
	case Since, Until:
		return Moments()
	}
	return nil
}

func beginning(with string, words []string) []string {
	var found []string
	for _, w := range words {
		if strings.HasPrefix(w, strings.ToLower(with)) {
			found = append(found, w)
		}
	}
	return found
}

// Asks reports whether the values come from the database.
func (c Completion) Asks() bool { return c.Key == Secret || c.Key == Actor || c.Key == Node }

// Of makes words of values that the database knows, but for those that no filter can name.
func (c Completion) Of(values []string) []string {
	var words []string
	for _, v := range values {
		if utf8.ValidString(v) && strings.IndexFunc(v, unicode.IsControl) < 0 {
			words = append(words, quote(v))
		}
	}
	return words
}
