package kms

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/hyperiondb/vault/internal/awsclient"
	"github.com/hyperiondb/vault/internal/envelope"
)

// timing holds the limits that tests shorten.
type timing struct {
	operation   time.Duration // for an operation whose context has no deadline
	attempt     time.Duration // one HTTP exchange: a dead pooled connection must not take the whole deadline
	firstDelay  time.Duration // between attempts, doubling
	longestWait time.Duration // between attempts at most
	aliasAge    time.Duration // how old a resolved alias may be when a row names another key
	now         func() time.Time
}

func defaultTiming() timing {
	return timing{
		operation:   5 * time.Second,
		attempt:     2 * time.Second,
		firstDelay:  25 * time.Millisecond,
		longestWait: 500 * time.Millisecond,
		aliasAge:    10 * time.Second,
		now:         time.Now,
	}
}

// maxAnswer bounds the body of an answer in bytes; KMS's longest is about 9 KB.
const maxAnswer = 64 << 10

const symmetricKey = "a symmetric encryption key"

// awsKey is a key in AWS KMS. Its kind decides which operations work.
type awsKey struct {
	uri       URI
	kind      string // the kind it has to be, for error texts
	client    *kms.Client
	transport *http.Transport
	retryer   *retry.Standard // its retry budget is shared by all operations
	limits    timing

	// resolving holds a token while DescribeKey resolves the key, so that many readers make one call.
	// It is a channel, because waiting for it ends with the context.
	resolving chan struct{}

	mu         sync.Mutex // guards the fields below
	keyID      string     // ARN, "" while unknown
	resolvedAt time.Time
}

func openAWS(ctx context.Context, u URI, limits timing) (*awsKey, error) {
	// Without a region in the URI or the ARN, the region comes from the configuration.
	cfg, err := awsclient.Load(ctx, cmp.Or(u.place.Region, arnRegion(u.name)))
	if err != nil {
		return nil, refused(u.name, err.Error())
	}
	var transport *http.Transport
	cfg.HTTPClient, transport = awsclient.HTTPClient(cfg, limits.attempt, maxAnswer)
	client := kms.NewFromConfig(cfg, func(o *kms.Options) {
		// Set here, at the end: in the configuration AWS_ENDPOINT_URL_KMS would win over the URI.
		if u.place.Endpoint != "" {
			o.BaseEndpoint = &u.place.Endpoint
		}
	})
	if err := awsclient.CheckEndpoint(client.Options().BaseEndpoint); err != nil {
		return nil, refused(u.name, err.Error())
	}
	k := &awsKey{
		uri:       u,
		kind:      symmetricKey,
		client:    client,
		transport: transport,
		retryer:   newRetryer(limits),
		limits:    limits,
		resolving: make(chan struct{}, 1),
	}
	if isKeyARN(u.name) {
		k.keyID = u.name
	}
	return k, nil
}

func (k *awsKey) name() string { return k.uri.name }
func (k *awsKey) URI() string  { return k.uri.String() }

// place is what two keys must share for ReEncrypt between them.
func (k *awsKey) place() [2]string {
	o := k.client.Options()
	return [2]string{o.Region, aws.ToString(o.BaseEndpoint)}
}

func (k *awsKey) Close() error {
	k.transport.CloseIdleConnections()
	return nil
}

func encryptionContext(kc envelope.KeyContext) map[string]string {
	return map[string]string{"hyperiondb:aad": kc.AAD, "hyperiondb:cluster": kc.ClusterID}
}

// check starts every operation.
func (k *awsKey) check(ctx context.Context, kc envelope.KeyContext) error {
	if err := ctx.Err(); err != nil {
		return ended(k.name(), err)
	}
	return checkContext(k.name(), kc)
}

func (k *awsKey) NewDataKey(ctx context.Context,
	kc envelope.KeyContext) (*envelope.DataKey, envelope.WrappedKey, error) {
	if err := k.check(ctx, kc); err != nil {
		return nil, envelope.WrappedKey{}, err
	}
	out, err := call(ctx, k, k.client.GenerateDataKey, &kms.GenerateDataKeyInput{
		KeyId:             &k.uri.name,
		KeySpec:           types.DataKeySpecAes256,
		EncryptionContext: encryptionContext(kc),
	})
	if err != nil {
		return nil, envelope.WrappedKey{}, err
	}
	defer clear(out.Plaintext)
	w, err := k.accept(out.KeyId, out.CiphertextBlob)
	if err != nil {
		return nil, envelope.WrappedKey{}, err
	}
	if len(out.Plaintext) != envelope.KeySize {
		return nil, envelope.WrappedKey{}, unavailable(k.name(), "the answer holds a data key of the wrong length")
	}
	dk := new(envelope.DataKey)
	copy(dk[:], out.Plaintext)
	return dk, w, nil
}

