package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// readFile reads the settings of a TOML file. The decoder alone would take Allow for allow, ignore what is no table in
// place of one, and name types of Go: so each setting is decoded by itself, once its type is known to be right.
func (c *Config) readFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	if err := c.decode(string(text)); err != nil {
		return fmt.Errorf("%s %w", path, err)
	}
	c.path, c.fileHasPassword = path, c.hasPassword()
	return nil
}

// settings are the settings by their keys.
func (c *Config) settings() map[string]reflect.Value {
	all := map[string]reflect.Value{}
	for field, value := range reflect.ValueOf(c).Elem().Fields() {
		if key := field.Tag.Get("toml"); key != "" {
			all[key] = value
		}
	}
	return all
}

// decode returns an error about the first setting of the text that is wrong. It begins with the line.
func (c *Config) decode(text string) error {
	var file map[string]toml.Primitive
	meta, err := toml.Decode(text, &file)
	if err != nil {
		return inLine(err)
	}
	fields := c.settings()
	for _, key := range meta.Keys() {
		value, first := file[key[0]]
		if !first { // the keys of a table follow that of the table
			continue
		}
		delete(file, key[0])
		field, ok := fields[key[0]]
		if !ok {
			return refuse(&meta, value, unknownKey(key[:1], fields))
		}
		if err := decodeSetting(&meta, key[:1], value, field); err != nil {
			return err
		}
	}
	return nil
}

func unknownKey(key toml.Key, fields map[string]reflect.Value) error {
	if _, ok := fields[strings.ToLower(key[0])]; ok {
		return fmt.Errorf("unknown key %q: it is %q", key.String(), strings.ToLower(key[0]))
	}
	return fmt.Errorf("unknown key %q", key.String())
}

func decodeSetting(meta *toml.MetaData, key toml.Key, value toml.Primitive, field reflect.Value) error {
	var raw any
	if err := meta.PrimitiveDecode(value, &raw); err != nil {
		return inLine(err)
	}
	if !fits(raw, field.Type()) {
		return refuse(meta, value, fmt.Errorf("%s: want %s, have %s", key, wanted(field.Type()), had(raw)))
	}
	if whole, ok := raw.(int64); ok && field.Kind() == reflect.Float64 { // check has the bounds, the decoder other ones
		field.SetFloat(float64(whole))
		return nil
	}
	if field.Kind() != reflect.Map {
		if err := meta.PrimitiveDecode(value, field.Addr().Interface()); err != nil {
			return refuse(meta, value, fmt.Errorf("%s: %w", key, reason(err)))
		}
		return nil
	}
	var table map[string]toml.Primitive
	if err := meta.PrimitiveDecode(value, &table); err != nil {
		return inLine(err)
	}
	field.Set(reflect.MakeMap(field.Type()))
	for _, name := range tableKeys(meta, key) {
		entry := reflect.New(field.Type().Elem()).Elem()
		if err := decodeSetting(meta, toml.Key{key[0], name}, table[name], entry); err != nil {
			return err
		}
		field.SetMapIndex(reflect.ValueOf(name), entry)
	}
	return nil
}

// tableKeys are the keys of a table, in the order of the file.
func tableKeys(meta *toml.MetaData, table toml.Key) []string {
	var names []string
	seen := map[string]bool{}
	for _, key := range meta.Keys() {
		if len(key) > 1 && key[0] == table[0] && !seen[key[1]] {
			names, seen[key[1]] = append(names, key[1]), true
		}
	}
	return names
}

// fits reports whether a value of the file has the type of a setting. Of a table it does not look at the entries.
func fits(raw any, of reflect.Type) bool {
	switch raw := raw.(type) {
	case string:
		return of.Kind() == reflect.String || isText(of)
	case int64: // of a duration, 0; of a size, bytes
		return of.Kind() == reflect.Int || of.Kind() == reflect.Float64 || isText(of)
	case float64:
		return of.Kind() == reflect.Float64
	case bool:
		return of.Kind() == reflect.Bool
	case map[string]any:
		return of.Kind() == reflect.Map
	case []any:
		return of.Kind() == reflect.Slice && stranger(raw) == nil
	}
	return false
}

// isText reports whether settings of a type parse their own text.
func isText(of reflect.Type) bool {
	return of == reflect.TypeFor[duration]() || of == reflect.TypeFor[size]()
}

// stranger is the first element of a list that is no string, nil if all are strings.
func stranger(list []any) any {
	for _, element := range list {
		if _, ok := element.(string); !ok {
			return element
		}
	}
	return nil
}

// wanted says what a setting takes.
func wanted(of reflect.Type) string {
	switch {
	case of == reflect.TypeFor[duration]():
		return `a duration such as "10s"`
	case of == reflect.TypeFor[size]():
		return `a size such as "512MiB"`
	}
	return map[reflect.Kind]string{
		reflect.String: "a string", reflect.Slice: "a list of strings", reflect.Map: "a table", reflect.Bool: "true or false",
		reflect.Int: "an integer", reflect.Float64: "a number",
	}[of.Kind()]
}

// had names the type of what the file has. It does not repeat the value, which may hold a password.
func had(raw any) string {
	switch raw := raw.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "a list of tables"
	case []any:
		if s := stranger(raw); s != nil {
			return "a list with " + had(s)
		}
		return "a list"
	}
	return "another type"
}

// refuse returns an error that begins with the line of a value.
func refuse(meta *toml.MetaData, value toml.Primitive, why error) error {
	return fmt.Errorf("line %d: %w", lineOf(meta, value), why)
}

// lineOf is the line of a value. A table that is only a part of longer keys has none, and takes that of the first.
func lineOf(meta *toml.MetaData, value toml.Primitive) int {
	var parse toml.ParseError
	if errors.As(meta.PrimitiveDecode(value, refusal{}), &parse) && parse.Position.Line > 0 {
		return parse.Position.Line
	}
	var table map[string]toml.Primitive
	if meta.PrimitiveDecode(value, &table) != nil {
		return 0
	}
	first := 0
	for _, entry := range table {
		if line := lineOf(meta, entry); line > 0 && (first == 0 || line < first) {
			first = line
		}
	}
	return first
}

// refusal is decoded from every value with an error, to which the decoder adds the line.
type refusal struct{}

// UnmarshalTOML implements toml.Unmarshaler.
func (refusal) UnmarshalTOML(any) error { return errConfig }

func inLine(err error) error {
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		return err
	}
	if strings.Contains(parse.Message, "out of range for ") { // a type of Go
		return fmt.Errorf("line %d: %s: the number is out of range", parse.Position.Line, parse.LastKey)
	}
	return fmt.Errorf("line %d: %s", parse.Position.Line, parse.Message)
}

// reason is the error without the place that the decoder adds.
func reason(err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return errors.New(parse.Message)
	}
	return err
}
