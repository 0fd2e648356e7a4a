package s3fake

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hyperiondb/vault/internal/awsclient/awsfake"
)

// The operations.
const (
	Put  = "PutObject"
	Get  = "GetObject"
	List = "ListObjectsV2"
)

func operations() []string { return []string{Put, Get, List} }

// longestPage is how many names S3 lists at once.
const longestPage = 1000

// Fake is one bucket in one region. Its zero value is not usable.
type Fake struct {
	*awsfake.Faults
	server         awsfake.Server
	region, bucket string

	mu      sync.Mutex // guards what follows
	objects map[string][]byte
	calls   map[string]int
	page    int
	serial  int
}

// New makes an empty bucket.
func New(region, bucket string) *Fake {
	return &Fake{Faults: awsfake.NewFaults(kinds(), operations()), region: region, bucket: bucket,
		objects: map[string][]byte{}, calls: map[string]int{}, page: longestPage}
}

// Serve listens on a free port of 127.0.0.1 and returns the URL. Close ends it.
func (f *Fake) Serve() (url string, err error) { return f.server.Serve(f) }

// Close ends Serve: hanging requests end and connections are closed.
func (f *Fake) Close() {
	f.Clear()
	f.server.Close()
}

// SetPage makes listings come in pages of n names.
func (f *Fake) SetPage(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.page = n
}

// Calls counts the requests that arrived, by operation.
func (f *Fake) Calls() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.calls)
}

// Keys are the names of all objects, in order.
func (f *Fake) Keys() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.objects))
}

// Object is the object of a name, nil if there is none.
func (f *Fake) Object(key string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.Clone(f.objects[key])
}

// Set stores an object, in place of one of the same name.
func (f *Fake) Set(key string, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects[key] = bytes.Clone(body)
}

// Delete removes an object.
func (f *Fake) Delete(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.objects, key)
}

// answer is the response, unless a fault changes it.
type answer struct {
	status      int
	contentType string
	body        []byte
}

type failure struct {
	XMLName xml.Name `xml:"Error"`
	Code    string
	Message string
}

func refusal(status int, code string) answer {
	body, err := xml.Marshal(failure{Code: code, Message: "as told"})
	if err != nil {
		panic(err) // strings always marshal
	}
	return answer{status, "application/xml", body}
}

// ServeHTTP answers one request.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op, key := f.route(r)
	w.Header().Set("X-Amz-Request-Id", f.arrived(op))
	if op == "" {
		refusal(http.StatusNotImplemented, "NotImplemented").write(w)
		return
	}
	if !f.signed(r) {
		refusal(http.StatusForbidden, "AccessDenied").write(w)
		return
	}
	fault, released := f.Take(op)
	if early(w, r, fault, released) {
		return
	}
	spoil(w, fault, f.perform(op, key, r))
}

// route accepts /BUCKET/KEY, and /BUCKET with list-type=2.
func (f *Fake) route(r *http.Request) (op, key string) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/"+f.bucket)
	key = strings.TrimPrefix(rest, "/")
	switch {
	case !ok || rest != "" && !strings.HasPrefix(rest, "/"):
	case r.Method == http.MethodPut && key != "":
		return Put, key
	case r.Method == http.MethodGet && key != "":
		return Get, key
	case r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "2":
		return List, ""
	}
	return "", ""
}

