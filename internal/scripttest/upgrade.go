package scripttest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/hyperiondb/vault/internal/testfolder"
)

// previousRelease is the commit that upgrades start from: schema version 13.
const previousRelease = "8a91bc4b8bff77086cc8a7a961ce0f37ad68597b"

// buildPrevious builds vaultctl-previous and vaultd-previous when a script first asks for them, once for all test
// programs of a run, and returns their folder. alone is the folder to take outside of such a run.
func buildPrevious(module, alone string) func() (string, error) {
	return sync.OnceValues(func() (bin string, err error) {
		err = testfolder.Share("previous", alone, func(dir string) error { return fillPrevious(module, dir) },
			func(dir string) error {
				bin = dir
				return nil
			})
		return bin, err
	})
}

// fillPrevious builds them in bin from the history of the module's repository.
func fillPrevious(module, bin string) error {
	source, err := os.MkdirTemp("", "previous")
	if err != nil {
		return err
	}
	defer os.RemoveAll(source)
	tarball, err := archivePrevious(module)
	if err != nil {
		return err
	}
	unpack := exec.Command("tar", "-x", "-C", source)
	unpack.Stdin = bytes.NewReader(tarball)
	if out, err := unpack.CombinedOutput(); err != nil {
		return fmt.Errorf("unpacking the previous release: %w\n%s", err, out)
	}
	built := filepath.Join(source, "built")
	build := testfolder.Go("build", "-buildvcs=false", "-o", built+"/", "./cmd/vaultctl", "./cmd/vaultd")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the previous release: %w\n%s", err, out)
	}
	for _, name := range []string{"vaultctl", "vaultd"} {
		content, err := os.ReadFile(filepath.Join(built, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(bin, name+"-previous"), content, 0o755)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// archivePrevious is the source of the previous release as a tar file. If a shallow clone lacks the commit, as in CI,
// it fetches the rest of the history once.
func archivePrevious(module string) ([]byte, error) {
	git := func(args ...string) ([]byte, error) {
		command := exec.Command("git", args...)
		command.Dir = module
		command.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0") // a missing login is an error
		var complaint bytes.Buffer
		command.Stderr = &complaint
		out, err := command.Output()
		if err != nil {
			err = fmt.Errorf("git %s: %w\n%s", args[0], err, complaint.Bytes())
		}
		return out, err
	}
	if _, err := git("cat-file", "-e", previousRelease+"^{commit}"); err != nil {
		if _, err := git("fetch", "--quiet", "--unshallow"); err != nil {
			return nil, fmt.Errorf("commit %s, the previous release, is not in this clone, and cannot be fetched; "+
				"hint: git fetch --unshallow: %w", previousRelease, err)
		}
	}
	return git("archive", previousRelease)
}

const previousVaultd = "vaultd-previous"
