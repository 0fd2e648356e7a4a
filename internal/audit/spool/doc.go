// Package spool keeps the records of one node's reads on its disk until the primary has them.
//
// # What it guarantees
//
// [Spool.Append] returns nil only when the record is kept: with [Always] it has been fsynced, in one fsync for all
// concurrent appends; with [Interval] it has been handed to the kernel, so a killed daemon loses nothing and a machine
// that loses its power loses at most the interval. A caller that gets an error must not answer the read: the record may
// or may not be found after a restart. So there can be a record of a refused read, but no answered read without one.
//
// Records are numbered from 1 up, without a hole, for the life of a folder (a boot: a random UUID). Each holds the
// SHA-256 of the one before, so that a record that was changed, dropped or inserted is found, here and on the primary.
//
// # On disk
//
// A folder (0700) of segments (0600), named after the number of their first record, and a lock. A segment is a header
// (node, boot, first number, link, CRC-32C) and frames:
//
//	length uint32 | CRC-32C of length and payload |
//	payload: number uint64, SHA-256 of the payload before, JSON of the event
//
// A segment is created whole: header written and fsynced under another name, renamed, folder fsynced. The commit point
// of a record is the fsync of its segment. With [Always] the segment is filled with zeros before: extending a file is
// the larger part of an fsync.
//
// # When the disk fails
//
// After a failed write or fsync it is unknown which parts of the segment are on disk, and a second fsync may return
// success without having written them. So that descriptor is not used again: a new segment begins at the first record
// that is not known to be durable, and those records are written once more, or refused. That includes records written
// during [Interval]'s fsync. Where two segments overlap, the later one counts.
//
// [Open] cuts the torn tail of the last segment and records that. In a segment filled with zeros, a power cut can leave
// any sector of the last batch unwritten: zeros with at most one batch behind them are a torn tail too. A segment that
// is damaged elsewhere is renamed; its readable records are written anew under their own numbers, and the others are a
// gap: counted, on record, never filled.
//
// # Shipping to the primary
//
// A [Shipper] sends durable records, in order: up to a hundred within its Window at once, a row for each, and more than
// these when the window is over, the reads of one secret as a row ([Windows]). Nothing is held but in the spool, from
// which a batch is grouped when it is sent, so a crash loses nothing. The primary keeps the next number for each
// (node, boot) and takes no record twice. Segments are removed only a while after it has acknowledged them: a promoted
// primary may have lost the last records that the old one acknowledged, and then asks for them again. On a full disk
// they are removed at once, and with Options.Archived none is removed before an [Archiver] has given it to an
// [Archive]. A [Recorder] is the interface of the daemon: it counts refusals beyond a number instead of listing them,
// and decides what happens when a record cannot be kept.
package spool
