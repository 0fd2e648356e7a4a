package httpapi

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// negotiate chooses between JSON and the bytes of a value (RFC 9110, section 12.5.1). Without Accept, and where both
// have the same weight, it is JSON. Ranges that do not parse do not count; some clients send one by default.
func negotiate(h http.Header) (string, error) {
	headers := h.Values("Accept")
	if len(headers) == 0 {
		return typeJSON, nil
	}
	ranges := splitList(strings.Join(headers, ","))
	asJSON, asBytes := quality(ranges, typeJSON), quality(ranges, typeBytes)
	switch {
	case asJSON == 0 && asBytes == 0:
		return "", mediaType("the answer can be " + typeJSON + " or " + typeBytes)
	case asBytes > asJSON:
		return typeBytes, nil
	}
	return typeJSON, nil
}

// quality is the weight of the most specific range that holds the type.
func quality(ranges []string, offer string) float64 {
	group, _, _ := strings.Cut(offer, "/")
	best, weight := 0, 0.0
	for _, text := range ranges {
		kind, params, err := mime.ParseMediaType(text)
		if err != nil {
			continue
		}
		specific := map[string]int{"*/*": 1, group + "/*": 2, offer: 3}[kind]
		if q, ok := weightOf(params["q"]); ok && specific > best {
			best, weight = specific, q
		}
	}
	return weight
}

func weightOf(q string) (float64, bool) {
	if q == "" {
		return 1, true
	}
	w, err := strconv.ParseFloat(q, 64)
	return w, err == nil && w >= 0 && w <= 1
}

// splitList splits a header at the commas that stand outside quotes. Empty elements are left out.
func splitList(s string) []string {
	var elements []string
	add := func(e string) {
		if e = strings.Trim(e, " \t"); e != "" {
			elements = append(elements, e)
		}
	}
	start, quoted := 0, false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			add(s[start:i])
			start = i + 1
		}
	}
	add(s[start:])
	return elements
}

// heldVersions is what If-None-Match says the client has (RFC 9110, section 13.1.2). Tags that are not version ids
// match nothing.
type heldVersions struct {
	any bool // "*"
	ids []uuid.UUID
}

func ifNoneMatch(h http.Header) heldVersions {
	var held heldVersions
	tags := h["If-None-Match"]
	if len(tags) == 0 {
		return held
	}
	for _, tag := range splitList(strings.Join(tags, ",")) {
		if tag == "*" {
			held.any = true
		}
		// The comparison is the weak one, so W/ makes no difference.
		tag = strings.TrimPrefix(tag, "W/")
		if len(tag) != 38 || tag[0] != '"' || tag[37] != '"' {
			continue
		}
		if id, err := uuid.Parse(tag[1:37]); err == nil {
			held.ids = append(held.ids, id)
		}
	}
	return held
}

// one is the id if there is exactly one: then 304 is answered without opening a value.
func (held heldVersions) one() uuid.UUID {
	if !held.any && len(held.ids) == 1 {
		return held.ids[0]
	}
	return uuid.Nil
}

func (held heldVersions) has(id uuid.UUID) bool {
	for _, h := range held.ids {
		if h == id {
			return true
		}
	}
	return held.any
}

func etag(id uuid.UUID) string { return `"` + id.String() + `"` }