func (k *awsKey) Unwrap(ctx context.Context, w envelope.WrappedKey, kc envelope.KeyContext) (*envelope.DataKey, error) {
	ctx, cancel := k.bounded(ctx)
	defer cancel()
	if err := checkWrapped(ctx, k, w, kc); err != nil {
		return nil, err
	}
	keyID := k.nameFor(w.KeyID)
	out, err := call(ctx, k, k.client.Decrypt, &kms.DecryptInput{
		KeyId:               &keyID,
		CiphertextBlob:      w.Blob,
		EncryptionContext:   encryptionContext(kc),
		EncryptionAlgorithm: types.EncryptionAlgorithmSpecSymmetricDefault,
	})
	if err != nil {
		return nil, err
	}
	defer clear(out.Plaintext)
	if aws.ToString(out.KeyId) == "" || len(out.Plaintext) == 0 {
		return nil, unavailable(k.name(), incomplete)
	}
	if *out.KeyId != keyID {
		return nil, broken(k.name(), "the data key was opened by another key than the row names")
	}
	if len(out.Plaintext) != envelope.KeySize {
		return nil, broken(k.name(), "what was wrapped is not a data key")
	}
	dk := new(envelope.DataKey)
	copy(dk[:], out.Plaintext)
	return dk, nil
}

func (k *awsKey) Rewrap(ctx context.Context, w envelope.WrappedKey,
	kc envelope.KeyContext) (envelope.WrappedKey, error) {
	return k.reEncryptFrom(ctx, k, w, kc)
}

// reEncryptFrom moves the data key of w, wrapped by from, under k inside KMS.
func (k *awsKey) reEncryptFrom(ctx context.Context, from *awsKey, w envelope.WrappedKey,
	kc envelope.KeyContext) (envelope.WrappedKey, error) {
	ctx, cancel := k.bounded(ctx)
	defer cancel()
	if err := checkWrapped(ctx, from, w, kc); err != nil {
		return envelope.WrappedKey{}, err
	}
	source := from.nameFor(w.KeyID)
	out, err := call(ctx, k, k.client.ReEncrypt, &kms.ReEncryptInput{
		CiphertextBlob:                 w.Blob,
		SourceKeyId:                    &source,
		SourceEncryptionContext:        encryptionContext(kc),
		SourceEncryptionAlgorithm:      types.EncryptionAlgorithmSpecSymmetricDefault,
		DestinationKeyId:               &k.uri.name,
		DestinationEncryptionContext:   encryptionContext(kc),
		DestinationEncryptionAlgorithm: types.EncryptionAlgorithmSpecSymmetricDefault,
	})
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	rewrapped, err := k.accept(out.KeyId, out.CiphertextBlob)
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	if aws.ToString(out.SourceKeyId) != source {
		return envelope.WrappedKey{}, broken(k.name(), "the data key was opened by another key than the row names")
	}
	return rewrapped, nil
}

func (k *awsKey) wrap(ctx context.Context, dk *envelope.DataKey, kc envelope.KeyContext) (envelope.WrappedKey, error) {
	if err := k.check(ctx, kc); err != nil {
		return envelope.WrappedKey{}, err
	}
	out, err := call(ctx, k, k.client.Encrypt, &kms.EncryptInput{
		KeyId:               &k.uri.name,
		Plaintext:           dk[:],
		EncryptionContext:   encryptionContext(kc),
		EncryptionAlgorithm: types.EncryptionAlgorithmSpecSymmetricDefault,
	})
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	return k.accept(out.KeyId, out.CiphertextBlob)
}

func (k *awsKey) Describe(ctx context.Context) (Description, error) {
	if err := ctx.Err(); err != nil {
		return Description{}, ended(k.name(), err)
	}
	metadata, err := k.describe(ctx)
	if err != nil {
		return Description{}, err
	}
	d := Description{URI: k.URI(), KeyID: aws.ToString(metadata.Arn), State: keyState(metadata.KeyState)}
	if metadata.KeyUsage != types.KeyUsageTypeEncryptDecrypt || metadata.KeySpec != types.KeySpecSymmetricDefault {
		d.State = "not " + symmetricKey
		return d, nil
	}
	d.Usable = metadata.KeyState == types.KeyStateEnabled
	d.DeletesAt = aws.ToTime(metadata.DeletionDate)
	return d, nil
}

// keyState spells out AWS's states; an unknown one is not repeated.
// https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
func keyState(s types.KeyState) string {
	switch s {
	case types.KeyStateEnabled:
		return "enabled"
	case types.KeyStateDisabled:
		return "disabled"
	case types.KeyStateCreating:
		return "being created"
	case types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion:
		return "pending deletion"
	case types.KeyStatePendingImport:
		return "pending import"
	case types.KeyStateUnavailable:
		return "unavailable"
	case types.KeyStateUpdating:
		return "updating"
	}
	return "unknown"
}

