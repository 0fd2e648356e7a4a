// Package archive keeps the records of reads for good: the segments of spools that the primary has, compressed, in a
// folder or a bucket, where they outlive the rows of the audit log.
//
// # Files
//
//	reads/CLUSTER_ID/BOOT/FIRST-NEXT-FROM-UNTIL-HASH.jsonl.zst
//
// below the folder, or the prefix of the bucket. CLUSTER_ID is the vault's, BOOT that of a node's spool (package
// spool). FIRST and NEXT are the number of the first record and the number after the last one, 20 digits each; FROM
// and UNTIL are the earliest and the latest time of an event, rounded to the second before and after; HASH is the
// beginning of the hash of the last record. A file is one frame of zstd with a checksum, of lines of text:
//
//	{"format":"hyperiondb-vault-reads/1","cluster":...,"node":...,"boot":...,"first":1,"records":2,"link":...,"last":...}
//	{"at":"2026-11-25T10:00:00Z","actor":"client:10.0.0.7","client":"10.0.0.7","action":"read",...}
//	...
//
// The first line has the hash of the record before the first one (link; zero for record 1) and that of the last
// record. Each line behind it is the event of one record, byte by byte. A record's hash is SHA-256 of its number (8
// bytes, the most significant first), the hash of the record before and the event; so all hashes follow from the
// link, and a verification computes them again. zstdcat and jq read a file
// without the vault.
//
// # What is guaranteed
//
// [Archive.Keep] returns nil when the segment is in the archive for good: in a folder the file was fsynced, renamed
// and the folder fsynced; in a bucket the object was put on the condition that there is none of its name. A file is
// never replaced. The name follows from the records alone, so a segment that is kept again (its reply was lost, or
// the daemon was killed before it removed the segment) finds the file with its own records and is done. A file of
// that name with other content is an error, and the segment stays in the spool.
//
// # What verifying finds
//
// [Archive.Verify] reads every file and finds: a file that is damaged, cut short or not of this format; a record that
// was changed, added or removed in a file; a missing file between two others; two files that have different records
// under one number; and a file whose first record does not continue the file before. With the primary's position of
// the spool ([spool.Ledger]) it also finds the newest file with other records than the primary acknowledged. Not
// found without that: a newest file that is gone, and a whole spool that was made anew by a writer of the archive.
// Oldest files may expire.
package archive
