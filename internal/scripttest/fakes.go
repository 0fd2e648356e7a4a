package scripttest

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/audit/bucket/s3fake"
	"github.com/hyperiondb/vault/internal/kms/kmsfake"
)

// kms start | kms fault KIND [TIMES [OPERATION]] | kms clear | kms calls: an AWS KMS of the script's own. start sets
// VAULTCTL_KMS_KEY, and SEAL_KEY to an Ed25519 key.
func (h *harness) cmdKMS(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) == 1 && args[0] == "start":
		s.fake = kmsfake.New("eu-west-1", "vault")
		url, err := s.fake.Serve()
		ts.Check(err)
		s.cleanup = append(s.cleanup, s.fake.Close)
		s.fake.AddSigningKey("seals")
		ts.Setenv("VAULTCTL_KMS_KEY", "awskms:///alias/vault?region=eu-west-1&endpoint="+url)
		ts.Setenv("SEAL_KEY", "awskms:///alias/seals?region=eu-west-1&endpoint="+url)
		ts.Setenv("AWS_ACCESS_KEY_ID", "test")
		ts.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	case len(args) >= 2 && args[0] == "fault":
		fault := kmsfake.Fault{Kind: kmsfake.Kind(args[1])}
		if len(args) > 2 {
			var err error
			fault.Times, err = strconv.Atoi(args[2])
			ts.Check(err)
		}
		if len(args) > 3 {
			fault.Op = args[3]
		}
		ts.Check(s.fake.Inject(fault))
	case len(args) == 1 && args[0] == "clear":
		s.fake.Clear()
	case len(args) == 1 && args[0] == "calls":
		for op, n := range s.fake.Calls() {
			fmt.Fprintf(ts.Stdout(), "%s %d\n", op, n)
		}
	default:
		ts.Fatalf("usage: kms start | fault KIND [TIMES [OPERATION]] | clear | calls")
	}
}

// s3 start | s3 fault KIND | s3 clear | s3 list | s3 edit REGEXP NEW (in the last object): a bucket of the script's
// own. start sets S3_URL.
func (h *harness) cmdS3(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) == 1 && args[0] == "start":
		s.bucket = s3fake.New("eu-west-1", "seals")
		url, err := s.bucket.Serve()
		ts.Check(err)
		s.cleanup = append(s.cleanup, s.bucket.Close)
		ts.Setenv("S3_URL", "s3://seals/audit?region=eu-west-1&endpoint="+url)
		ts.Setenv("AWS_ACCESS_KEY_ID", "test")
		ts.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	case len(args) == 2 && args[0] == "fault":
		ts.Check(s.bucket.Inject(s3fake.Fault{Kind: s3fake.Kind(args[1])}))
	case len(args) == 1 && args[0] == "clear":
		s.bucket.Clear()
	case len(args) == 1 && args[0] == "list":
		for _, key := range s.bucket.Keys() {
			fmt.Fprintln(ts.Stdout(), key)
		}
	case len(args) == 3 && args[0] == "edit":
		keys := s.bucket.Keys()
		last := keys[len(keys)-1]
		edited := regexp.MustCompile(args[1]).ReplaceAll(s.bucket.Object(last), []byte(args[2]))
		if bytes.Equal(edited, s.bucket.Object(last)) {
			ts.Fatalf("%q is not in %s", args[1], last)
		}
		s.bucket.Set(last, edited)
	default:
		ts.Fatalf("usage: s3 start | fault KIND | clear | list | edit REGEXP NEW")
	}
}
