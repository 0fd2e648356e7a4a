//go:build !unix

package client

import "io/fs"

// exposed: without modes of Unix, the folder's own rights protect the file.
func exposed(fs.FileInfo) bool { return false }
