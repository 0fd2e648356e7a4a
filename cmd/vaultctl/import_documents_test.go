package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func documentsOf(t *testing.T, format, name, text string) []string {
	t.Helper()
	source := documentSource{name, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}
	return readAll(t, &documents{sources: []documentSource{source}, format: documentFormats[format]})
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
		{"json", "", "", nil},
		{"json", "", `{"a":"hunter2"`, []string{"ended: not JSON that all programs read alike..."}},
		{"json", "", `{"a":"x","a":"hunter2"}`, []string{"ended: not JSON that all programs read alike..."}},
		{"json", "", "{\"a\":\"hunter2\xff\"}", []string{"ended: not valid UTF-8"}},
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
	if _, err := folderOf(dir); err == nil || !strings.Contains(err.Error(), "no file that ends with .json") {
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
	wantEntries(t, "a folder", got, `1 prod/app/db={"password": "p\u00e4ss", "port": 5432}`, "1 prod/key=x")
	mustWrite(t, filepath.Join(dir, "prod", "key.json"), `{"data":hunter2`, 0o600)
	got = readAll(t, &documents{sources: sources, format: vaultKV})
	wantEntries(t, "a broken file", got, `ended: "prod/key": not JSON...`)
}

func TestDocumentsHaveABound(t *testing.T) {
	text := io.MultiReader(strings.NewReader(`{"a":"`), io.LimitReader(endless{}, largestDocument))
	d := &documents{format: jsonObject, sources: []documentSource{{"", func() (io.ReadCloser, error) {
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