// describe asks KMS for the key and remembers its ARN.
func (k *awsKey) describe(ctx context.Context) (*types.KeyMetadata, error) {
	out, err := call(ctx, k, k.client.DescribeKey, &kms.DescribeKeyInput{KeyId: &k.uri.name})
	if err != nil {
		return nil, err
	}
	if out.KeyMetadata == nil {
		return nil, unavailable(k.name(), incomplete)
	}
	if err := k.rememberID(out.KeyMetadata.Arn); err != nil {
		return nil, err
	}
	return out.KeyMetadata, nil
}

// accept checks an answer that holds a new blob of this key.
func (k *awsKey) accept(keyID *string, blob []byte) (envelope.WrappedKey, error) {
	if len(blob) < 1 || len(blob) > maxBlob {
		return envelope.WrappedKey{}, unavailable(k.name(), "the answer holds a wrapped data key of impossible length")
	}
	if err := k.rememberID(keyID); err != nil {
		return envelope.WrappedKey{}, err
	}
	return envelope.WrappedKey{KeyID: *keyID, Blob: blob}, nil
}

// rememberID remembers the ARN that KMS names for the configured key, if it can be that key.
func (k *awsKey) rememberID(keyID *string) error {
	if aws.ToString(keyID) == "" {
		return unavailable(k.name(), incomplete)
	}
	if !k.mayBe(*keyID) {
		return unavailable(k.name(), otherKey)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keyID, k.resolvedAt = *keyID, k.limits.now()
	return nil
}

// mayBe reports whether the configuration allows an ARN.
func (k *awsKey) mayBe(keyID string) bool {
	switch {
	case !isKeyARN(keyID):
		return false
	case k.uri.isAlias():
		return true
	case isKeyARN(k.uri.name):
		return keyID == k.uri.name
	}
	return strings.HasSuffix(keyID, ":key/"+k.uri.name)
}

// forget makes the next operation resolve the alias again.
func (k *awsKey) forget() {
	if isKeyARN(k.uri.name) {
		return // an ARN needs no resolving
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keyID = ""
}

func (k *awsKey) knownID() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keyID
}

// fresh reports whether resolving again is pointless. Only an alias can change its key.
func (k *awsKey) fresh() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keyID != "" && (!k.uri.isAlias() || k.limits.now().Sub(k.resolvedAt) < k.limits.aliasAge)
}

func (k *awsKey) KeyID(ctx context.Context) (string, error) {
	if id := k.knownID(); id != "" {
		return id, nil
	}
	return k.resolve(ctx)
}

// holds is also true for a multi-region key under the ARN of another region.
func (k *awsKey) holds(ctx context.Context, keyID string) (bool, error) {
	if !k.mayBe(keyID) && (!isMultiRegion(keyID) || isKeyARN(k.uri.name) && !sameKey(k.uri.name, keyID)) {
		return false, nil
	}
	if sameKey(k.knownID(), keyID) {
		return true, nil
	}
	id, err := k.resolve(ctx)
	return sameKey(id, keyID), err
}

// nameFor is the ARN, in this key's region, of the key of a row that this key holds.
func (k *awsKey) nameFor(keyID string) string {
	if id := k.knownID(); sameKey(id, keyID) {
		return id
	}
	return keyID
}

// resolve calls DescribeKey, unless another caller has just done so.
func (k *awsKey) resolve(ctx context.Context) (string, error) {
	ctx, cancel := k.bounded(ctx)
	defer cancel()
	select {
	case k.resolving <- struct{}{}:
		defer func() { <-k.resolving }()
	case <-ctx.Done():
		return "", ended(k.name(), ctx.Err())
	}
	if k.fresh() {
		return k.knownID(), nil
	}
	metadata, err := k.describe(ctx)
	if err != nil {
		return "", err
	}
	return *metadata.Arn, nil
}

func (k *awsKey) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, k.limits.operation)
}

// call makes every request to KMS: it bounds the time, retries and translates the failure.
func call[In, Out any](ctx context.Context, k *awsKey,
	do func(context.Context, *In, ...func(*kms.Options)) (*Out, error), in *In,
) (*Out, error) {
	ctx, cancel := k.bounded(ctx)
	defer cancel()
	attempts := &attempts{Standard: k.retryer}
	out, err := do(ctx, in, func(o *kms.Options) { o.Retryer = attempts })
	if err != nil {
		return nil, k.failure(ctx, err, attempts.last)
	}
	return out, nil
}
