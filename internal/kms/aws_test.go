package kms

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/awsclient"
	"github.com/hyperiondb/vault/internal/awsclient/awsfake"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms/kmsfake"
)

// operation is one way to KMS, with what it is called there.
type operation struct {
	name string
	run  func(ctx context.Context, k *awsKey, w envelope.WrappedKey) error
}

var (
	newDataKey = operation{"GenerateDataKey", func(ctx context.Context, k *awsKey, _ envelope.WrappedKey) error {
		_, _, err := k.NewDataKey(ctx, here)
		return err
	}}
	unwrap = operation{"Decrypt", func(ctx context.Context, k *awsKey, w envelope.WrappedKey) error {
		_, err := k.Unwrap(ctx, w, here)
		return err
	}}
	rewrap = operation{"ReEncrypt", func(ctx context.Context, k *awsKey, w envelope.WrappedKey) error {
		_, err := k.Rewrap(ctx, w, here)
		return err
	}}
	wrap = operation{"Encrypt", func(ctx context.Context, k *awsKey, _ envelope.WrappedKey) error {
		_, err := k.wrap(ctx, new(envelope.DataKey), here)
		return err
	}}
	describe = operation{"DescribeKey", func(ctx context.Context, k *awsKey, _ envelope.WrappedKey) error {
		_, err := k.Describe(ctx)
		return err
	}}
	everything = []operation{newDataKey, unwrap, rewrap, wrap, describe}
)

// openedVault is a fake and its alias/vault, opened and resolved, with a row.
func openedVault(t *testing.T, limits timing) (*kmsfake.Fake, *awsKey, envelope.WrappedKey) {
	t.Helper()
	f, endpoint := startFake(t)
	k := mustOpenAWS(t, awsURI("alias/vault", endpoint), limits)
	_, w := mustWrap(t, k, here)
	return f, k, w
}

func TestAWSPermanentAnswers(t *testing.T) {
	requestID := regexp.MustCompile(`^kms key "alias/vault": .* \(aws request id [0-9-]{36}\)$`)
	for kind, want := range map[kmsfake.Kind]error{
		kmsfake.Disabled:          envelope.ErrKeyRefused,
		kmsfake.PendingDeletion:   envelope.ErrKeyRefused,
		kmsfake.AccessDenied:      envelope.ErrKeyRefused,
		kmsfake.NotFound:          envelope.ErrKeyRefused,
		kmsfake.InvalidKeyUsage:   envelope.ErrKeyRefused,
		kmsfake.ExpiredToken:      envelope.ErrKeyRefused,
		kmsfake.InvalidCiphertext: envelope.ErrIntegrity,
		kmsfake.IncorrectKey:      envelope.ErrIntegrity,
		// Not an answer of KMS: it says nothing about the key, and an immediate retry is pointless.
		kmsfake.Forbidden: envelope.ErrKeyUnavailable,
		kmsfake.Garbage:   envelope.ErrKeyUnavailable,
		kmsfake.Endless:   envelope.ErrKeyUnavailable,
	} {
		t.Run(string(kind), func(t *testing.T) {
			f, k, w := openedVault(t, quick())
			for _, op := range everything {
				before := f.Calls()[op.name]
				mustInject(t, f, kmsfake.Fault{Kind: kind, Op: op.name})
				err := op.run(t.Context(), k, w)
				checkError(t, err, want, w)
				if !requestID.MatchString(err.Error()) && kind != kmsfake.Endless {
					t.Errorf("%s: got %q, want %s", op.name, err, requestID)
				}
				if got := f.Calls()[op.name] - before; got != 1 {
					t.Errorf("%s: %d calls, want exactly 1", op.name, got)
				}
				f.Clear()
				mustKeyID(t, k) // the next operation is not to need a DescribeKey
			}
		})
	}
}

func TestAWSTransientFailuresAreRetried(t *testing.T) {
	for _, kind := range []kmsfake.Kind{
		kmsfake.Throttle, kmsfake.Internal, kmsfake.Unavailable, kmsfake.Reset, kmsfake.Truncated, kmsfake.LostReply,
	} {
		t.Run(string(kind), func(t *testing.T) {
			f, k, w := openedVault(t, quick())
			for _, op := range everything {
				before := f.Calls()[op.name]
				mustInject(t, f, kmsfake.Fault{Kind: kind, Op: op.name, Times: 3})
				if err := op.run(t.Context(), k, w); err != nil {
					t.Errorf("%s: %v", op.name, err)
				}
				if got := f.Calls()[op.name] - before; got != 4 {
					t.Errorf("%s: %d calls, want 3 failures and 1 success", op.name, got)
				}
			}
		})
	}
}

