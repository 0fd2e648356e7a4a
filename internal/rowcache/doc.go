// Package rowcache answers reads from memory: it keeps the sealed rows (never a plaintext) of the secrets that were
// read lately, and confirms all of them with one small query, a poll, instead of a query for each read.
//
// # The bound
//
// An answer is what the node had replayed at most [Options.Confirm] before the request arrived. It is held by these
// rules, in this order:
//
//  1. A poll takes the time before its bytes are written, by a clock that also counts while the machine is suspended
//     (CLOCK_BOOTTIME). When the whole result has been checked and the names in it are dropped, that time is the time
//     of the confirmation. It never goes back while one feed is followed.
//  2. A request takes the time after it was received. It loads the confirmation before the entry, and is answered from
//     memory only if the confirmation, or the start of the entry's own load, is at most Confirm older than that.
//  3. Otherwise it waits for a poll that began late enough, and is judged by the same rule again. If there is no such
//     poll, it queries the node itself.
//  4. While there are reads, polls begin every half of Confirm. Without reads there are none. A poll that fails
//     confirms nothing; one without an answer for a second fails. Then its session is closed and all rows are dropped.
//  5. A process that is stopped between the check and the answer delays the answer, not what it is based on. After it
//     goes on, rule 2 fails by itself.
//
// A virtual machine that is paused, with a database on another machine, cannot be told from one that runs: its clock
// stands still. An answer may then be older than the bound by as long as the pause was.
//
// # What is dropped
//
// A poll names what changed since the one before. Named rows are dropped, and loads of them that are in flight are
// doomed: their result answers the requests that asked, and is not kept. All rows are dropped when the poll comes from
// another session, server, timeline or system than the one before, when the role may read other names, when the feed no
// longer reaches back to the poll before (the floor), and when it has too many names. Then nothing is kept until the
// names fit again.
//
// A load is kept only if the server that the feed follows has answered it. Behind a pooler that is never known, so
// nothing is kept. A change that this process has made is dropped by [Cache.Drop], without waiting for a poll.
//
// The end of a grace is no change: it comes with the clock of the node, which every poll brings along. A version is
// never shown after its end by that clock; it may be left out earlier by the time that the poll took.
//
// No read is answered with something older than what an earlier read of this process has shown.
//
// # The access epoch
//
// Every answer has the access epoch of a snapshot in which the rows were the same, and that is never older than the
// rows: a revocation holds as soon as the values do that were made after it.
//
// # A node that is away
//
// A read that the node does not answer waits for it and asks again, within its deadline, while the node has been away
// for less than five seconds. With [Options.Survive], reads of kept rows are answered meanwhile, marked with how long
// ago they were confirmed.
//
// # Memory
//
// [Options.Bytes] bounds the sealed rows, with their names and what it takes to find them. Go's heap may hold twice
// that, until the next collection. The row that was not read for the longest time, about, makes room.
package rowcache
