package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// AppendJSON appends the event as encoding/json writes it, up to the spelling of escapes. Every read writes one, and by
// reflection that costs as much as opening its value.
func (e Event) AppendJSON(dst []byte) ([]byte, error) {
	dst = append(dst, `{"at":"`...)
	dst = e.At.AppendFormat(dst, time.RFC3339Nano)
	dst = appendField(append(dst, '"'), "actor", e.Actor, true)
	dst = appendField(dst, "client", e.Client, false)
	dst = appendField(dst, "node", e.Node, false)
	dst = appendField(dst, "action", e.Action, true)
	dst = appendField(dst, "secret", e.Secret, false)
	if e.Version != 0 {
		dst = strconv.AppendInt(append(dst, `,"version":`...), int64(e.Version), 10)
	}
	dst = appendField(dst, "outcome", string(e.Outcome), true)
	dst = appendField(dst, "request_id", e.RequestID, false)
	if len(e.Detail) == 0 {
		return append(dst, '}'), nil
	}
	dst = append(dst, `,"detail":`...)
	separator := byte('{')
	var few [mostDetails]string // so that sorting the names takes no allocation
	names := few[:0]
	for name := range e.Detail {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		dst = append(appendText(append(dst, separator), name), ':')
		separator = ','
		if text, ok := e.Detail[name].(string); ok { // every read of an app has three of them
			dst = appendText(dst, text)
			continue
		}
		value, err := marshalDetail(e.Detail[name])
		if err != nil {
			return nil, fmt.Errorf("writing the detail %q of an event: %w", name, err)
		}
		dst = append(dst, value...)
	}
	return append(dst, "}}"...), nil
}

// marshalDetail is json.Marshal with all text made [Printable].
func marshalDetail(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	if err != nil || !bytes.ContainsRune(text, '\\') && !bytes.ContainsFunc(text, hidden) {
		return text, err
	}
	var plain any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&plain); err != nil {
		return nil, err
	}
	return json.Marshal(printable(plain))
}

// PrintableDetail makes all texts of a detail [Printable].
func PrintableDetail(detail map[string]any) map[string]any {
	if detail == nil {
		return nil
	}
	return printable(detail).(map[string]any)
}

func printable(value any) any {
	switch v := value.(type) {
	case string:
		return Printable(v)
	case []any:
		for i := range v {
			v[i] = printable(v[i])
		}
	case map[string]any:
		shown := make(map[string]any, len(v))
		for name, inner := range v {
			shown[Printable(name)] = printable(inner)
		}
		return shown
	}
	return value
}

func appendField(dst []byte, name, value string, always bool) []byte {
	if value == "" && !always {
		return dst
	}
	dst = append(append(append(dst, `,"`...), name...), `":`...)
	return appendText(dst, value)
}

// appendText leaves text that is not plain ASCII to encoding/json.
func appendText(dst []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(Printable(text)) // of a string it never fails
			return append(dst, quoted...)
		}
	}
	return append(append(append(dst, '"'), text...), '"')
}
