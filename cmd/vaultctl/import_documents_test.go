package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func documentsOf(t *testing.T, format, name, text string) []string {
	t.Helper()
	return readAll(t, &documents{sources: []documentSource{sourceOf(name, text)}, format: documentFormats[format]})
}

func sourceOf(name, text string) documentSource {
	return documentSource{name: name, open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(text)), nil
	}}
}

const kvAnswer = `{
  "request_id": "0f9c", "lease_id": "", "lease_duration": 0, "renewable": false,
  "data": {"data": {"password": "p\u00e4ss", "port": 5432}, "metadata": {"version": 3, "destroyed": false}},
  "warnings": null, "mount_type": "kv"
}`

func TestDocuments(t *testing.T) {
	for _, c := range []struct {
		format, name, text string
		want               []string
	}{
		{"vault-kv", "app/db", kvAnswer, []string{`1 app/db={"password": "p\u00e4ss", "port": 5432}`}},
		{"vault-kv", "app/one", `{"data":{"data":{"value":"x"},"metadata":{"version":1}}}`, []string{"1 app/one=x"}},
		{"vault-kv", "app/v1", `{"lease_duration":2764800,"data":{"value":"x"}}`, []string{"1 app/v1=x"}},
		{"vault-kv", "app/v1", `{"data":{"data":"x","user":"y"}}`, []string{`1 app/v1={"data":"x","user":"y"}`}},
		{"vault-kv", "", "{\n\"a/b\": {\"data\":{\"data\":{\"value\":\"x\"},\"metadata\":{}}},\n\"/c/\": " + kvAnswer + "}",
			[]string{"2 a/b=x", `3 c={"password": "p\u00e4ss", "port": 5432}`}},
		{"vault-kv", "", kvAnswer, []string{"1: the document does not say which secret it is: --name NAME..."}},
		{"vault-kv", "a", `{"data":{"data":null,"metadata":{"deletion_time":"2026-01-01T00:00:00Z"}}}`,
			[]string{`1: "a": it has no data: this version is deleted`}},
		{"vault-kv", "a", `{"data":{"data":{},"metadata":{}}}`, []string{`1: "a": it has no fields`}},
		{"vault-kv", "a", `{"data":{"data":{"value":null},"metadata":{}}}`, []string{`1: "a": its value is null`}},
		{"vault-kv", "a", `{"errors":["hunter2"]}`, []string{`1: "errors": not the JSON of vault kv get -format=json`}},
		{"vault-kv", "a", `"hunter2"`, []string{`1: "a": not the JSON of vault kv get -format=json`}},

		{"aws", "", `{"ARN":"arn:aws:...","Name":"prod/db","VersionId":"x","SecretString":"{\"u\":1}","CreatedDate":1.5}`,
			[]string{`1 prod/db={"u":1}`}},
		{"aws", "", `{"Name":"bin","SecretBinary":"AP8K"}`, []string{"1 bin=\x00\xff\n"}},
		{"aws", "", `{"Name":"bin","SecretBinary":"hunter2"}`, []string{`1: "bin": not base64 with padding...`}},
		{"aws", "", "{\"SecretValues\":[{\"Name\":\"a\",\"SecretString\":\"1\"},\n{\"Name\":\"b\",\"SecretString\":\"2\"}]," +
			"\"Errors\":[{\"SecretId\":\"c\",\"ErrorCode\":\"AccessDenied\",\"Message\":\"m\"}]}",
			[]string{`2: "c": AWS did not give it: AccessDenied`, "1 a=1", "2 b=2"}},
		{"aws", "", `{"SecretValues":[],"NextToken":"x"}`, []string{"1: it is not the last page..."}},
		{"aws", "", `{"Name":"a","SecretString":"1"} {"Name":"b","SecretString":"2"}`, []string{"1 a=1", "1 b=2"}},
		{"aws", "", `{"name":"a","SecretString":"hunter2"}`, []string{"1: not an answer of get-secret-value..."}},
		{"aws", "", `["hunter2"]`, []string{"1: not an answer of get-secret-value..."}},

		{"chamber", "", `{"db_password":"x","port":"5432"}`, []string{"1 db_password=x", "1 port=5432"}},
		{"chamber", "", `["hunter2"]`, []string{"1: want a JSON object of names and values"}},
		{"sops", "", `{"db":{"password":"x","port":5432,"hosts":["a","b"]},"debug":true}`,
			[]string{"1 db/password=x", "1 db/port=5432", `1 db/hosts=["a","b"]`, "1 debug=true"}},
		{"sops", "", `{"db":"ENC[hunter2]","sops":{"mac":"x"}}`, []string{"1: it is still encrypted: sops decrypt..."}},
		{"json", "", `{"a":null,"b":"x"}`, []string{`1: "a": its value is null`, "1 b=x"}},
		{"infisical", "", "[{\"key\":\"DB\",\"value\":\"x\",\"type\":\"shared\"},\n" +
			"{\"secretKey\":\"K\",\"secretValue\":\"y\",\"secretPath\":\"/app/\"}, {\"key\":\"E\"}]",
			[]string{`2: "E": "key" or "value" is missing`, "1 DB=x", "2 app/K=y"}},
		{"infisical", "", `{"DB":"hunter2"}`, []string{"1: not the JSON of infisical export: want an array"}},

		{"json", "", "\xef\xbb\xbf{}", nil},
		{"json", "", "", []string{"ended: the input is empty: did the program that writes it fail?"}},
		{"vault-kv", "a", " \n", []string{"ended: the input is empty..."}},
		{"aws", "", "\xef\xbb\xbf", []string{"ended: the input is empty..."}},
		{"json", "", `{"a":"hunter2"`, []string{"ended: line 1, column 15: the text ends inside a value..."}},
		{"json", "", "{\"a\":\"x\",\n \"a\":\"hunter2\"}",
			[]string{"ended: line 2, column 2: a name is twice in one object"}},
		{"json", "", "{\"a\":\"hunter2\xff\"}", []string{"ended: line 1, column 14: not valid UTF-8"}},
		{"sops", "", "db: hunter2\n", []string{"ended: line 1, column 1: not JSON, perhaps YAML..."}},
		{"aws", "", "\xff\xfe{\x00}\x00", []string{"ended: the input is UTF-16; it has to be UTF-8"}},
	} {
		got := documentsOf(t, c.format, c.name, c.text)
		wantEntries(t, c.format+" "+c.text, got, c.want...)
		for _, line := range got {
			if strings.Contains(line, "hunter2") {
				t.Errorf("%s: got %q, which repeats what may be a value", c.text, line)
			}
		}
	}
}