func (f *Fake) arrived(op string) (requestID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serial++
	f.calls[op]++
	return fmt.Sprintf("FAKE%012d", f.serial)
}

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=[^/, ]+/[0-9]{8}/([a-z0-9-]+)/s3/aws4_request, ?` +
	`SignedHeaders=[a-z0-9;-]*host[a-z0-9;-]*, ?Signature=[0-9a-f]{64}$`)

func (f *Fake) signed(r *http.Request) bool {
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	return m != nil && m[1] == f.region && r.Header.Get("X-Amz-Date") != "" && r.Header.Get("X-Amz-Content-Sha256") != ""
}

func (f *Fake) perform(op, key string, r *http.Request) answer {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 64<<20))
	if err != nil {
		return refusal(http.StatusBadRequest, "IncompleteBody")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch op {
	case Put:
		return f.put(key, body, r.Header)
	case Get:
		body, ok := f.objects[key]
		if !ok {
			return refusal(http.StatusNotFound, "NoSuchKey")
		}
		return answer{http.StatusOK, "application/jsonl", body}
	}
	return f.list(r.FormValue("prefix"), r.FormValue("start-after"))
}

// put is called with f.mu held.
func (f *Fake) put(key string, body []byte, header http.Header) answer {
	sum := sha256.Sum256(body)
	if want := header.Get("X-Amz-Checksum-Sha256"); want != base64.StdEncoding.EncodeToString(sum[:]) {
		return refusal(http.StatusBadRequest, "BadDigest") // S3 does without one; Object Lock does not
	}
	if want := header.Get("X-Amz-Content-Sha256"); want != fmt.Sprintf("%x", sum) && want != "UNSIGNED-PAYLOAD" {
		return refusal(http.StatusBadRequest, "XAmzContentSHA256Mismatch")
	}
	if _, there := f.objects[key]; there && header.Get("If-None-Match") == "*" {
		return refusal(http.StatusPreconditionFailed, "PreconditionFailed")
	}
	f.objects[key] = body
	return answer{status: http.StatusOK}
}

type listing struct {
	XMLName     xml.Name `xml:"ListBucketResult"`
	Name        string
	Prefix      string
	StartAfter  string
	MaxKeys     int
	KeyCount    int
	IsTruncated bool
	Contents    []listed
}

type listed struct {
	Key  string
	Size int
}

// list is called with f.mu held.
func (f *Fake) list(prefix, after string) answer {
	l := listing{Name: f.bucket, Prefix: prefix, StartAfter: after, MaxKeys: f.page}
	var found []string
	for key := range f.objects {
		if strings.HasPrefix(key, prefix) && key > after {
			found = append(found, key)
		}
	}
	slices.Sort(found) // few, in a listing near the end of many
	for _, key := range found {
		if len(l.Contents) == f.page {
			l.IsTruncated = true
			break
		}
		l.Contents = append(l.Contents, listed{key, len(f.objects[key])})
	}
	l.KeyCount = len(l.Contents)
	body, err := xml.Marshal(l)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return answer{http.StatusOK, "application/xml", body}
}

// early applies the faults that come before the work. It reports whether the request is answered.
func early(w http.ResponseWriter, r *http.Request, fault Fault, released <-chan struct{}) bool {
	refusals := map[Kind]answer{
		SlowDown:     refusal(http.StatusServiceUnavailable, "SlowDown"),
		Internal:     refusal(http.StatusInternalServerError, "InternalError"),
		AccessDenied: refusal(http.StatusForbidden, "AccessDenied"),
		NoBucket:     refusal(http.StatusNotFound, "NoSuchBucket"),
		OtherRegion:  refusal(http.StatusMovedPermanently, "PermanentRedirect"),
		Conflict:     refusal(http.StatusConflict, "ConditionalRequestConflict"),
		Unavailable:  page(http.StatusServiceUnavailable),
		Forbidden:    page(http.StatusForbidden),
	}
	if a, ok := refusals[fault.Kind]; ok {
		a.write(w)
		return true
	}
	switch fault.Kind {
	case Reset:
		awsfake.Reset(w)
		return true
	case Hang:
		select {
		case <-released:
		case <-r.Context().Done():
			return true
		}
	}
	return false
}

// spoil applies the faults that come after the work, and writes the answer.
func spoil(w http.ResponseWriter, fault Fault, a answer) {
	switch fault.Kind {
	case LostReply:
		awsfake.Reset(w)
		return
	case Garbage:
		a = page(http.StatusOK)
	case Endless:
		a.body = bytes.Repeat([]byte(" \n"), 4<<20)
	case Truncated:
		// The server closes a connection whose handler wrote less than it promised.
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
		a.body = a.body[:len(a.body)/2]
	case Backwards:
		var l listing
		if err := xml.Unmarshal(a.body, &l); err == nil {
			slices.Reverse(l.Contents)
			a.body, _ = xml.Marshal(l)
		}
	}
	a.write(w)
}

func (a answer) write(w http.ResponseWriter) {
	if a.contentType != "" {
		w.Header().Set("Content-Type", a.contentType)
	}
	w.WriteHeader(a.status)
	w.Write(a.body)
}

// page is what a proxy between the vault and S3 might answer.
func page(status int) answer {
	return answer{status, "text/html", []byte(awsfake.Page)}
}
