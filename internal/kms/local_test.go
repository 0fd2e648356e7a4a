package kms

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/hyperiondb/vault/internal/envelope"
)

func mustWrite(t *testing.T, path string, content []byte, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // regardless of the umask
		t.Fatal(err)
	}
}

func TestGenerateKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	id, err := GenerateKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || info.Size() != 32 {
		t.Fatalf("got %v, %v, want a regular file of 32 bytes, mode 0600", info, err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append([]byte("hyperiondb-vault/kek-id/1"), before...))
	if want := "local:" + hex.EncodeToString(sum[:])[:32]; id != want {
		t.Errorf("got id %q, want %q", id, want)
	}
	if got := mustKeyID(t, mustOpen(t, "local://"+path, quick())); got != id {
		t.Errorf("opened as %q, generated as %q", got, id)
	}

	_, err = GenerateKeyFile(path)
	if !errors.Is(err, fs.ErrExist) || !errors.Is(err, envelope.ErrKeyRefused) {
		t.Errorf("generating again: got %v, want %v", err, fs.ErrExist)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Error("the key file was overwritten")
	}
	if other, _ := GenerateKeyFile(filepath.Join(t.TempDir(), "kek")); other == id {
		t.Error("two key files hold the same key")
	}
}

func TestGenerateKeyFileNeverFollowsALink(t *testing.T) {
	folder := t.TempDir()
	link := filepath.Join(folder, "link")
	if err := os.Symlink(filepath.Join(folder, "target"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := GenerateKeyFile(link); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want %v", err, fs.ErrExist)
	}
	_, err := GenerateKeyFile(filepath.Join(folder, "missing", "kek"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestWriteKeyFileReportsFailure(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "kek")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := writeKeyFile(f, new(kek)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v, want %v", err, os.ErrClosed)
	}
	if err := syncFolder(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

// The id names the key, not the file: the same key elsewhere opens the same rows.
func TestLocalKeyMoves(t *testing.T) {
	path := mustKeyFile(t)
	dk, w := mustWrap(t, mustOpen(t, "local://"+path, quick()), here)
	moved := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	if got := mustUnwrap(t, mustOpen(t, "local://"+moved, quick()), w, here); *got != *dk {
		t.Error("another data key came back")
	}
}

func TestKeyFileRefused(t *testing.T) {
	folder := t.TempDir()
	key := bytes.Repeat([]byte{7}, 32)
	in := func(name string) string { return filepath.Join(folder, name) }
	for mode, opens := range map[fs.FileMode]bool{
		0o600: true, 0o400: true,
		0o640: false, 0o604: false, 0o620: false, 0o602: false, 0o610: false, 0o601: false, 0o700: false, 0o644: false,
		0o440: false,
	} {
		path := in(fmt.Sprintf("mode-%o", mode))
		mustWrite(t, path, key, mode)
		_, err := open(t.Context(), "local://"+path, defaultTiming())
		if opens {
			if err != nil {
				t.Errorf("mode %o: %v", mode, err)
			}
			continue
		}
		checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
		if want := "(chmod 600 " + path + ")"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("mode %o: got %v, want the hint %q", mode, err, want)
		}
	}

	for _, size := range []int{0, 1, 31, 33, 64, 4096} {
		path := in(fmt.Sprintf("size-%d", size))
		mustWrite(t, path, make([]byte, size), 0o600)
		_, err := open(t.Context(), "local://"+path, defaultTiming())
		checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
		if err == nil || !strings.Contains(err.Error(), "exactly 32 bytes") {
			t.Errorf("%d bytes: got %v", size, err)
		}
	}

	if err := syscall.Mkfifo(in("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"a folder": folder, "a fifo": in("fifo"), "a device": "/dev/null"} {
		_, err := open(t.Context(), "local://"+path, defaultTiming())
		checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
		if err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: got %v", name, err)
		}
	}

	_, err := open(t.Context(), "local://"+in("missing"), defaultTiming())
	checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
	if !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "missing") != 1 {
		t.Errorf("got %v, want %v and the path once", err, fs.ErrNotExist)
	}
}

func TestKeyFileBehindALink(t *testing.T) {
	folder := t.TempDir()
	good, loose := filepath.Join(folder, "good"), filepath.Join(folder, "loose")
	mustWrite(t, good, make([]byte, 32), 0o600)
	mustWrite(t, loose, make([]byte, 32), 0o644)
	link := func(name, target string) string {
		path := filepath.Join(folder, name)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return "local://" + path
	}
	mustOpen(t, link("to-good", good), quick())
	_, err := open(t.Context(), link("to-loose", loose), defaultTiming())
	checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
	_, err = open(t.Context(), link("to-nothing", filepath.Join(folder, "nothing")), defaultTiming())
	checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
}

func TestKeyFileOwner(t *testing.T) {
	// The file information of another user's file, for any user of the test.
	path := mustKeyFile(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	checkError(t, checkKeyFile(path, ownedByNobody{info}, os.Geteuid()), envelope.ErrKeyRefused, envelope.WrappedKey{})
	if err := checkKeyFile(path, ownedByNobody{info}, 65534); err != nil {
		t.Errorf("got %v for the owner", err)
	}
}

// CheckKeyFile refuses what opening the key refuses, and has the same words.
func TestCheckKeyFile(t *testing.T) {
	folder := t.TempDir()
	write := func(name string, size int, mode fs.FileMode) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, make([]byte, size), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, path := range []string{write("good", 32, 0o600), write("short", 10, 0o600), write("long", 33, 0o600),
		write("open", 32, 0o640), folder, filepath.Join(folder, "nothing")} {
		checked, opened := CheckKeyFile(path), error(nil)
		if k, err := readKeyFile(path); err != nil {
			opened = err
		} else {
			k.wipe()
		}
		if fmt.Sprint(checked) != fmt.Sprint(opened) ||
			errors.Is(checked, fs.ErrNotExist) != errors.Is(opened, fs.ErrNotExist) {
			t.Errorf("%s: it is checked with %v, and opened with %v", path, checked, opened)
		}
	}
}

type ownedByNobody struct{ fs.FileInfo }

func (ownedByNobody) Sys() any { return &syscall.Stat_t{Uid: 65534} }

func TestReadKEK(t *testing.T) {
	for size, open := range map[int]bool{31: false, 32: true, 33: false, 100: false} {
		_, err := readKEK("/kek", bytes.NewReader(make([]byte, size)))
		if (err == nil) != open {
			t.Errorf("%d bytes: got %v", size, err)
		}
	}
	_, err := readKEK("/kek", iotest.ErrReader(io.ErrClosedPipe))
	checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
}

// The blob is XChaCha20-Poly1305 as the library has it, although the package derives the
// key for the nonce itself.
func TestLocalBlobFormat(t *testing.T) {
	path := mustKeyFile(t)
	key, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dk, w := mustWrap(t, mustOpen(t, "local://"+path, quick()), here)
	if len(w.Blob) != 73 || w.Blob[0] != 1 {
		t.Fatalf("got %d bytes of version %d, want 73 of version 1", len(w.Blob), w.Blob[0])
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		t.Fatal(err)
	}
	aad := "hyperiondb-vault/local-wrap/1" + "\x00\x00\x00\x08" + here.AAD + "\x00\x00\x00\x10" + here.ClusterID
	got, err := aead.Open(nil, w.Blob[1:25], w.Blob[25:], []byte(aad))
	if err != nil || !bytes.Equal(got, dk[:]) {
		t.Errorf("the library does not open the blob: %v", err)
	}
}

func TestLocalClose(t *testing.T) {
	k := mustOpen(t, "local://"+mustKeyFile(t), quick()).(*localKey)
	_, w := mustWrap(t, k, here)
	held := k.kek
	for range 2 {
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if *held != (kek{}) {
		t.Error("the key was not wiped")
	}
	_, _, err := k.NewDataKey(t.Context(), here)
	checkError(t, err, envelope.ErrKeyRefused, w)
	_, err = k.Unwrap(t.Context(), w, here)
	checkError(t, err, envelope.ErrKeyRefused, w)
}

func TestLocalDescribeLooksAtTheFile(t *testing.T) {
	path := mustKeyFile(t)
	k := mustOpen(t, "local://"+path, quick())
	_, w := mustWrap(t, k, here)
	mustWrite(t, path, bytes.Repeat([]byte{9}, 32), 0o600)
	_, err := k.Describe(t.Context())
	checkError(t, err, envelope.ErrKeyRefused, w)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err = k.Describe(t.Context())
	checkError(t, err, envelope.ErrKeyRefused, w)
	mustUnwrap(t, k, w, here) // the open key still works
}

func FuzzLocalBlob(f *testing.F) {
	// Key, nonce and data key are fixed, so that every fuzzing process knows the one genuine blob.
	path := filepath.Join(f.TempDir(), "kek")
	key := bytes.Repeat([]byte{7}, 32)
	if err := os.WriteFile(path, key, 0o600); err != nil {
		f.Fatal(err)
	}
	k, err := open(context.Background(), "local://"+path, defaultTiming())
	if err != nil {
		f.Fatal(err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		f.Fatal(err)
	}
	header := append([]byte{localVersion}, make([]byte, localNonce)...)
	w := envelope.WrappedKey{
		KeyID: k.(*localKey).id,
		Blob:  aead.Seal(header, header[1:], make([]byte, envelope.KeySize), localAAD(here)),
	}
	f.Add(w.Blob, here.AAD, here.ClusterID)
	f.Add(w.Blob[:72], here.AAD, here.ClusterID)
	f.Add(w.Blob, "app/db:8", here.ClusterID)
	f.Add([]byte{}, "", "")
	f.Fuzz(func(t *testing.T, blob []byte, aad, cluster string) {
		kc := envelope.KeyContext{AAD: aad, ClusterID: cluster}
		dk, err := k.Unwrap(t.Context(), envelope.WrappedKey{KeyID: w.KeyID, Blob: blob}, kc)
		if genuine := bytes.Equal(blob, w.Blob) && kc == here; genuine != (err == nil) {
			t.Fatalf("genuine: %v, got %v", genuine, err)
		}
		if err != nil && (dk != nil || !errors.Is(err, envelope.ErrIntegrity) && !errors.Is(err, envelope.ErrKeyRefused)) {
			t.Errorf("got %v, %v", dk, err)
		}
	})
}
