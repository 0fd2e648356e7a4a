package tui

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/lazyregexp"
	"github.com/hyperiondb/vault/internal/tui/noquery"
)

func init() { noquery.Restore() }

// backgroundQuery is OSC 11. A terminal that does not know it ignores it.
const backgroundQuery = "\x1b]11;?\x1b\\"

var (
	backgroundAnswer = lazyregexp.New("\x1b\\]11;rgba?:([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})" +
		"(?:/[0-9a-fA-F]{1,4})?(?:\x07|\x1b\\\\)")
	answerBegun = lazyregexp.New("\x1b\\](1(1(;(r(g(b(a)?(:[0-9a-fA-F/]{0,24}\x1b?)?)?)?)?)?)?)?$")
)

// backgroundMsg is a terminal's answer.
type backgroundMsg struct{ dark bool }

// keyboard is the terminal's input without the answers to backgroundQuery, which arrive among the keys at any time. So
// the browser waits for no answer, takes none for keys, and loses no key.
type keyboard struct {
	*os.File
	answered func(backgroundMsg)
	held     []byte // the beginning of an answer
}

// Read returns 0 bytes if it read only an answer.
func (k *keyboard) Read(p []byte) (int, error) {
	n := copy(p, k.held)
	read, err := k.File.Read(p[n:])
	n += read
	k.held = nil
	keys := backgroundAnswer().ReplaceAllFunc(p[:n], func(answer []byte) []byte {
		k.answered(backgroundMsg{isDark(backgroundAnswer().FindSubmatch(answer)[1:])})
		return nil
	})
	if begun := answerBegun().FindIndex(keys); begun != nil && err == nil {
		k.held = bytes.Clone(keys[begun[0]:])
		keys = keys[:begun[0]]
	}
	return copy(p, keys), err
}

// isDark weighs red, green and blue like human vision.
func isDark(channels [][]byte) bool {
	brightness := 0.0
	for i, weight := range []float64{0.299, 0.587, 0.114} {
		value, _ := strconv.ParseUint(string(channels[i]), 16, 16)
		full := uint64(1)<<(4*len(channels[i])) - 1
		brightness += weight * float64(value) / float64(full)
	}
	return brightness < 0.5
}

// backgroundFrom reads the background from the environment; some terminals set COLORFGBG.
func backgroundFrom(env func(string) string) (dark, known bool) {
	_, background, found := strings.Cut(env("COLORFGBG"), ";")
	if _, last, three := strings.Cut(background, ";"); three {
		background = last
	}
	colour, err := strconv.Atoi(background)
	return colour < 7 || colour == 8, found && err == nil
}

// queryBackground writes to the terminal when it is raw, so that the answer is not echoed. Each frame is one write to
// the same file, so the query does not split one.
func (m *model) queryBackground() tea.Cmd {
	if m.terminal == nil {
		return nil
	}
	return func() tea.Msg {
		_, _ = m.terminal.WriteString(backgroundQuery)
		return nil
	}
}