func TestAWSDeadline(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for kind, reason := range map[kmsfake.Kind]string{
		kmsfake.Throttle: `: throttled, until the deadline \(aws request id [0-9-]{36}\)$`,
		kmsfake.Internal: `: the key service failed, until the deadline \(aws request id [0-9-]{36}\)$`,
		kmsfake.Unavailable: `: the key service failed \(http status 503\), until the deadline ` +
			`\(aws request id [0-9-]{36}\)$`,
		kmsfake.Reset:     `: the connection broke, until the deadline$`,
		kmsfake.Truncated: `: the answer was cut short, until the deadline \(aws request id [0-9-]{36}\)$`,
		kmsfake.Hang:      `: no answer before the deadline$`,
		kmsfake.Slow:      `: no answer before the deadline$`,
	} {
		limits := quick()
		// Few attempts, so that the deadline ends them and not the retry budget.
		limits.firstDelay, limits.longestWait = time.Hour, time.Hour
		f, k, w := openedVault(t, limits)
		mustInject(t, f, kmsfake.Fault{Kind: kind, Delay: time.Hour})
		before := f.Calls()
		for _, op := range everything { // of every kind at once: each waits for its deadline
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), answered)
				defer cancel()
				err := op.run(ctx, k, w)
				if ctx.Err() == nil {
					t.Errorf("%s %s: gave up before the deadline", kind, op.name)
				}
				checkError(t, err, envelope.ErrKeyUnavailable, w)
				if !errors.Is(err, context.DeadlineExceeded) || !regexp.MustCompile(reason).MatchString(err.Error()) {
					t.Errorf("%s %s: got %q, want %v and %s", kind, op.name, err, context.DeadlineExceeded, reason)
				}
				if got := f.Calls()[op.name] - before[op.name]; got != 1 {
					t.Errorf("%s %s: %d calls, want 1", kind, op.name, got)
				}
			})
		}
	}
}

// A context without a deadline gets one.
func TestAWSDefaultDeadline(t *testing.T) {
	limits := quick()
	limits.operation = answered
	f, k, w := openedVault(t, limits)
	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Hang})
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, op := range everything {
		wg.Go(func() {
			err := op.run(t.Context(), k, w)
			checkError(t, err, envelope.ErrKeyUnavailable, w)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v, want %v", op.name, err, context.DeadlineExceeded)
			}
		})
	}
}

// One dead connection does not eat the whole deadline.
func TestAWSAttemptTimeout(t *testing.T) {
	limits := quick()
	limits.attempt = time.Second
	f, k, w := openedVault(t, limits)
	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Hang, Times: 1})
	if err := unwrap.run(t.Context(), k, w); err != nil {
		t.Fatal(err)
	}
	if got := f.Calls()["Decrypt"]; got < 2 {
		t.Errorf("%d calls, want another one after the dead one", got)
	}
}

func TestAWSCancel(t *testing.T) {
	limits := quick()
	limits.firstDelay, limits.longestWait = time.Hour, time.Hour
	for _, kind := range []kmsfake.Kind{kmsfake.Hang, kmsfake.Throttle} {
		t.Run(string(kind), func(t *testing.T) {
			f, k, w := openedVault(t, limits)
			mustInject(t, f, kmsfake.Fault{Kind: kind})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- unwrap.run(ctx, k, w) }()
			waitFor(t, "the request to arrive", func() bool { return f.Calls()["Decrypt"] == 1 })
			cancel()
			checkError(t, <-ended, context.Canceled, w)
		})
	}
}

// During a long outage the retry budget runs out, and calls fail at once instead of piling up.
func TestAWSRetryBudget(t *testing.T) {
	f, k, w := openedVault(t, quick())
	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Throttle})
	checkError(t, unwrap.run(t.Context(), k, w), envelope.ErrKeyUnavailable, w)
	first := f.Calls()["Decrypt"]
	if first < 50 || first > 110 {
		t.Errorf("%d calls, want about 100", first)
	}
	err := unwrap.run(t.Context(), k, w)
	checkError(t, err, envelope.ErrKeyUnavailable, w)
	if got := f.Calls()["Decrypt"] - first; got != 1 || !strings.Contains(err.Error(), "throttled") {
		t.Errorf("%d calls and %v, want 1 and the reason", got, err)
	}
}

