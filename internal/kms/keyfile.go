package kms

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/secretfile"
)

const kekSize = 32 // bytes

// kek is the key of a key file. It never leaves this package and is in no error.
type kek [kekSize]byte

func (k *kek) wipe() {
	clear(k[:])
	runtime.KeepAlive(k)
}

// readKeyFile reads a key file and refuses one that another user could have read or written. It checks
// the open file, so a symlink is judged by its target and the file cannot be swapped in between.
func readKeyFile(path string) (*kek, error) {
	// O_NONBLOCK: opening a fifo must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fileError(path, "opening the key file", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fileError(path, "reading the key file", err)
	}
	if err := checkKeyFile(path, info, os.Geteuid()); err != nil {
		return nil, err
	}
	return readKEK(path, f)
}

// CheckKeyFile is the error with which a daemon refuses a key file, without reading the key. Root judges the file as
// its owner would, since the daemon may run as that user.
func CheckKeyFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fileError(path, "opening the key file", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fileError(path, "reading the key file", err)
	}
	return checkKeyFile(path, info, secretfile.Judge(info))
}

func readKEK(path string, f io.Reader) (*kek, error) {
	// One byte more than the key, to notice a file that grew after its size was read.
	var buf [kekSize + 1]byte
	defer clear(buf[:])
	n, err := io.ReadFull(f, buf[:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fileError(path, "reading the key file", err)
	}
	if n != kekSize {
		return nil, wrongSize(path)
	}
	k := new(kek)
	copy(k[:], buf[:kekSize])
	return k, nil
}

func checkKeyFile(path string, info fs.FileInfo, user int) error {
	if reason := secretfile.ComplaintOf(user, path, info); reason != "" {
		return refused(path, reason)
	}
	if info.Size() != kekSize {
		return wrongSize(path)
	}
	return nil
}

func wrongSize(path string) error {
	return refused(path, fmt.Sprintf("a key file holds exactly %d bytes", kekSize))
}

// fileError keeps the reason of the operating system, which names no contents.
func fileError(path, doing string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return &keyError{key: path, reason: doing + ": " + err.Error(), kinds: []error{envelope.ErrKeyRefused, err}}
}

// GenerateKeyFile makes a new local key: 32 random bytes in a file that did not exist, mode 0600,
// on disk together with its name in the folder when it returns. It returns the KeyID of the
// new key. Nothing is ever overwritten: errors.Is(err, fs.ErrExist). After any other error the
// file is gone again, or never was.
func GenerateKeyFile(path string) (keyID string, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return "", fileError(path, "creating the key file", err)
	}
	k := new(kek)
	defer k.wipe()
	rand.Read(k[:]) // never fails: the program ends instead
	if err := writeKeyFile(f, k); err != nil {
		os.Remove(path) // half a key is useless; the caller reports the first error
		return "", fileError(path, "writing the key file", err)
	}
	return k.id(), nil
}

func writeKeyFile(f *os.File, k *kek) error {
	_, err := f.Write(k[:])
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(f.Name()))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