func TestDocumentsOfAFolder(t *testing.T) {
	dir := t.TempDir()
	if _, err := folderOf(dir); err == nil || !strings.Contains(err.Error(), "has no files") {
		t.Errorf("an empty folder: got %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "prod", "app"), 0o700); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(dir, "prod", "app", "db.json"), kvAnswer, 0o600)
	mustWrite(t, filepath.Join(dir, "prod", "key.json"), `{"data":{"data":{"value":"x"},"metadata":{}}}`, 0o600)
	mustWrite(t, filepath.Join(dir, "README"), "hunter2", 0o600)
	sources, err := folderOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := readAll(t, &documents{sources: sources, format: vaultKV})
	wantEntries(t, "a folder", got, "0: its name does not end with .json",
		`1 prod/app/db={"password": "p\u00e4ss", "port": 5432}`, "1 prod/key=x")
}

// A file that cannot be read is one failure, with its name; the others are read.
func TestDocumentsOfAFolderWithBadFiles(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, filepath.Join(dir, "broken.json"), `{"data":hunter2`, 0o600)
	mustWrite(t, filepath.Join(dir, "empty.json"), "", 0o600)
	mustWrite(t, filepath.Join(dir, "good.json"), `{"data":{"data":{"value":"x"},"metadata":{}}}`, 0o600)
	mustWrite(t, filepath.Join(dir, "more.json"), "\n{\"data\":{\"data\":{},\"metadata\":{}}}", 0o600)
	sources, err := folderOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("permission denied")
	sources = append(sources, documentSource{"closed.json", "closed",
		func() (io.ReadCloser, error) { return nil, &fs.PathError{Op: "open", Path: "closed.json", Err: gone} }})
	d := &documents{sources: sources, format: vaultKV}
	var refused []string
	for {
		e, err := d.next()
		var of *lineError
		if errors.As(err, &of) {
			refused = append(refused, of.Error())
			continue
		}
		if err != nil || e.Name != "good" || e.place != (place{"good.json", 1}) {
			t.Errorf("got %q at %v, %v, want good", e.Name, e.place, err)
		}
		break
	}
	wantEntries(t, "a folder with bad files", refused, `"broken.json", line 1: column 9: want a JSON value`,
		`"empty.json": the input is empty...`, `"more.json", line 2: "more": it has no fields`,
		`"closed.json": permission denied`)
}

func TestDocumentsNamedByTheCaller(t *testing.T) {
	for text, want := range map[string]string{
		`{"data":{"data":{"value":"x"}}}`: "1 a=",
		`{"data":{"data":{"value":"x"},"metadata":{}}} {"data":{"data":{"value":"y"},"metadata":{}}}`: "ended: --name " +
			"is of one secret, and the input has 2",
		`{"a":{"data":{"value":"x"}},"b":1}`: "ended: --name is of one secret, and the input has 2",
	} {
		d := &documents{sources: []documentSource{sourceOf("a", text)}, format: vaultKV, named: true}
		wantEntries(t, text, readAll(t, d), want+"...")
	}
}

func TestDocumentsHaveABound(t *testing.T) {
	text := io.MultiReader(strings.NewReader(`{"a":"`), io.LimitReader(endless{}, largestDocument))
	d := &documents{format: jsonObject, sources: []documentSource{{open: func() (io.ReadCloser, error) {
		return io.NopCloser(text), nil
	}}}}
	wantEntries(t, "a long document", readAll(t, d), "ended: the input is longer than the 67108864 bytes...")
}

type endless struct{}

func (endless) Read(into []byte) (int, error) {
	for i := range into {
		into[i] = 'x'
	}
	return len(into), nil
}