// "failed" and "done, but the reply was lost" look the same from here, and both end with a
// data key that opens: the lost one was never used.
func TestAWSNewDataKeyReplyLost(t *testing.T) {
	for kind, made := range map[kmsfake.Kind]int{kmsfake.Reset: 1, kmsfake.LostReply: 2} {
		t.Run(string(kind), func(t *testing.T) {
			f, endpoint := startFake(t)
			k := mustOpenAWS(t, awsURI("alias/vault", endpoint), quick())
			mustInject(t, f, kmsfake.Fault{Kind: kind, Times: 1})
			dk, w := mustWrap(t, k, here)
			if got := f.Done()["GenerateDataKey"]; got != made {
				t.Errorf("KMS made %d data keys, want %d", got, made)
			}
			if got := mustUnwrap(t, k, w, here); *got != *dk {
				t.Error("the blob is not of the data key that came with it")
			}
		})
	}
	t.Run("and the deadline passes", func(t *testing.T) {
		limits := quick()
		limits.firstDelay, limits.longestWait = time.Hour, time.Hour
		f, endpoint := startFake(t)
		k := mustOpenAWS(t, awsURI("alias/vault", endpoint), limits)
		mustInject(t, f, kmsfake.Fault{Kind: kmsfake.LostReply})
		ctx, cancel := context.WithTimeout(t.Context(), answered)
		defer cancel()
		dk, w, err := k.NewDataKey(ctx, here)
		checkError(t, err, envelope.ErrKeyUnavailable, w)
		if dk != nil || w.Blob != nil || f.Done()["GenerateDataKey"] != 1 {
			t.Errorf("something came with the error, or KMS made %d data keys, want 1", f.Done()["GenerateDataKey"])
		}
	})
}

func TestAWSAnswersAreChecked(t *testing.T) {
	for _, c := range []struct {
		op    operation
		kind  kmsfake.Kind
		byARN bool // only a key opened by its ARN can tell
		want  error
	}{
		{op: newDataKey, kind: kmsfake.ShortPlaintext, want: envelope.ErrKeyUnavailable},
		{op: newDataKey, kind: kmsfake.LongPlaintext, want: envelope.ErrKeyUnavailable},
		{op: newDataKey, kind: kmsfake.EmptyBlob, want: envelope.ErrKeyUnavailable},
		{op: newDataKey, kind: kmsfake.HugeBlob, want: envelope.ErrKeyUnavailable},
		{op: newDataKey, kind: kmsfake.NoKey, want: envelope.ErrKeyUnavailable},
		{op: newDataKey, kind: kmsfake.OtherKey, byARN: true, want: envelope.ErrKeyUnavailable},
		{op: wrap, kind: kmsfake.EmptyBlob, want: envelope.ErrKeyUnavailable},
		{op: wrap, kind: kmsfake.HugeBlob, want: envelope.ErrKeyUnavailable},
		{op: wrap, kind: kmsfake.NoKey, want: envelope.ErrKeyUnavailable},
		{op: wrap, kind: kmsfake.OtherKey, byARN: true, want: envelope.ErrKeyUnavailable},
		{op: rewrap, kind: kmsfake.EmptyBlob, want: envelope.ErrKeyUnavailable},
		{op: rewrap, kind: kmsfake.HugeBlob, want: envelope.ErrKeyUnavailable},
		{op: rewrap, kind: kmsfake.NoKey, want: envelope.ErrKeyUnavailable},
		{op: rewrap, kind: kmsfake.OtherKey, byARN: true, want: envelope.ErrKeyUnavailable},
		{op: describe, kind: kmsfake.NoKey, want: envelope.ErrKeyUnavailable},
		{op: describe, kind: kmsfake.OtherKey, byARN: true, want: envelope.ErrKeyUnavailable},
		// What Decrypt opens comes from the row: a wrong length is the row's fault.
		{op: unwrap, kind: kmsfake.ShortPlaintext, want: envelope.ErrIntegrity},
		{op: unwrap, kind: kmsfake.LongPlaintext, want: envelope.ErrIntegrity},
		{op: unwrap, kind: kmsfake.OtherKey, want: envelope.ErrIntegrity},
		{op: unwrap, kind: kmsfake.NoKey, want: envelope.ErrKeyUnavailable},
	} {
		t.Run(c.op.name+" "+string(c.kind), func(t *testing.T) {
			f, endpoint := startFake(t)
			name := "alias/vault"
			if c.byARN {
				name = f.AddKey("vault")
			}
			k := mustOpenAWS(t, awsURI(name, endpoint), quick())
			_, w := mustWrap(t, k, here)
			before := f.Calls()[c.op.name]
			mustInject(t, f, kmsfake.Fault{Kind: c.kind, Op: c.op.name})
			checkError(t, c.op.run(t.Context(), k, w), c.want, w)
			if got := f.Calls()[c.op.name] - before; got != 1 {
				t.Errorf("%d calls, want 1", got)
			}
			f.Clear()
			mustUnwrap(t, k, w, here) // a wrong answer is not remembered
		})
	}
}

