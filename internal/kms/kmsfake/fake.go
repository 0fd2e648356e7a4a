package kmsfake

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hyperiondb/vault/internal/awsclient/awsfake"
)

// Fake is one region of AWS KMS. Its zero value is not usable.
type Fake struct {
	*awsfake.Faults
	server awsfake.Server
	region string

	mu       sync.Mutex // guards what follows
	keys     map[string]*key
	aliases  map[string]string // alias/NAME -> ARN
	calls    map[string]int
	done     map[string]int
	requests []Request
	serial   int
}

// Request is one request that arrived, as the fake understood it.
type Request struct {
	Op                string
	KeyID             string // KeyId, or SourceKeyId of a ReEncrypt
	DestinationKeyID  string // of a ReEncrypt
	KeySpec           string // of a GenerateDataKey
	EncryptionContext map[string]string
	BlobSize          int
	Authorized        bool // with a SigV4 header of this region
}

// New makes a fake of one region with one key for each alias (without "alias/").
func New(region string, aliases ...string) *Fake {
	f := &Fake{
		Faults:  awsfake.NewFaults(kinds(), operations()),
		region:  region,
		keys:    map[string]*key{},
		aliases: map[string]string{},
		calls:   map[string]int{},
		done:    map[string]int{},
	}
	for _, alias := range aliases {
		f.AddKey(alias)
	}
	return f
}

// Serve listens on a free port of 127.0.0.1, KMS and control endpoint on one listener, and returns
// the URL. Close ends it.
func (f *Fake) Serve() (url string, err error) {
	mux := http.NewServeMux()
	mux.Handle("/", f)
	for _, path := range []string{"/_fault", "/_state", "/_clear", "/_calls"} {
		mux.Handle(path, f.ControlHandler())
	}
	return f.server.Serve(mux)
}

// Close ends Serve: it ends hanging requests and closes connections.
func (f *Fake) Close() {
	f.Clear()
	f.server.Close()
}

// Calls counts the requests that arrived, by operation.
func (f *Fake) Calls() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.calls)
}

// Done counts the requests whose work was done, with the answer sent or lost.
func (f *Fake) Done() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.done)
}

// Requests lists the requests that arrived, oldest first.
func (f *Fake) Requests() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// failure is an error answer.
type failure struct {
	status        int
	code, message string
}

func (e failure) Error() string { return e.code }

const (
	opGenerate = "GenerateDataKey"
	opEncrypt  = "Encrypt"
	opDecrypt  = "Decrypt"
	opReEnc    = "ReEncrypt"
	opDescribe = "DescribeKey"
	opPublic   = "GetPublicKey"
	opSign     = "Sign"

	service     = "TrentService."
	contentType = "application/x-amz-json-1.1"
)

func operations() []string {
	return []string{opGenerate, opEncrypt, opDecrypt, opReEnc, opDescribe, opPublic, opSign}
}

// input is every field of every operation.
type input struct {
	KeyId, SourceKeyId, DestinationKeyId string
	KeySpec                              string
	CiphertextBlob, Plaintext            []byte
	EncryptionContext                    map[string]string
	SourceEncryptionContext              map[string]string
	DestinationEncryptionContext         map[string]string
	EncryptionAlgorithm                  string
	SourceEncryptionAlgorithm            string
	DestinationEncryptionAlgorithm       string
	Message                              []byte
	MessageType, SigningAlgorithm        string
}

// output is every field of every answer.
type output struct {
	KeyId          string    `json:",omitempty"`
	SourceKeyId    string    `json:",omitempty"`
	Plaintext      []byte    `json:",omitempty"`
	CiphertextBlob []byte    `json:",omitempty"`
	KeyMetadata    *metadata `json:",omitempty"`

	Signature         []byte   `json:",omitempty"`
	SigningAlgorithm  string   `json:",omitempty"`
	PublicKey         []byte   `json:",omitempty"` // DER SubjectPublicKeyInfo
	KeySpec, KeyUsage string   `json:",omitempty"`
	SigningAlgorithms []string `json:",omitempty"`
}

type metadata struct {
	Arn, KeyId, KeyState, KeyUsage, KeySpec string
	Enabled                                 bool
	DeletionDate                            float64 `json:",omitempty"` // seconds since 1970
}

// ServeHTTP answers one KMS request.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), service)
	w.Header().Set("X-Amzn-Requestid", f.nextRequestID())
	w.Header().Set("Content-Type", contentType)
	if r.Method != http.MethodPost || !slices.Contains(operations(), op) || r.Header.Get("Content-Type") != contentType {
		writeFailure(w, failure{http.StatusBadRequest, "UnknownOperationException", ""})
		return
	}
	in, decodeErr := decode(r)
	f.record(op, in, f.signed(r))
	if !f.signed(r) {
		writeFailure(w, failure{http.StatusBadRequest, "MissingAuthenticationTokenException", "Missing Authentication Token"})
		return
	}
	if decodeErr != nil {
		writeFailure(w, failure{http.StatusBadRequest, "SerializationException", ""})
		return
	}
	f.answer(w, r, op, in)
}

