// Package rotation decides when a secret rotates and what its next value is.
//
// [Supervisor] enqueues due rotations, beside the primary. [Worker] claims, makes and completes
// rotations on every node. The database decides what they may do. The rest of the package is
// pure: it reads no clock, no database and no key service, and its only source of randomness is
// crypto/rand.
//
//   - Intervals ([ParseInterval], [FormatInterval]) are how people write rotation periods and
//     grace periods: "30d", "1w2d", "36h". A day is exactly 24 hours, in every time zone.
//   - A [Generator] makes the new value. It is stored beside the secret as a canonical spec
//     such as "chars:32:alnum", and the same parser reads that column and what an operator
//     types, so a spec that was accepted once is accepted forever.
//   - A failed job is tried again after a pause that doubles, up to an hour; after ten attempts it is
//     given up.
//
// What it guarantees:
//
//   - Every value a Generator makes holds at least 64 bits of entropy. A weaker
//     combination of kind, length and charset is refused when it is parsed, not when the
//     rotation runs at night.
//   - Every symbol of a value is drawn uniformly and independently: bytes that would favour
//     some symbols are discarded.
//   - ParseGenerator(g.String()) == g, and ParseInterval(FormatInterval(d)) == d for every d
//     that ParseInterval returns.
//   - A generated value exists in one buffer, which the caller owns. Random bytes it was made
//     from are overwritten before Generate returns.
//
// What the caller must do: overwrite that buffer when the value has been sealed.
//
// What it refuses: negative, signed, fractional-day and unbounded intervals; specs with
// anything left over; lengths outside their limits. Every refusal is one line that quotes what
// was typed and says what would be accepted. An interval or a spec is configuration, not a
// secret, so quoting it is safe.
package rotation