func TestAWSRewrapChecksTheSource(t *testing.T) {
	f, k, w := openedVault(t, quick())
	k.client = withOutput(k.client, func(out any) {
		if out, ok := out.(*kms.ReEncryptOutput); ok {
			out.SourceKeyId = new(string)
		}
	})
	checkError(t, rewrap.run(t.Context(), k, w), envelope.ErrIntegrity, w)
	if f.Done()["ReEncrypt"] != 1 {
		t.Error("the answer was not a real one")
	}
}

// withOutput shows every output of the SDK to look, before the package sees it.
func withOutput(c *kms.Client, look func(out any)) *kms.Client {
	return kms.New(c.Options(), func(o *kms.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("look",
				func(ctx context.Context, in middleware.InitializeInput,
					next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
					out, metadata, err := next.HandleInitialize(ctx, in)
					look(out.Result)
					return out, metadata, err
				}), middleware.After)
		})
	})
}

func TestAWSWipesThePlaintextOfTheSDK(t *testing.T) {
	_, k, _ := openedVault(t, quick())
	var buffers [][]byte
	k.client = withOutput(k.client, func(out any) {
		switch out := out.(type) {
		case *kms.GenerateDataKeyOutput:
			buffers = append(buffers, out.Plaintext)
		case *kms.DecryptOutput:
			buffers = append(buffers, out.Plaintext)
		}
	})
	dk, w := mustWrap(t, k, here)
	mustUnwrap(t, k, w, here)
	if len(buffers) != 2 || *dk == (envelope.DataKey{}) {
		t.Fatalf("saw %d plaintexts, want 2", len(buffers))
	}
	for i, b := range buffers {
		if len(b) != 32 || slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
			t.Errorf("buffer %d of %d bytes was not wiped", i, len(b))
		}
	}
}

