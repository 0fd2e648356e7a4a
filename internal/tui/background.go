package tui

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/tui/noquery"
)

func init() { noquery.Restore() }

// askBackground is OSC 11. A terminal that does not know it says nothing.
const askBackground = "\x1b]11;?\x1b\\"

var (
	backgroundAnswer = regexp.MustCompile("\x1b\\]11;rgba?:([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})" +
		"(?:/[0-9a-fA-F]{1,4})?(?:\x07|\x1b\\\\)")
	answerBegun = regexp.MustCompile("\x1b\\](1(1(;(r(g(b(a)?(:[0-9a-fA-F/]{0,24}\x1b?)?)?)?)?)?)?)?$")
)

// backgroundMsg is a terminal's answer.
type backgroundMsg struct{ dark bool }

// keyboard is the terminal's input without its answers about the background, which come among the keys whenever the
// terminal gets to it. So nothing waits for an answer, none is taken for keys, and no key is lost.
type keyboard struct {
	*os.File
	answered func(backgroundMsg)
	held     []byte // the beginning of an answer
}

// Read returns 0 bytes when there was nothing but an answer.
func (k *keyboard) Read(p []byte) (int, error) {
	n := copy(p, k.held)
	read, err := k.File.Read(p[n:])
	n += read
	k.held = nil
	keys := backgroundAnswer.ReplaceAllFunc(p[:n], func(answer []byte) []byte {
		k.answered(backgroundMsg{isDark(backgroundAnswer.FindSubmatch(answer)[1:])})
		return nil
	})
	if begun := answerBegun.FindIndex(keys); begun != nil && err == nil {
		k.held = bytes.Clone(keys[begun[0]:])
		keys = keys[:begun[0]]
	}
	return copy(p, keys), err
}

// isDark weighs red, green and blue as the eye does.
func isDark(channels [][]byte) bool {
	brightness := 0.0
	for i, weight := range []float64{0.299, 0.587, 0.114} {
		value, _ := strconv.ParseUint(string(channels[i]), 16, 16)
		full := uint64(1)<<(4*len(channels[i])) - 1
		brightness += weight * float64(value) / float64(full)
	}
	return brightness < 0.5
}

// backgroundFrom is what the environment says of the background; some terminals set COLORFGBG.
func backgroundFrom(env func(string) string) (dark, known bool) {
	_, background, found := strings.Cut(env("COLORFGBG"), ";")
	if _, last, three := strings.Cut(background, ";"); three {
		background = last
	}
	colour, err := strconv.Atoi(background)
	return colour < 7 || colour == 8, found && err == nil
}

// ask writes to the terminal once it is raw, so that no answer is echoed. The frames go through the same file, a
// write each.
func (m *model) ask() tea.Cmd {
	if m.asks == nil {
		return nil
	}
	return func() tea.Msg {
		_, _ = m.asks.WriteString(askBackground)
		return nil
	}
}
