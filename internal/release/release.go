// Package release says which release a program is: its version and the commit that it was built from.
//
// make build and make package set both with the linker (-X). A program built by the go command alone has what that
// stamps: a version made of the commit, and the commit itself.
package release

import (
	"runtime/debug"
	"strings"
)

// Set by the linker.
var version, commit string

// unknown is the version of a program that was built from no repository, such as one of a test.
const unknown = "0.0.0-unknown"

// Version is the version without a leading v: of a tag, or made of the commit.
func Version() string {
	info, _ := debug.ReadBuildInfo()
	return versionOf(version, Commit(), info)
}

// Commit is the commit, with "-modified" if files differed from it; "" if it is not known.
func Commit() string {
	info, _ := debug.ReadBuildInfo()
	return commitOf(commit, info)
}

func versionOf(linked, built string, info *debug.BuildInfo) string {
	switch {
	case linked != "":
		return strings.TrimPrefix(linked, "v")
	case info != nil && info.Main.Version != "" && info.Main.Version != "(devel)":
		return strings.TrimPrefix(info.Main.Version, "v")
	}
	if built != "" {
		hash, modified := strings.CutSuffix(built, "-modified")
		text := "0.0.0-" + hash[:min(12, len(hash))]
		if modified {
			text += "-modified"
		}
		return text
	}
	return unknown
}

func commitOf(linked string, info *debug.BuildInfo) string {
	if linked != "" || info == nil {
		return linked
	}
	var hash, suffix string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			hash = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			suffix = "-modified"
		}
	}
	if hash == "" {
		return ""
	}
	return hash + suffix
}
