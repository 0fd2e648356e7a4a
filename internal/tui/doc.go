// Package tui is the terminal browser of the audit log.
//
// It queries a [Source] and holds at most maxEvents events around the selected one, for logs of any size. Moving near
// an end of them loads the next page and drops events at the other end.
//
// Every query has a deadline and a number. A newer query of the same kind cancels the older one, and an answer with an
// old number is dropped (query.go). What a pane shows is of one query or says that it is not: another filter or prefix
// empties the panes (model.show, findSecrets), an empty pane says whether that is the answer, and a pane whose query
// failed says so. So the events and counts on the screen always belong to the filter above them.
//
// The screen is made of panes, one file each: events.go (the table, its window in window.go), histogram.go (counts per
// span of time), detail.go, secrets.go, prompt.go (typed text), help.go. model.go passes messages to them and joins
// their lines; keys.go is the one list of keys, from which the help is made.
//
// Text from a row passes clean (text.go) before it is shown, so it cannot control the terminal or change the writing
// direction. No information is in colour alone. Marks come from the theme, which has ASCII ones.
package tui
