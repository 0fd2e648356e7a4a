// Package filter is the language of queries for audit events, in commands and in the browser:
//
//	actor:ci-deploy action:read secret:prod/* ip:10.0.0.0/8 outcome:denied since:-2h
//
// Terms are separated by spaces and all must hold; of several terms of one key one must hold; a term that begins with
// "-" (or "!") must not hold. A word without a key is the beginning of a secret's name, which has an index: prod/ is
// secret:prod/*.
//
//	secret: actor: action: node:  a text; "*" at the end = everything that begins with it
//	outcome:                      ok, denied or failed
//	ip:                           an address or a network
//	request:                      a request id
//	version:                      a number
//	since: until:                 -2h, -7d, 2026-11-25, 2026-11-25T10:00, 10:00, now, today, yesterday, monday
//
// An actor without its kind matches every kind: actor:ci is token:ci and worker:ci. Text with spaces is in double
// quotes, in which "*" is only a character, and \" and \\ are as in Go. A date after until: includes that whole day.
//
// [Parse] checks everything once and its errors have the column ([Error]). A [Filter] holds typed values, for
// parameters of a statement, never text of SQL. Parse resolves times, in the zone of the clock it is given.
// [Filter.String] parses as the same filter.
package filter
