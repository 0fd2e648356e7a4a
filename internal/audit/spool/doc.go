// Package spool keeps the reads of one node on its disk until the primary has them.
//
// # What it promises
//
// [Spool.Append] returns nil only when the record is on disk: with [Always] it has been fsynced, shared with everybody
// who appended at the same time; with [Interval] it has been handed to the kernel, so a killed daemon loses nothing and
// a machine that loses its power loses at most the interval. Whoever gets an error must not go on: the record may or
// may not be found after a restart. So there can be a record of a read that was refused, never a read without one.
//
// Records have a number from 1 up, without a hole, for the life of a folder (a boot: a random UUID). Each holds the
// SHA-256 of the one before, so that a record that was changed, dropped or put in between shows, here and on the
// primary.
//
// # On disk
//
// A folder (0700) of segments (0600), named after the number of their first record, and a lock. A segment is a header
// (node, boot, first number, link, CRC-32C) and frames:
//
// length uint32 | CRC-32C of length and payload | payload: number uint64, SHA-256 of the payload before, JSON of the
// event
//
// A segment appears whole: header written and fsynced under another name, renamed, folder fsynced. The commit point of
// a record is the fsync of its segment. With [Always] the segment is laid out with zeros before: to make a file longer
// is the larger part of an fsync.
//
// # When the disk fails
//
// After a failed write or fsync nobody knows what of the segment is on disk, and asking again would be answered with a
// yes that means nothing. So that descriptor is never asked again: a new segment begins at the first record that is not
// known to be durable, and those records are written once more, or refused. That holds too for what was written while
// [Interval]'s fsync was under way. Where two segments overlap, the later one counts.
//
// [Open] cuts the torn tail of the last segment and puts that on record. Where a segment is laid out, a power cut can
// leave any sector of the last batch unwritten: zeros with at most one batch behind them are a torn tail too. A segment
// that is damaged elsewhere is set aside under another name; what can be read of it goes on under its own numbers, and
// what cannot is a gap: counted, on record, never filled.
//
// # Towards the primary
//
// A [Shipper] sends what is durable, in order. The primary keeps the next number for each (node, boot) and takes
// nothing twice; segments go only after it has acknowledged them, and a while later: a primary that was promoted may
// have lost the last of what the old one had acknowledged, and then asks for it again. A [Recorder] is what stands in
// front: refusals that are counted rather than listed, and what happens when a record cannot be kept.
package spool
