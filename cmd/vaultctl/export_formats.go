package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hyperiondb/vault/internal/lazyregexp"
	"github.com/hyperiondb/vault/internal/strictjson"
	"github.com/hyperiondb/vault/internal/vault"
)

// exportFormat writes secrets one by one. append adds one to a buffer that has room for any, so it never grows and
// leaves no copy of a value; an error is about that secret alone, and what was appended is then dropped. begin and end
// are written only if there is a secret between them.
type exportFormat interface {
	whole() bool // the output is one document: without a secret it must not be one that a program takes
	begin() string
	append(line []byte, e vault.Exported) ([]byte, error)
	end() string
}

// exportFormats are the values of --format.
var exportFormats = []string{"jsonl", "dotenv", "json", "kubernetes"}

func (o exportOptions) formatter() exportFormat {
	keys := &keys{prefix: o.prefix, of: map[string]string{}}
	switch o.format {
	case "dotenv":
		return dotenvExport{keys}
	case "json":
		return &objectExport{}
	case "kubernetes":
		return &kubernetesExport{keys: keys, name: o.name}
	}
	return linesExport{o.settings}
}

func (o exportOptions) checkFormat() error {
	switch {
	case !slices.Contains(exportFormats, o.format):
		return usage("--format takes %s, not %q", strings.Join(exportFormats, ", "), o.format)
	case o.settings && o.format != "jsonl":
		return usage("--settings goes with --format jsonl: no other has them")
	case o.format == "kubernetes" && !kubernetesName().MatchString(o.name):
		return usage("--name is that of the Kubernetes Secret: lower case letters, digits, - and ., up to 253")
	case o.format != "kubernetes" && o.name != "":
		return usage("--name goes with --format kubernetes")
	}
	return nil
}

// keys finds two secrets that would have the same key.
type keys struct {
	prefix string
	of     map[string]string // the secret of a key
}

func (k *keys) take(key, name string) error {
	if other, taken := k.of[key]; taken {
		return fmt.Errorf("it would be %s, as %q is", key, other)
	}
	k.of[key] = name
	return nil
}

type linesExport struct{ settings bool }

func (linesExport) whole() bool   { return false }
func (linesExport) begin() string { return "" }
func (linesExport) end() string   { return "" }
func (l linesExport) append(line []byte, e vault.Exported) ([]byte, error) {
	return appendExported(line, e, l.settings), nil
}

// dotenvExport writes what import reads: the spellings that all programs read alike. A value that has none is refused.
type dotenvExport struct{ keys *keys }

func (dotenvExport) whole() bool   { return false }
func (dotenvExport) begin() string { return "" }
func (dotenvExport) end() string   { return "" }
func (d dotenvExport) append(line []byte, e vault.Exported) ([]byte, error) {
	variable := variableOf(strings.TrimPrefix(e.Name, d.keys.prefix))
	quote := byte('\'')
	fits := func(quote byte, differences []difference) bool {
		return bytes.IndexByte(e.Value, quote) < 0 && checkSpelling(e.Value, differences) == nil
	}
	switch {
	case !variableName().MatchString(variable):
		return line, errors.New("its name makes no variable's name")
	case !utf8.Valid(e.Value):
		return line, errors.New("its value is not text")
	case fits('\'', inSingleQuotes):
	case fits('"', inDoubleQuotes):
		quote = '"'
	default:
		return line, errors.New("no spelling of its value is read alike by all programs: --format jsonl or json")
	}
	line = append(append(line, variable...), '=', quote)
	return append(append(line, e.Value...), quote, '\n'), d.keys.take(variable, e.Name)
}

// objectExport writes one JSON object of names and values.
type objectExport struct{ some bool }

func (*objectExport) whole() bool   { return true }
func (*objectExport) begin() string { return "{" }
func (*objectExport) end() string   { return "\n}\n" }
func (o *objectExport) append(line []byte, e vault.Exported) ([]byte, error) {
	if !utf8.Valid(e.Value) {
		return line, errors.New("its value is not text: --format jsonl")
	}
	line = strictjson.AppendString(append(line, separator(&o.some)...), []byte(e.Name))
	return strictjson.AppendString(append(line, ": "...), e.Value), nil
}

var (
	// DNS subdomain names, and the keys of a Secret:
	// https://kubernetes.io/docs/concepts/configuration/secret/#restriction-names-data
	kubernetesName = lazyregexp.New(`\A[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\z`)
	kubernetesKey  = lazyregexp.New(`\A[-._a-zA-Z0-9]{1,253}\z`)
)

// kubernetesExport writes the manifest of a Secret, in JSON, which kubectl takes as it does YAML. A key is the name
// after the prefix, with "." for "/".
type kubernetesExport struct {
	keys *keys
	name string
	some bool
}

func (*kubernetesExport) whole() bool { return true }

func (k *kubernetesExport) begin() string {
	return fmt.Sprintf("{\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"type\": \"Opaque\",\n"+
		"\"metadata\": {\"name\": %q},\n\"data\": {", k.name)
}

func (*kubernetesExport) end() string { return "\n}}\n" }

func (k *kubernetesExport) append(line []byte, e vault.Exported) ([]byte, error) {
	key := strings.ReplaceAll(strings.TrimPrefix(e.Name, k.keys.prefix), "/", ".")
	if !kubernetesKey().MatchString(key) || key == "." || strings.HasPrefix(key, "..") {
		return line, errors.New("its name makes no key of a Secret")
	}
	if err := k.keys.take(key, e.Name); err != nil {
		return line, err
	}
	line = strictjson.AppendString(append(line, separator(&k.some)...), []byte(key))
	line = append(line, `: "`...)
	return append(base64.StdEncoding.AppendEncode(line, e.Value), '"'), nil
}

// separator goes before a member of an object.
func separator(some *bool) string {
	if *some {
		return ",\n  "
	}
	*some = true
	return "\n  "
}
