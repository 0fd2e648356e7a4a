package seal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Copies is a [Keeper] in a file of the node: the seals that the node has seen, one JSON document a line.
type Copies struct {
	path string
	file *os.File
	last Seal // ID 0 = none
}

var _ Keeper = (*Copies)(nil)

// ErrCopies says that a file of seals cannot be read, or that other users may access it.
var ErrCopies = errors.New("not a file of seals")

// OpenCopies opens the file, or makes it, mode 0600. It cuts off a line that a crash left unfinished: its seal is added
// again.
func OpenCopies(path string) (*Copies, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the file of seals: %w", err)
	}
	c := &Copies{path: path, file: file}
	if err := c.read(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return c, nil
}

func (c *Copies) read() error {
	info, err := c.file.Stat()
	if err != nil {
		return fmt.Errorf("opening the file of seals: %w", err)
	}
	if err := checkMode(c.path, info); err != nil {
		return err
	}
	whole, err := readWhole(c.path, c.file, func(s Seal) { c.last = s })
	if err != nil {
		return err
	}
	if whole < info.Size() {
		if err := errors.Join(c.file.Truncate(whole), c.file.Sync()); err != nil {
			return fmt.Errorf("cutting an unfinished line off %q: %w", c.path, err)
		}
	}
	return syncFolder(filepath.Dir(c.path))
}

// CheckCopies is the error with which OpenCopies refuses a file, and changes nothing. A file that is not there is good.
func CheckCopies(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the file of seals: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("opening the file of seals: %w", err)
	}
	if err := checkMode(path, info); err != nil {
		return err
	}
	_, err = readWhole(path, file, func(Seal) {})
	return err
}

// checkMode refuses a file of seals that is open to others, or no file.
func checkMode(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%q: %w: it is open to others (chmod 600)", path, ErrCopies)
	}
	return nil
}

// Last is the newest seal seen; its ID is 0 if there is none.
func (c *Copies) Last(context.Context) (Seal, error) { return c.last, nil }

// Add appends seals that follow the last, and has them on disk when it returns.
func (c *Copies) Add(_ context.Context, seals []Seal) error {
	last := c.last
	lines, err := AppendLines(nil, &last, seals)
	if err != nil {
		return err
	}
	if _, err := c.file.Write(lines); err != nil {
		return fmt.Errorf("writing %q: %w", c.path, err)
	}
	if err := c.file.Sync(); err != nil {
		return fmt.Errorf("writing %q: %w", c.path, err)
	}
	c.last = last
	return nil
}

// AppendLines appends seals in the form of a keeper, one JSON document a line, if they follow last. It sets last to the
// last of them.
func AppendLines(lines []byte, last *Seal, seals []Seal) ([]byte, error) {
	for _, s := range seals {
		if err := follows(last, &s); err != nil {
			return nil, err
		}
		s.Marks = nil
		line, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		lines, *last = append(append(lines, line...), '\n'), s
	}
	return lines, nil
}

// follows fails unless s is the seal after last. A file may begin with any seal, and has no gap after it.
func follows(last, s *Seal) error {
	switch {
	case s.ComputeHash() != s.Hash:
		return changed(s)
	case !s.Signed():
		return &Fault{Seal: s.ID, What: fmt.Sprintf("the signature of seal %d is not by the key that it names", s.ID)}
	case last.ID != 0 && (s.ID != last.ID+1 || s.Previous != last.Hash):
		return &Fault{Seal: s.ID, What: fmt.Sprintf("seal %d does not follow seal %d, the last that was seen here", s.ID,
			last.ID)}
	}
	return nil
}

// Close closes the file.
func (c *Copies) Close() error { return c.file.Close() }

// ReadCopies reads the seals of a file that [Copies] wrote, on any node.
func ReadCopies(path string) ([]Seal, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the file of seals: %w", err)
	}
	defer file.Close()
	var all []Seal
	_, err = ReadLines(path, file, Seal{}, func(s Seal) { all = append(all, s) })
	return all, err
}

// readWhole is ReadLines for a whole file of seals. It refuses an end that is no unfinished line, since OpenCopies cuts
// that off: a key, say, of which the settings give the path by mistake.
func readWhole(path string, file io.ReadSeeker, add func(Seal)) (whole int64, err error) {
	if whole, err = ReadLines(path, file, Seal{}, add); err != nil {
		return whole, err
	}
	if _, err := file.Seek(whole, io.SeekStart); err != nil {
		return whole, err
	}
	rest, err := io.ReadAll(file)
	if err == nil && !bytes.HasPrefix(rest, []byte(`{"`)[:min(2, len(rest))]) && len(bytes.Trim(rest, "\x00")) > 0 {
		err = fmt.Errorf("%q: %w: it ends with something else", path, ErrCopies)
	}
	return whole, err
}

// ReadLines calls add with the seals that [AppendLines] wrote, which follow last, and returns the bytes of the whole
// lines. Its errors wrap ErrCopies and name the text as in %q.
func ReadLines(name string, r io.Reader, last Seal, add func(Seal)) (whole int64, err error) {
	lines := bufio.NewReaderSize(r, 1<<16)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return whole, nil
		}
		if err != nil {
			return whole, fmt.Errorf("reading %q: %w", name, err)
		}
		var s Seal
		if err := decodeStrictly(line, &s); err != nil {
			return whole, fmt.Errorf("%q line %d: %w: %w", name, number, ErrCopies, err)
		}
		if err := follows(&last, &s); err != nil {
			return whole, fmt.Errorf("%q line %d: %w: %s", name, number, ErrCopies, err)
		}
		add(s)
		last, whole = s, whole+int64(len(line))
	}
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil // a folder that may be written to, but not read
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
