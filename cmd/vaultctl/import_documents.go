package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hyperiondb/vault/internal/strictjson"
	"github.com/hyperiondb/vault/internal/vault"
)

// largestDocument is how many bytes of JSON documents an import reads: unlike lines, they are read whole.
const largestDocument = 64 << 20

// documents reads the JSON documents that other programs write. It has all entries, or the reason there are none,
// after the first call of next.
type documents struct {
	sources []documentSource
	format  documentFormat
	text    wiped // of the source read last
	named   bool  // the caller gave the name of the one secret
	entries []entry
	refused []*lineError
	read    bool
}

// documentSource is one file: name is that of a secret, if the file is about one and does not say its name.
type documentSource struct {
	file string // of a folder; "" = the one input
	name string
	open func() (io.ReadCloser, error)
}

// documentFormat finds the secrets of one document, and hands each over.
type documentFormat func(doc strictjson.Value, name string, found foundSecret)

// foundSecret takes a secret, whose value it owns then, or the reason why it cannot be read.
type foundSecret func(at strictjson.Value, name string, value []byte, err error)

// documentFormats are the formats of --format that are whole documents, with the programs that write them.
var documentFormats = map[string]documentFormat{
	"vault-kv":  vaultKV,    // vault kv get -format=json, and bao's
	"aws":       awsSecrets, // aws secretsmanager get-secret-value, batch-get-secret-value
	"chamber":   jsonObject, // chamber export
	"sops":      sopsObject, // sops decrypt --output-type json
	"infisical": infisical,  // infisical export --format json, infisical secrets -o json
	"json":      jsonObject,
}

func (d *documents) next() (entry, error) {
	if !d.read {
		d.read = true
		for _, source := range d.sources {
			err := d.source(source)
			switch {
			case err == nil:
			case source.file == "":
				return entry{}, ofInput(err)
			default: // the other files can be read
				d.refused = append(d.refused, ofFile(source.file, err))
			}
		}
		if found := len(d.entries) + len(d.refused); d.named && found > 1 {
			return entry{}, usage("--name is of one secret, and the input has %d", found)
		}
	}
	switch {
	case len(d.refused) > 0:
		err := d.refused[0]
		d.refused = d.refused[1:]
		return entry{}, err
	case len(d.entries) > 0:
		next := d.entries[0]
		d.entries = d.entries[1:]
		return next, nil
	}
	return entry{}, io.EOF
}

// ofInput is why the one input cannot be read.
func ofInput(err error) error {
	var notJSON *strictjson.PlaceError
	if errors.As(err, &notJSON) {
		return usage("%s", err)
	}
	return err
}

// ofFile is why a file of a folder cannot be read, with the line if there is one.
func ofFile(file string, err error) *lineError {
	var notJSON *strictjson.PlaceError
	if errors.As(err, &notJSON) {
		return &lineError{place{file, notJSON.Line}, fmt.Errorf("column %d: %s", notJSON.Column, notJSON.What)}
	}
	return &lineError{place{file: file}, reason(err)}
}

func (d *documents) source(s documentSource) error {
	from, err := s.open()
	if err != nil {
		return err
	}
	defer from.Close()
	defer d.text.wipe()
	if err := d.readAll(from); err != nil {
		return err
	}
	text := bytes.TrimPrefix(d.text.bytes, []byte("\xef\xbb\xbf"))
	if isUTF16(text) {
		return errUTF16
	}
	docs, err := strictjson.Documents(text)
	switch {
	case err != nil:
		return err
	case len(docs) == 0:
		return usage("the input is empty: did the program that writes it fail?")
	}
	for _, doc := range docs {
		d.format(doc, s.name, func(at strictjson.Value, name string, value []byte, err error) {
			where := place{s.file, at.Line()}
			if err != nil {
				clear(value)
				d.refused = append(d.refused, &lineError{where, inSource(name, err)})
				return
			}
			d.entries = append(d.entries, entry{where, vault.ImportItem{Name: name, Value: value}})
		})
	}
	return nil
}

// shownName is how many bytes of a name a message repeats: a key of a document may have any length.
const shownName = 100

func inSource(name string, err error) error {
	switch {
	case name == "":
		return err
	case len(name) > shownName:
		return fmt.Errorf("%q...: %w", strings.ToValidUTF8(name[:shownName], ""), err)
	}
	return fmt.Errorf("%q: %w", name, err)
}

