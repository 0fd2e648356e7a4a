package tui

import (
	"github.com/charmbracelet/bubbles/key"
	tea "github.com/charmbracelet/bubbletea"
)

// command is a key with its action. Keys are looked up in keymap, and the help is made of it.
type command struct {
	key.Binding
	group string
	run   func(*model) tea.Cmd
	page  page // where it works; anyPage = everywhere
}

// groups in the order of the help.
const (
	moving    = "Moving"
	asking    = "Asking"
	acting    = "Doing"
	elsewhere = "Else"
)

func bind(group string, where page, run func(*model) tea.Cmd, shown, help string, keys ...string) command {
	return command{key.NewBinding(key.WithKeys(keys...), key.WithHelp(shown, help)), group, run, where}
}

func keymap() []command {
	return []command{
		bind(moving, anyPage, (*model).up, "↑ k", "one up", "up", "k"),
		bind(moving, anyPage, (*model).down, "↓ j", "one down", "down", "j"),
		bind(moving, anyPage, (*model).pageUp, "PgUp b", "a screen up", "pgup", "b", "ctrl+b"),
		bind(moving, anyPage, (*model).pageDown, "PgDn Space", "a screen down", "pgdown", " ", "ctrl+f"),
		bind(moving, anyPage, (*model).home, "Home g", "the newest (of secrets: the first)", "home", "g"),
		bind(moving, anyPage, (*model).end, "End G", "the oldest (of secrets: the last)", "end", "G"),
		bind(moving, eventsPage, (*model).nextRefusal, "e", "the next refusal or failure, downwards", "e"),
		bind(moving, eventsPage, (*model).previousRefusal, "E", "the one before, upwards", "E"),
		bind(moving, eventsPage, (*model).bucketOlder, "]", "a span of the histogram older", "]"),
		bind(moving, eventsPage, (*model).bucketNewer, "[", "a span of the histogram newer", "["),
		bind(moving, eventsPage, (*model).promptMoment, "@", "go to a time: -30d, 2026-11-25T10:00", "@"),
		bind(moving, eventsPage, (*model).detailDown, "J", "scroll the details", "J"),
		bind(moving, eventsPage, (*model).detailUp, "K", "scroll them back", "K"),

		bind(asking, anyPage, (*model).promptFilter, "/", "filter while typing (Tab completes)", "/"),
		bind(asking, eventsPage, (*model).promptTime, "t", "any range of time", "t"),
		bind(asking, eventsPage, rangeOf(""), "0", "all times", "0"),
		bind(asking, eventsPage, rangeOf("-1h"), "1", "the last hour", "1"),
		bind(asking, eventsPage, rangeOf("today"), "2", "today", "2"),
		bind(asking, eventsPage, rangeOf("-24h"), "3", "the last 24 hours", "3"),
		bind(asking, eventsPage, rangeOf("-7d"), "4", "the last 7 days", "4"),
		bind(asking, eventsPage, rangeOf("-30d"), "5", "the last 30 days", "5"),
		bind(asking, eventsPage, rangeOf("-90d"), "6", "the last 90 days", "6"),
		bind(asking, eventsPage, (*model).sameRequest, "o", "all events of the same request, or actor", "o"),
		bind(asking, eventsPage, (*model).sameActor, "O", "all events of the same actor", "O"),
		bind(asking, eventsPage, (*model).sameSecret, "s", "all events of the same secret", "s"),
		bind(asking, eventsPage, (*model).back, "Backspace", "the filter before", "backspace", "ctrl+h"),

		bind(acting, anyPage, (*model).enter, "Enter", "details (of a secret: its events)", "enter"),
		bind(acting, eventsPage, (*model).toggleFollow, "f", "follow new events", "f"),
		bind(acting, anyPage, (*model).reload, "r", "ask again", "r", "f5"),
		bind(acting, anyPage, (*model).copy, "y", "copy as JSON (of a secret: its name)", "y"),
		bind(acting, eventsPage, (*model).promptExport, "x", "export the filter to a file", "x"),
		bind(acting, anyPage, (*model).escape, "Esc", "close, or stop asking", "esc"),

		bind(elsewhere, anyPage, (*model).otherPage, "Tab", "events or secrets", "tab", "shift+tab"),
		bind(elsewhere, anyPage, (*model).toggleHelp, "?", "this help", "?", "f1"),
		bind(elsewhere, anyPage, func(*model) tea.Cmd { return tea.Suspend }, "Ctrl-Z", "leave for a moment (fg comes back)",
			"ctrl+z"),
		bind(elsewhere, anyPage, (*model).quit, "q", "leave", "q", "ctrl+c"),
	}
}

func (m *model) key(msg tea.KeyMsg) tea.Cmd {
	for _, c := range m.keys {
		if (c.page == anyPage || c.page == m.page) && key.Matches(msg, c.Binding) {
			return c.run(m)
		}
	}
	return nil
}