// Everything that reaches KMS is signed, names the key and binds the context.
func TestAWSRequests(t *testing.T) {
	f, endpoint := startFake(t)
	arn := f.AddKey("vault")
	k := mustOpenAWS(t, awsURI("alias/vault", endpoint), quick())
	_, w := mustWrap(t, k, here)
	for _, op := range everything[1:] {
		if err := op.run(t.Context(), k, w); err != nil {
			t.Fatal(err)
		}
	}
	bound := map[string]string{"hyperiondb:aad": "app/db:7", "hyperiondb:cluster": "7e0b6a1c-cluster"}
	want := []kmsfake.Request{
		{Op: "GenerateDataKey", KeyID: "alias/vault", KeySpec: "AES_256", EncryptionContext: bound, Authorized: true},
		{Op: "Decrypt", KeyID: arn, EncryptionContext: bound, BlobSize: len(w.Blob), Authorized: true},
		{Op: "ReEncrypt", KeyID: arn, DestinationKeyID: "alias/vault", EncryptionContext: bound, BlobSize: len(w.Blob),
			Authorized: true},
		{Op: "Encrypt", KeyID: "alias/vault", EncryptionContext: bound, Authorized: true},
		{Op: "DescribeKey", KeyID: "alias/vault", Authorized: true},
	}
	if diff := cmp.Diff(want, f.Requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// A row that names another key does not get its blob sent, whichever way the key was opened.
func TestAWSForeignRowSendsNothing(t *testing.T) {
	f, endpoint := startFake(t)
	arn, other := f.AddKey("vault"), f.AddKey("other")
	_, w := mustWrap(t, mustOpenAWS(t, awsURI(other, endpoint), quick()), here)
	for _, c := range []struct {
		name      string
		describes int
	}{{"alias/vault", 1}, {arn, 0}, {arn[strings.LastIndex(arn, "/")+1:], 0}} {
		before := f.Calls()["DescribeKey"]
		k := mustOpenAWS(t, awsURI(c.name, endpoint), quick())
		err := unwrap.run(t.Context(), k, w)
		checkError(t, err, envelope.ErrKeyRefused, w)
		if !strings.Contains(err.Error(), other) {
			t.Errorf("got %q, want the row's key in it", err)
		}
		checkError(t, rewrap.run(t.Context(), k, w), envelope.ErrKeyRefused, w)
		calls := f.Calls()
		if got := calls["DescribeKey"] - before; got != c.describes || calls["Decrypt"] != 0 || calls["ReEncrypt"] != 0 {
			t.Errorf("%s: %d DescribeKey and calls %v, want %d and no blob sent", c.name, got, calls, c.describes)
		}
	}
}

func TestAWSKeyIDIsResolvedOnce(t *testing.T) {
	f, endpoint := startFake(t)
	arn := f.AddKey("vault")
	_, w := mustWrap(t, mustOpenAWS(t, awsURI(arn, endpoint), quick()), here)
	for name, describes := range map[string]int{
		"alias/vault":                       1,
		arn[strings.LastIndex(arn, "/")+1:]: 1,
		arn:                                 0,
		strings.Replace(arn, arn[strings.Index(arn, ":key/"):], ":alias/vault", 1): 1,
	} {
		before := f.Calls()["DescribeKey"]
		k := mustOpenAWS(t, awsURI(name, endpoint), quick())
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if id, err := k.KeyID(t.Context()); err != nil || id != arn {
					t.Errorf("%s: got %q, %v, want %q", name, id, err, arn)
				}
				if err := unwrap.run(t.Context(), k, w); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		if got := f.Calls()["DescribeKey"] - before; got != describes {
			t.Errorf("%s: %d DescribeKey, want %d", name, got, describes)
		}
	}
}

// The alias is pointed at another key while this process runs and another one wraps under it.
func TestAWSAliasMoves(t *testing.T) {
	f, endpoint := startFake(t)
	now := time.Unix(1_700_000_000, 0)
	limits := quick()
	limits.now = func() time.Time { return now }
	k := mustOpenAWS(t, awsURI("alias/vault", endpoint), limits)
	_, old := mustWrap(t, k, here)

	if err := f.PointAlias("vault", f.AddKey("next")); err != nil {
		t.Fatal(err)
	}
	_, moved := mustWrap(t, mustOpenAWS(t, awsURI("alias/vault", endpoint), quick()), here)

	// A moment ago it was the old key: not asked again for every row that comes along.
	checkError(t, unwrap.run(t.Context(), k, moved), envelope.ErrKeyRefused, moved)
	mustUnwrap(t, k, old, here)
	if got := f.Calls()["DescribeKey"]; got != 0 {
		t.Errorf("%d DescribeKey, want 0", got)
	}

	now = now.Add(limits.aliasAge)
	mustUnwrap(t, k, moved, here)
	checkError(t, unwrap.run(t.Context(), k, old), envelope.ErrKeyRefused, old)
	if got := f.Calls()["DescribeKey"]; got != 1 {
		t.Errorf("%d DescribeKey, want 1", got)
	}
}

// KMS does not know the key that the alias stood for: the next operation asks again.
func TestAWSForgetsAnUnknownKey(t *testing.T) {
	for _, kind := range []kmsfake.Kind{kmsfake.IncorrectKey, kmsfake.NotFound} {
		f, k, w := openedVault(t, quick())
		mustInject(t, f, kmsfake.Fault{Kind: kind, Op: "Decrypt", Times: 1})
		if err := unwrap.run(t.Context(), k, w); err == nil {
			t.Fatal("no error")
		}
		mustUnwrap(t, k, w, here)
		if got := f.Calls()["DescribeKey"]; got != 1 {
			t.Errorf("%s: %d DescribeKey, want 1", kind, got)
		}
	}
}

func TestAWSResolveWaitsForTheOneThatAsks(t *testing.T) {
	f, endpoint := startFake(t)
	k := mustOpenAWS(t, awsURI("alias/vault", endpoint), quick())
	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Hang})
	first := make(chan error, 1)
	go func() { _, err := k.KeyID(t.Context()); first <- err }()
	waitFor(t, "the first to ask", func() bool { return f.Calls()["DescribeKey"] == 1 })

	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() { _, err := k.KeyID(ctx); second <- err }()
	cancel()
	checkError(t, <-second, context.Canceled, envelope.WrappedKey{})

	f.Clear()
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if got := f.Calls()["DescribeKey"]; got != 1 {
		t.Errorf("%d DescribeKey, want 1", got)
	}
}