func (d *documents) readAll(from io.Reader) error {
	chunk := make([]byte, 64<<10)
	defer clear(chunk)
	for {
		n, err := from.Read(chunk)
		d.text.add(chunk[:n]...)
		switch {
		case len(d.text.bytes) > largestDocument:
			return usage("the input is longer than the %d bytes that are read of documents: import it in parts",
				largestDocument)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (d *documents) wipe() {
	d.text.wipe()
	wipeEntries(d.entries)
}

// folderOf are the files of a folder that a tree of secrets was written to: prod/app/db.json is the secret prod/app/db.
// Every entry is a source: what cannot be read of it is why its open fails.
func folderOf(folder string) ([]documentSource, error) {
	root, err := filepath.EvalSymlinks(folder) // WalkDir does not follow a link
	if err != nil {
		return nil, fmt.Errorf("reading the folder %q: %w", folder, reason(err))
	}
	var found []documentSource
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if path == root || err == nil && d.IsDir() {
			return err
		}
		file, outside := filepath.Rel(root, path)
		if outside != nil {
			return outside
		}
		name, open := strings.TrimSuffix(file, filepath.Ext(file)), func() (io.ReadCloser, error) { return os.Open(path) }
		if err == nil { // else it is a folder that cannot be listed
			err = notADocument(path)
		}
		if err != nil {
			open = func() (io.ReadCloser, error) { return nil, err }
		}
		found = append(found, documentSource{file, filepath.ToSlash(name), open})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the folder %q: %w", folder, reason(err))
	}
	if len(found) == 0 {
		return nil, usage("the folder %q has no files", folder)
	}
	return found, nil
}

// notADocument is why an entry of a folder is not read; nil of a file that may be a document. A link stands for its
// file; one to a folder is not followed, because it may lead back.
func notADocument(path string) error {
	info, err := os.Stat(path)
	switch link, linkErr := os.Lstat(path); {
	case err != nil && linkErr == nil && link.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("a link that leads nowhere: %w", reason(err))
	case err != nil:
		return reason(err)
	case info.IsDir():
		return errors.New("a link to a folder is not followed: import that folder")
	case !info.Mode().IsRegular():
		return errors.New("not a file: a pipe, socket or device")
	case !strings.EqualFold(filepath.Ext(path), ".json"):
		return errors.New("its name does not end with .json")
	}
	return nil
}

var errNoName = errors.New("the document does not say which secret it is: --name NAME, or a folder of files NAME.json")

// vaultKV reads the answer to a read of a KV engine, of version 2 or 1, or an object of such answers by path. A secret
// whose only field is "value" becomes that value; any other becomes the JSON object of its fields, which vaultd's KV
// API shows as those fields again.
func vaultKV(doc strictjson.Value, name string, found foundSecret) {
	members, _ := doc.Members()
	data, isAnswer := memberOf(members, "data")
	if !isAnswer {
		if len(members) == 0 {
			found(doc, name, nil, errors.New("not the JSON of vault kv get -format=json"))
		}
		for _, m := range members {
			inner, ok := m.Value.Members()
			if _, isAnswer := memberOf(inner, "data"); !ok || !isAnswer {
				found(m.Value, m.Name, nil, errors.New("not the JSON of vault kv get -format=json"))
				continue
			}
			vaultKV(m.Value, strings.Trim(m.Name, "/"), found)
		}
		return
	}
	if name == "" {
		found(doc, "", nil, errNoName)
		return
	}
	fields, _ := data.Members()
	inner, version2 := memberOf(fields, "data")
	if _, ok := memberOf(fields, "metadata"); ok && version2 {
		data = inner
		fields, _ = data.Members()
	}
	switch {
	case data.IsNull():
		found(doc, name, nil, errors.New("it has no data: this version is deleted"))
	case len(fields) == 0:
		found(doc, name, nil, errors.New("it has no fields"))
	case len(fields) == 1 && fields[0].Name == "value":
		value, err := scalar(fields[0].Value)
		found(doc, name, value, err)
	default:
		found(doc, name, bytes.Clone(data.Raw()), nil)
	}
}

// awsSecrets reads the answer of AWS Secrets Manager to GetSecretValue or BatchGetSecretValue
// (https://docs.aws.amazon.com/secretsmanager/latest/apireference/).
func awsSecrets(doc strictjson.Value, _ string, found foundSecret) {
	members, _ := doc.Members()
	list, isBatch := memberOf(members, "SecretValues")
	if !isBatch {
		awsSecret(doc, found)
		return
	}
	values, _ := list.Elements()
	for _, v := range values {
		awsSecret(v, found)
	}
	failures, _ := memberOf(members, "Errors")
	failed, _ := failures.Elements()
	for _, f := range failed {
		fields, _ := f.Members()
		found(f, textOf(fields, "SecretId"), nil, fmt.Errorf("AWS did not give it: %s",
			printable(textOf(fields, "ErrorCode"))))
	}
	if next := textOf(members, "NextToken"); next != "" {
		found(doc, "", nil, errors.New("it is not the last page: the answer has a NextToken"))
	}
}

func awsSecret(v strictjson.Value, found foundSecret) {
	fields, _ := v.Members()
	name := textOf(fields, "Name")
	text, isText := memberOf(fields, "SecretString")
	binary, isBinary := memberOf(fields, "SecretBinary")
	switch {
	case name == "" || !isText && !isBinary:
		found(v, name, nil, errors.New(`not an answer of get-secret-value: "Name" or "SecretString" is missing`))
	case isText:
		value, err := scalar(text)
		found(v, name, value, err)
	default:
		encoded, _ := binary.Text()
		defer clear(encoded)
		value, err := strictjson.Base64(encoded)
		found(v, name, value, err)
	}
}

// infisical reads the list that infisical writes, of "key" and "value" or of "secretKey" and "secretValue". A
// "secretPath" goes before the name.
func infisical(doc strictjson.Value, _ string, found foundSecret) {
	list, ok := doc.Elements()
	if !ok {
		found(doc, "", nil, errors.New("not the JSON of infisical export: want an array"))
	}
	for _, v := range list {
		fields, _ := v.Members()
		name, key := textOf(fields, "key"), "value"
		if name == "" {
			name, key = textOf(fields, "secretKey"), "secretValue"
		}
		text, ok := memberOf(fields, key)
		if name == "" || !ok {
			found(v, name, nil, errors.New(`"key" or "value" is missing`))
			continue
		}
		if path := strings.Trim(textOf(fields, "secretPath"), "/"); path != "" {
			name = path + "/" + name
		}
		value, err := scalar(text)
		found(v, name, value, err)
	}
}

// jsonObject reads an object of values; objects inside it are folders of names.
func jsonObject(doc strictjson.Value, name string, found foundSecret) {
	members, ok := doc.Members()
	if !ok {
		found(doc, name, nil, errors.New("want a JSON object of names and values"))
	}
	inFolder("", members, found)
}

func inFolder(folder string, members []strictjson.Member, found foundSecret) {
	for _, m := range members {
		name := folder + m.Name
		if inner, ok := m.Value.Members(); ok {
			inFolder(name+"/", inner, found)
			continue
		}
		value, err := scalar(m.Value)
		found(m.Value, name, value, err)
	}
}

// sopsObject is jsonObject for a file that sops has decrypted.
func sopsObject(doc strictjson.Value, name string, found foundSecret) {
	members, _ := doc.Members()
	if _, encrypted := memberOf(members, "sops"); encrypted {
		found(doc, name, nil, errors.New("it is still encrypted: sops decrypt --output-type json FILE"))
		return
	}
	jsonObject(doc, name, found)
}

// scalar is the text of a string, or a number, boolean or array as it is written.
func scalar(v strictjson.Value) ([]byte, error) {
	if text, ok := v.Text(); ok {
		return text, nil
	}
	if v.IsNull() {
		return nil, errors.New("its value is null")
	}
	return bytes.Clone(v.Raw()), nil
}

func memberOf(members []strictjson.Member, name string) (strictjson.Value, bool) {
	i := slices.IndexFunc(members, func(m strictjson.Member) bool { return m.Name == name })
	if i < 0 {
		return strictjson.Value{}, false
	}
	return members[i].Value, true
}

// textOf is a member that is no secret; "" if it is missing or no string.
func textOf(members []strictjson.Member, name string) string {
	v, _ := memberOf(members, name)
	text, _ := v.Text()
	return string(text)
}
