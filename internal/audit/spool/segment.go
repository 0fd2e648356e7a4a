package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

const (
	magic      = "HVSPOOL1"
	maxNode    = 255
	headerSize = len(magic) + 2 + 16 + 8 + sha256.Size + 4 // and the node's name
	frameSize  = 4 + 4                                     // before the payload
	linkedSize = 8 + sha256.Size                           // of the payload, before the event

	smallestFrame = frameSize + linkedSize + len("{}")

	// MaxEvent is the longest event, as JSON. A name has at most 255 bytes, so usual events are far below.
	MaxEvent = 16 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Hash is the SHA-256 of a record.
type Hash [sha256.Size]byte

// Record is one event with its place in the chain.
type Record struct {
	Seq      uint64
	Previous Hash
	Event    []byte // JSON
}

func (r Record) payload(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, r.Seq)
	dst = append(dst, r.Previous[:]...)
	return append(dst, r.Event...)
}

// Hash is the Previous of the next record. The primary computes the same.
func (r Record) Hash() Hash { return sha256.Sum256(r.payload(nil)) }

func appendFrame(dst []byte, r Record) []byte {
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(linkedSize+len(r.Event)))
	dst = append(dst, 0, 0, 0, 0)
	dst = r.payload(dst)
	binary.BigEndian.PutUint32(dst[start+4:], frameSum(dst[start:]))
	return dst
}

func frameSum(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame[:4], castagnoli), castagnoli, frame[frameSize:])
}

// decodeFrame reads the frame at the beginning of b, and reports whether there is one. The event is a part of b.
func decodeFrame(b []byte) (r Record, size int, ok bool) {
	if len(b) < frameSize+linkedSize {
		return r, 0, false
	}
	n := binary.BigEndian.Uint32(b)
	if n < linkedSize || n > linkedSize+MaxEvent || uint32(len(b)-frameSize) < n {
		return r, 0, false
	}
	size = frameSize + int(n)
	if frameSum(b[:size]) != binary.BigEndian.Uint32(b[4:]) {
		return r, 0, false
	}
	p := b[frameSize:size]
	r.Seq = binary.BigEndian.Uint64(p)
	copy(r.Previous[:], p[8:])
	r.Event = p[linkedSize:]
	return r, size, true
}

// header begins a segment.
type header struct {
	node  string
	boot  uuid.UUID
	first uint64
	link  Hash // of the record before the first; zero at the beginning of a boot
}

func (h header) encode() []byte {
	b := []byte(magic)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.node)))
	b = append(b, h.node...)
	b = append(b, h.boot[:]...)
	b = binary.BigEndian.AppendUint64(b, h.first)
	b = append(b, h.link[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

var errHeader = errors.New("no header of a segment")

func decodeHeader(b []byte) (h header, size int, err error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return h, 0, errHeader
	}
	node := int(binary.BigEndian.Uint16(b[len(magic):]))
	size = headerSize + node
	if node > maxNode || len(b) < size || crc32.Checksum(b[:size-4], castagnoli) != binary.BigEndian.Uint32(b[size-4:]) {
		return h, 0, errHeader
	}
	rest := b[len(magic)+2:]
	h.node, rest = string(rest[:node]), rest[node:]
	copy(h.boot[:], rest)
	h.first = binary.BigEndian.Uint64(rest[16:])
	copy(h.link[:], rest[24:])
	return h, size, nil
}

const (
	segmentSuffix = ".seg"
	partialSuffix = ".partial" // not yet a segment: removed when the folder is opened
	damagedSuffix = ".damaged" // set aside, and left alone by the spool
)

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// segmentFirst is the number in a segment's name.
func segmentFirst(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, ok && err == nil && first > 0 && name == segmentName(first)
}

// run is consecutive records of a segment.
type run []Record

// scanned is the content of a segment.
type scanned struct {
	header header
	runs   []run
	end    uint64 // the number up to which it can be read as written
	whole  int    // the bytes up to the end of the last record
	tail   int    // the bytes behind it, without the zeros that it was filled with
	reason string // why it is damaged; "" if it is not, also with a tail
}

// scan reads a segment and never fails: after bytes that are no frame it searches for the next frame. Records after
// such a hole, or that do not continue the chain, begin a run of their own; but if the last batch of all was torn
// there, they are a part of the tail.
func scan(b []byte, newest bool) scanned {
	var s scanned
	h, at, err := decodeHeader(b)
	if err != nil {
		s.reason = err.Error()
		at = 0
	}
	laidOut := len(b)
	b = b[:max(at, len(withoutZeros(b)))]
	laidOut -= len(b)
	s.header = h
	link, next := h.link, h.first
	broken, ever := err != nil, err != nil
	s.whole, s.end = at, h.first
	for at < len(b) {
		r, size, ok := decodeFrame(b[at:])
		if !ok {
			broken = true
			at++
			continue
		}
		if broken || r.Seq != next || r.Previous != link {
			if newest && !ever && laidOut > 0 && torn(b, s.whole, at) {
				break
			}
			if s.reason == "" {
				s.reason = fmt.Sprintf("record %d does not follow record %d", r.Seq, next-1)
			}
			s.runs, ever = append(s.runs, nil), true
		} else if len(s.runs) == 0 {
			s.runs = append(s.runs, nil)
		}
		last := len(s.runs) - 1
		s.runs[last] = append(s.runs[last], r)
		link, next, broken = r.Hash(), r.Seq+1, false
		at += size
		s.whole = at
		if !ever {
			s.end = next
		}
	}
	s.tail = len(b) - s.whole
	return s
}

// withoutZeros cuts zeros off the end, many at a time: most of a segment may be what it was filled with.
func withoutZeros(b []byte) []byte {
	for {
		rest, zero := bytes.CutSuffix(b, zeros[:])
		if !zero {
			return bytes.TrimRight(b, "\x00")
		}
		b = rest
	}
}

// sector is the bytes that a disk writes whole or not at all.
const sector = 512

// torn reports whether the records behind a hole are the rest of the last batch written to a segment filled with zeros:
// a power cut leaves any of its sectors zero, and no append of that batch was answered. No record holds such zeros, and
// no batch more than maxBatch records.
func torn(b []byte, hole, after int) bool {
	zero := false
	for at, end := hole, 0; ; at = end {
		if end = (at/sector + 1) * sector; end > after {
			break
		}
		zero = zero || end-at >= 4 && allZero(b[at:end]) // a frame begins with its length, in four bytes
	}
	behind := 0
	for at := after; at < len(b) && zero; {
		_, size, ok := decodeFrame(b[at:])
		if !ok {
			at++
			continue
		}
		behind++
		at += size
	}
	return zero && behind <= maxBatch
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