func TestAWSKeyStates(t *testing.T) {
	for state, want := range map[kmsfake.State]string{
		kmsfake.StateDisabled:        "disabled",
		kmsfake.StatePendingDeletion: "pending deletion",
		kmsfake.StatePendingImport:   "pending import",
	} {
		f, k, w := openedVault(t, quick())
		if err := f.SetState("alias/vault", state); err != nil {
			t.Fatal(err)
		}
		for _, op := range []operation{newDataKey, unwrap, rewrap, wrap} {
			checkError(t, op.run(t.Context(), k, w), envelope.ErrKeyRefused, w)
		}
		d, err := k.Describe(t.Context())
		if err != nil || d.State != want || d.Usable || d.DeletesAt.IsZero() != (state != kmsfake.StatePendingDeletion) {
			t.Errorf("got %+v, %v, want %q and not usable", d, err, want)
		}
		if err := f.SetState("alias/vault", kmsfake.Enabled); err != nil {
			t.Fatal(err)
		}
		mustUnwrap(t, k, w, here)
	}
	for in, want := range map[string]string{
		"Creating": "being created", "Unavailable": "unavailable", "Updating": "updating",
		"PendingReplicaDeletion": "pending deletion", "x\ny": "unknown",
	} {
		if got := keyState(types.KeyState(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestAWSAsymmetricKey(t *testing.T) {
	f, k, w := openedVault(t, quick())
	if err := f.MakeAsymmetric("alias/vault"); err != nil {
		t.Fatal(err)
	}
	d, err := k.Describe(t.Context())
	if err != nil || d.Usable || d.State != "not a symmetric encryption key" {
		t.Errorf("got %+v, %v", d, err)
	}
	checkError(t, newDataKey.run(t.Context(), k, w), envelope.ErrKeyRefused, w)
}

func TestAWSErrorTexts(t *testing.T) {
	f, k, w := openedVault(t, quick())
	for kind, want := range map[kmsfake.Kind]string{
		kmsfake.Disabled:        `kms key "alias/vault": disabled (aws request id `,
		kmsfake.PendingDeletion: `kms key "alias/vault": pending deletion (aws request id `,
		kmsfake.AccessDenied:    `kms key "alias/vault": access denied to Decrypt (aws request id `,
		kmsfake.Forbidden:       `kms key "alias/vault": the answer is not one of KMS (http status 403) (aws request id `,
		kmsfake.IncorrectKey: `kms key "alias/vault": the data key was wrapped by another key than the row names ` +
			`(aws request id `,
	} {
		mustInject(t, f, kmsfake.Fault{Kind: kind, Op: "Decrypt"})
		if err := unwrap.run(t.Context(), k, w); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s...", err, want)
		}
		f.Clear()
	}
}

// No answer means what its code says only if the code is known; a stranger's words are not repeated.
func TestMeaning(t *testing.T) {
	for code, want := range map[string]error{
		"UnrecognizedClientException":   envelope.ErrKeyRefused,
		"InvalidSignatureException":     envelope.ErrKeyRefused,
		"RequestExpired":                envelope.ErrKeyRefused,
		"ValidationException":           envelope.ErrKeyRefused,
		"UnsupportedOperationException": envelope.ErrKeyRefused,
		"ThrottlingException":           envelope.ErrKeyUnavailable,
		"LimitExceededException":        envelope.ErrKeyUnavailable,
		"KeyUnavailableException":       envelope.ErrKeyUnavailable,
		"DependencyTimeoutException":    envelope.ErrKeyUnavailable,
		"SomethingNewException":         nil,
		"":                              nil,
	} {
		if _, got := meaning(&smithy.GenericAPIError{Code: code}); got != want {
			t.Errorf("%s: got %v, want %v", code, got, want)
		}
	}
}

func TestAWSUnknownCodes(t *testing.T) {
	for _, c := range []struct {
		status       int
		body, reason string
		want         error
	}{
		{400, `{"__type":"com.amazonaws.kms#SomethingNewException"}`, "refused (SomethingNewException)",
			envelope.ErrKeyRefused},
		{500, `{"__type":"SomethingNewException"}`, "the key service failed (http status 500), until the deadline",
			envelope.ErrKeyUnavailable},
		{400, `{"__type":"dmF1bHQ= not a code"}`, "the answer is not one of KMS (http status 400)",
			envelope.ErrKeyUnavailable},
		{401, `{}`, "the answer is not one of KMS (http status 401)", envelope.ErrKeyUnavailable},
		{404, ``, "the answer is not one of KMS (http status 404)", envelope.ErrKeyUnavailable},
		{200, ``, "the answer is incomplete", envelope.ErrKeyUnavailable},
		{200, `{"KeyMetadata":null}`, "the answer is incomplete", envelope.ErrKeyUnavailable},
		{200, `[]`, "the answer is not one of KMS (http status 200)", envelope.ErrKeyUnavailable},
		{200, `{"KeyMetadata":{"Arn":"evil\nline"}}`, "the answer names another key", envelope.ErrKeyUnavailable},
		{400, `{"__type":"AccessDeniedException","message":"line\nline"}`, "access denied to DescribeKey",
			envelope.ErrKeyRefused},
	} {
		t.Run(c.body, func(t *testing.T) {
			limits := quick()
			limits.firstDelay, limits.longestWait = time.Hour, time.Hour
			limits.operation = answered
			k := mustOpenAWS(t, awsURI("alias/vault", mustServe(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Amzn-Requestid", "not an id")
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})), limits)
			err := describe.run(t.Context(), k, envelope.WrappedKey{})
			checkError(t, err, c.want, envelope.WrappedKey{})
			if got, want := err.Error(), `kms key "alias/vault": `+c.reason; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// mustServe runs a server that is not KMS.
func mustServe(t *testing.T, handler http.HandlerFunc) (endpoint string) {
	t.Helper()
	awsfake.Isolate(t)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// A redirect would carry a signed request, with the blob, to another host.
func TestAWSRedirectIsNotFollowed(t *testing.T) {
	for _, status := range []int{301, 307, 308} {
		followed := false
		elsewhere := mustServe(t, func(http.ResponseWriter, *http.Request) { followed = true })
		k := mustOpenAWS(t, awsURI("alias/vault", mustServe(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, status)
		})), quick())
		checkError(t, newDataKey.run(t.Context(), k, envelope.WrappedKey{}), envelope.ErrKeyUnavailable,
			envelope.WrappedKey{})
		if followed {
			t.Errorf("%d was followed", status)
		}
	}
}

func TestAWSUntrustedCertificate(t *testing.T) {
	awsfake.Isolate(t)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	connections := 0
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections++
		}
	}
	server.StartTLS()
	k := mustOpenAWS(t, awsURI("alias/vault", server.URL), quick())
	err := newDataKey.run(t.Context(), k, envelope.WrappedKey{})
	server.Close() // ConnState is not called after this
	checkError(t, err, envelope.ErrKeyUnavailable, envelope.WrappedKey{})
	if want := `kms key "alias/vault": the certificate of the key service is not trusted`; err.Error() != want ||
		connections != 1 {
		t.Errorf("got %q after %d connections, want %q after 1", err, connections, want)
	}
}

// Without a server at the endpoint, opening works and the operation's error says why it failed.
func TestAWSDown(t *testing.T) {
	awsfake.Isolate(t)
	const endpoint = "http://127.0.0.1:1" // a port that no program is given
	limits := quick()
	limits.operation, limits.firstDelay, limits.longestWait = answered, time.Hour, time.Hour
	k := mustOpenAWS(t, awsURI("alias/vault", endpoint), limits)
	err := newDataKey.run(t.Context(), k, envelope.WrappedKey{})
	checkError(t, err, envelope.ErrKeyUnavailable, envelope.WrappedKey{})
	if !strings.Contains(err.Error(), "no connection (connect: connection refused), until the deadline") {
		t.Errorf("got %q", err)
	}
}

func TestOpenCallsNobody(t *testing.T) {
	f, endpoint := startFake(t)
	mustOpen(t, awsURI("alias/vault", endpoint), quick())
	keyring := mustOpenKeyring(t, awsURI("alias/vault", endpoint), awsURI("alias/other", endpoint),
		"local://"+mustKeyFile(t))
	keyring.Close()
	if got := f.Calls(); len(got) != 0 {
		t.Errorf("calls %v, want none", got)
	}
}

func TestAWSConfiguration(t *testing.T) {
	refusedWith := func(t *testing.T, uri, reason string) {
		t.Helper()
		k, err := open(t.Context(), uri, defaultTiming())
		checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
		if k != nil || err == nil || !strings.Contains(err.Error(), reason) || strings.Contains(err.Error(), "hush") {
			t.Errorf("got %v, %v, want %q", k, err, reason)
		}
	}
	t.Run("bad uri", func(t *testing.T) {
		if _, err := open(t.Context(), "nonsense", defaultTiming()); !errors.Is(err, ErrURI) {
			t.Errorf("got %v, want %v", err, ErrURI)
		}
	})
	t.Run("no region", func(t *testing.T) {
		awsfake.Isolate(t)
		refusedWith(t, "awskms:///alias/vault", "set AWS_REGION")
	})
	t.Run("region of the environment and of the ARN", func(t *testing.T) {
		awsfake.Isolate(t)
		t.Setenv("AWS_REGION", "us-east-2")
		for uri, want := range map[string]string{
			"awskms:///alias/vault":                  "us-east-2",
			"awskms:///alias/vault?region=eu-west-3": "eu-west-3",
			"awskms:///" + testARN:                   "eu-west-1",
		} {
			if got := mustOpenAWS(t, uri, quick()).client.Options().Region; got != want {
				t.Errorf("%s: got %q, want %q", uri, got, want)
			}
		}
	})
	t.Run("endpoint of the environment", func(t *testing.T) {
		f, endpoint := startFake(t)
		t.Setenv("AWS_ENDPOINT_URL_KMS", endpoint)
		mustWrap(t, mustOpen(t, "awskms:///alias/vault?region="+region, quick()), here)
		if f.Calls()["GenerateDataKey"] != 1 {
			t.Error("the endpoint was not asked")
		}
	})
	t.Run("endpoint of the uri wins", func(t *testing.T) {
		f, endpoint := startFake(t)
		t.Setenv("AWS_ENDPOINT_URL_KMS", "https://127.0.0.1:1")
		t.Setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
		mustWrap(t, mustOpen(t, awsURI("alias/vault", endpoint), quick()), here)
		if f.Calls()["GenerateDataKey"] != 1 {
			t.Error("the endpoint was not asked")
		}
	})
	t.Run("plain http to another machine", func(t *testing.T) {
		awsfake.Isolate(t)
		t.Setenv("AWS_ENDPOINT_URL_KMS", "http://kms.invalid")
		refusedWith(t, "awskms:///alias/vault?region="+region, "plain http to another machine")
		t.Setenv("AWS_ENDPOINT_URL_KMS", "http://kms.invalid:bad%zz")
		refusedWith(t, "awskms:///alias/vault?region="+region, "is not a url")
	})
	t.Run("unknown profile", func(t *testing.T) {
		awsfake.Isolate(t)
		t.Setenv("AWS_PROFILE", "hush")
		refusedWith(t, "awskms:///alias/vault?region="+region, "the AWS profile does not exist")
	})
	t.Run("bad configuration", func(t *testing.T) {
		awsfake.Isolate(t)
		t.Setenv("AWS_MAX_ATTEMPTS", "hush")
		refusedWith(t, "awskms:///alias/vault?region="+region, "the AWS configuration cannot be read")
	})
	t.Run("ca bundle", func(t *testing.T) {
		awsfake.Isolate(t)
		server := httptest.NewTLSServer(http.NotFoundHandler())
		defer server.Close()
		bundle := t.TempDir() + "/ca.pem"
		mustWrite(t, bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600)
		t.Setenv("AWS_CA_BUNDLE", bundle)
		err := newDataKey.run(t.Context(), mustOpenAWS(t, awsURI("alias/vault", server.URL), quick()), envelope.WrappedKey{})
		if err == nil || !strings.Contains(err.Error(), "http status 404") {
			t.Errorf("got %v, want an answer over TLS", err)
		}
	})
	t.Run("attempts are the deadline's business", func(t *testing.T) {
		f, endpoint := startFake(t)
		t.Setenv("AWS_MAX_ATTEMPTS", "1")
		mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Throttle, Times: 6})
		mustWrap(t, mustOpen(t, awsURI("alias/vault", endpoint), quick()), here)
	})
}

func TestAWSCredentials(t *testing.T) {
	f, endpoint := startFake(t)
	os.Unsetenv("AWS_ACCESS_KEY_ID") // awsfake.Isolate puts it back
	os.Unsetenv("AWS_SECRET_ACCESS_KEY")
	k := mustOpenAWS(t, awsURI("alias/vault", endpoint), quick())
	err := newDataKey.run(t.Context(), k, envelope.WrappedKey{})
	checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
	if len(f.Calls()) != 0 || !strings.Contains(err.Error(), "no usable AWS credentials") {
		t.Errorf("got %v after %v", err, f.Calls())
	}

	// A credential service that fails for a moment is not "no".
	for code, want := range map[string]error{
		"ThrottlingException": envelope.ErrKeyUnavailable, "InternalFailure": envelope.ErrKeyUnavailable,
		"AccessDenied": envelope.ErrKeyRefused, "InvalidIdentityToken": envelope.ErrKeyRefused,
	} {
		err := errors.Join(awsclient.ErrNoCredentials, &smithy.GenericAPIError{Code: code})
		if _, got := reasonOf(err); got != want {
			t.Errorf("%s: got %v, want %v", code, got, want)
		}
	}
}

func TestDelayGrowsToItsCap(t *testing.T) {
	limits := defaultTiming()
	for attempt, full := range map[int]time.Duration{
		0: 25 * time.Millisecond, 1: 25 * time.Millisecond, 2: 50 * time.Millisecond, 5: 400 * time.Millisecond,
		6: 500 * time.Millisecond, 100: 500 * time.Millisecond,
	} {
		for range 100 {
			if got := limits.delay(attempt); got < full/2 || got > full {
				t.Errorf("attempt %d: got %v, want %v to %v", attempt, got, full/2, full)
			}
		}
	}
}
