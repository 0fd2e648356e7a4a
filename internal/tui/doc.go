// Package tui is the terminal browser of the audit log.
//
// It asks a [Source] and holds little: at most maxEvents events around the one selected, whatever the size of the log.
// Going beyond their ends asks for the next page and lets go of those at the other end.
//
// Every query has a deadline and a number. A newer query of the same kind cancels the older, whose answer, should it
// still come, is dropped by its number (ask.go): what is on the screen always belongs to the filter above it.
//
// The screen is made of panes, one file each: events.go (the table, its window in window.go), strip.go (counts per span
// of time), detail.go, secrets.go, prompt.go (whatever is typed), help.go. model.go hands messages to them and puts
// their lines together; keys.go is the one list of keys, which the help is made of.
//
// Everything from a row passes clean (text.go) before it is shown: it can neither steer the terminal nor turn the order
// of letters around. Nothing is said by colour alone.
package tui
