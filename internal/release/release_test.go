package release

import (
	"runtime/debug"
	"testing"
)

func TestVersionAndCommit(t *testing.T) {
	vcs := func(main, hash, modified string) *debug.BuildInfo {
		info := &debug.BuildInfo{Main: debug.Module{Version: main}}
		if hash != "" {
			info.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: hash}, {Key: "vcs.modified", Value: modified}}
		}
		return info
	}
	const hash = "8a91bc40b9ef21dd5c07f5d3a64f1f4a7c1f1e52"
	for _, c := range []struct {
		what, version, commit string
		info                  *debug.BuildInfo
		wantVersion           string
		wantCommit            string
	}{
		{"set by the linker", "v1.4.0", hash, vcs("(devel)", "", ""), "1.4.0", hash},
		{"a commit set by the linker", "", hash + "-modified", vcs("(devel)", "", ""), "0.0.0-8a91bc40b9ef-modified",
			hash + "-modified"},
		{"stamped by the go command", "", "", vcs("v1.4.0", hash, "false"), "1.4.0", hash},
		{"a checkout that the go command gave no version", "", "", vcs("(devel)", hash, "true"),
			"0.0.0-8a91bc40b9ef-modified", hash + "-modified"},
		{"no repository", "", "", vcs("(devel)", "", ""), unknown, ""},
		{"no information", "", "", nil, unknown, ""},
	} {
		if got := versionOf(c.version, commitOf(c.commit, c.info), c.info); got != c.wantVersion {
			t.Errorf("%s: got version %q, want %q", c.what, got, c.wantVersion)
		}
		if got := commitOf(c.commit, c.info); got != c.wantCommit {
			t.Errorf("%s: got commit %q, want %q", c.what, got, c.wantCommit)
		}
	}
}