func (f *Fake) answer(w http.ResponseWriter, r *http.Request, op string, in input) {
	fault, released := f.Take(op)
	if refuse(w, r.Context(), fault, released) {
		return
	}
	out, err := f.perform(op, in)
	if err != nil {
		var refusal failure
		if !errors.As(err, &refusal) {
			refusal = failure{http.StatusInternalServerError, "KMSInternalException", ""}
		}
		writeFailure(w, refusal)
		return
	}
	answerFaulty(w, r.Context(), fault, out)
}

func decode(r *http.Request) (in input, err error) {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20))
	d.DisallowUnknownFields()
	err = d.Decode(&in)
	return in, err
}

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=[^/, ]+/[0-9]{8}/([a-z0-9-]+)/kms/aws4_request, ` +
	`SignedHeaders=[a-z0-9;-]*host[a-z0-9;-]*, Signature=[0-9a-f]{64}$`)

func (f *Fake) signed(r *http.Request) bool {
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	return m != nil && m[1] == f.region && r.Header.Get("X-Amz-Date") != ""
}

func (f *Fake) nextRequestID() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serial++
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", f.serial)
}

func (f *Fake) record(op string, in input, authorized bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	request := Request{
		Op: op, KeyID: in.KeyId, DestinationKeyID: in.DestinationKeyId, KeySpec: in.KeySpec,
		EncryptionContext: in.EncryptionContext, BlobSize: len(in.CiphertextBlob), Authorized: authorized,
	}
	if op == opReEnc {
		request.KeyID, request.EncryptionContext = in.SourceKeyId, in.SourceEncryptionContext
	}
	f.requests = append(f.requests, request)
}

func (f *Fake) perform(op string, in input) (output, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out, err := f.operate(op, in)
	if err == nil {
		f.done[op]++
	}
	return out, err
}

// operate is called with f.mu held.
func (f *Fake) operate(op string, in input) (output, error) {
	switch op {
	case opGenerate:
		return f.generateDataKey(in)
	case opEncrypt:
		k, err := f.wrapping(in.KeyId)
		if err != nil {
			return output{}, err
		}
		return output{KeyId: k.arn, CiphertextBlob: k.seal(in.Plaintext, in.EncryptionContext)}, nil
	case opDecrypt:
		k, plaintext, err := f.open(in.KeyId, in.CiphertextBlob, in.EncryptionContext)
		if err != nil {
			return output{}, err
		}
		return output{KeyId: k.arn, Plaintext: plaintext}, nil
	case opReEnc:
		return f.reEncrypt(in)
	case opPublic:
		return f.getPublicKey(in)
	case opSign:
		return f.sign(in)
	}
	return f.describeKey(in)
}

func (f *Fake) generateDataKey(in input) (output, error) {
	if in.KeySpec != "AES_256" {
		return output{}, failure{http.StatusBadRequest, "ValidationException", "KeySpec"}
	}
	k, err := f.wrapping(in.KeyId)
	if err != nil {
		return output{}, err
	}
	plaintext := make([]byte, 32)
	rand.Read(plaintext)
	return output{KeyId: k.arn, Plaintext: plaintext, CiphertextBlob: k.seal(plaintext, in.EncryptionContext)}, nil
}

func (f *Fake) reEncrypt(in input) (output, error) {
	from, plaintext, err := f.open(in.SourceKeyId, in.CiphertextBlob, in.SourceEncryptionContext)
	if err != nil {
		return output{}, err
	}
	to, err := f.wrapping(in.DestinationKeyId)
	if err != nil {
		return output{}, err
	}
	blob := to.seal(plaintext, in.DestinationEncryptionContext)
	return output{KeyId: to.arn, SourceKeyId: from.arn, CiphertextBlob: blob}, nil
}

// describeKey answers for a key in any state.
func (f *Fake) describeKey(in input) (output, error) {
	k := f.lookup(in.KeyId)
	if k == nil {
		return output{}, failure{http.StatusBadRequest, "NotFoundException", "Key '" + in.KeyId + "' does not exist"}
	}
	m := &metadata{
		Arn: k.arn, KeyId: k.arn[strings.LastIndex(k.arn, "/")+1:], KeyState: string(k.state),
		KeyUsage: k.usage, KeySpec: k.spec, Enabled: k.state == Enabled,
	}
	if k.state == StatePendingDeletion {
		m.DeletionDate = 1893456000 // 2030-01-01
	}
	return output{KeyMetadata: m}, nil
}

// refuse plays the faults that come before the work. It reports whether the request is over.
func refuse(w http.ResponseWriter, ctx context.Context, fault Fault, released <-chan struct{}) bool {
	if fault.Kind == Hang {
		select {
		case <-released:
			return false
		case <-ctx.Done():
			return true
		}
	}
	refusals := map[Kind]failure{
		Throttle:          {http.StatusBadRequest, "ThrottlingException", "Rate exceeded"},
		Internal:          {http.StatusInternalServerError, "KMSInternalException", ""},
		Disabled:          {http.StatusBadRequest, "DisabledException", "the key is disabled."},
		PendingDeletion:   {http.StatusBadRequest, "KMSInvalidStateException", "the key is pending deletion."},
		AccessDenied:      {http.StatusBadRequest, "AccessDeniedException", "not authorized"},
		NotFound:          {http.StatusBadRequest, "NotFoundException", ""},
		InvalidCiphertext: {http.StatusBadRequest, "InvalidCiphertextException", ""},
		IncorrectKey:      {http.StatusBadRequest, "IncorrectKeyException", ""},
		InvalidKeyUsage:   {http.StatusBadRequest, "InvalidKeyUsageException", ""},
		ExpiredToken:      {http.StatusBadRequest, "ExpiredTokenException", ""},
	}
	if refusal, ok := refusals[fault.Kind]; ok {
		writeFailure(w, refusal)
		return true
	}
	switch fault.Kind {
	case Unavailable:
		writePage(w, http.StatusServiceUnavailable)
	case Forbidden:
		writePage(w, http.StatusForbidden)
	case Reset:
		awsfake.Reset(w)
	default:
		return false
	}
	return true
}

// answerFaulty plays the faults that come after the work, and writes the answer.
func answerFaulty(w http.ResponseWriter, ctx context.Context, fault Fault, out output) {
	switch fault.Kind {
	case Slow:
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	case LostReply:
		awsfake.Reset(w)
		return
	case Garbage:
		writePage(w, http.StatusOK)
		return
	case Endless:
		w.Write(bytes.Repeat([]byte(" "), 1<<20))
	case OtherKey:
		out.KeyId = otherARN(out.KeyId)
		if out.KeyMetadata != nil {
			out.KeyMetadata.Arn = otherARN(out.KeyMetadata.Arn)
		}
	case NoKey:
		out.KeyId, out.KeyMetadata = "", nil
	case ShortPlaintext:
		out.Plaintext = make([]byte, 16)
	case LongPlaintext:
		out.Plaintext = make([]byte, 33)
	case EmptyBlob:
		out.CiphertextBlob = nil
	case HugeBlob:
		out.CiphertextBlob = make([]byte, 6145)
	case ShortSignature:
		out.Signature = make([]byte, ed25519.SignatureSize-1)
	case WrongSignature:
		out.Signature = make([]byte, ed25519.SignatureSize)
	case OtherPublicKey:
		out.PublicKey = anotherPublicKey()
	}
	body, err := json.Marshal(out)
	if err != nil {
		panic(err) // strings, bytes and numbers always marshal
	}
	if fault.Kind == Truncated {
		// The server closes a connection whose handler wrote less than it promised.
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		body = body[:len(body)/2]
	}
	w.Write(body)
}

func otherARN(arn string) string {
	const digits = "000000000000"
	if len(arn) < len(digits) {
		return ""
	}
	return arn[:len(arn)-len(digits)] + digits
}

func writeFailure(w http.ResponseWriter, e failure) {
	w.WriteHeader(e.status)
	json.NewEncoder(w).Encode(map[string]string{"__type": e.code, "message": e.message})
}

// writePage is what something between the vault and KMS might say.
func writePage(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	w.Write([]byte(awsfake.Page))
}

// ControlHandler is the control endpoint of the package doc, for tests in another process.
func (f *Fake) ControlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /_fault", func(w http.ResponseWriter, r *http.Request) {
		fault, err := faultOf(r)
		if err == nil {
			err = f.Inject(fault)
		}
		control(w, err)
	})
	mux.HandleFunc("POST /_state", func(w http.ResponseWriter, r *http.Request) {
		control(w, f.SetState(r.FormValue("key"), State(r.FormValue("state"))))
	})
	mux.HandleFunc("POST /_clear", func(w http.ResponseWriter, _ *http.Request) {
		f.Clear()
		control(w, nil)
	})
	mux.HandleFunc("GET /_calls", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]map[string]int{"calls": f.Calls(), "done": f.Done()})
	})
	return mux
}

func faultOf(r *http.Request) (Fault, error) {
	fault := Fault{Kind: Kind(r.FormValue("kind")), Op: r.FormValue("op")}
	if s := r.FormValue("times"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return Fault{}, fmt.Errorf("bad times %q", s)
		}
		fault.Times = n
	}
	if s := r.FormValue("delay"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			return Fault{}, fmt.Errorf("bad delay %q", s)
		}
		fault.Delay = d
	}
	return fault, nil
}

func control(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
