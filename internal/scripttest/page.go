package scripttest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// block is one fenced block of a page.
type block struct {
	line     int // of its fence
	language string
	on       string // the machine that it is of, "" for the operator's
	file     string // the file that it is a part of
	exit     int    // of its last command
	keys     string // what the reader types into a program that takes the terminal
	notRun   string // why it is not run, "" if it is
	section  string // the heading before it
	text     string
}

// blocksOf finds the fenced blocks of a page. After the language, the fence may say on=MACHINE, file=NAME, exit=CODE,
// keys=KEYS, or "not run: REASON". An indented block is an error: it has no language.
func blocksOf(text string) ([]block, error) {
	var blocks []block
	var open *block
	indent, section, item, blank := "", "", 0, true
	for n, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimLeft(line, " ")
		isFence := strings.HasPrefix(trimmed, "```")
		switch {
		case open != nil && isFence:
			blocks, open = append(blocks, *open), nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		case isFence:
			b, err := parseFence(trimmed[3:])
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n+1, err)
			}
			b.line, b.section, open, indent = n+1, section, &b, line[:len(line)-len(trimmed)]
		case trimmed == "":
		case blank && len(line)-len(trimmed) >= item+4:
			return nil, fmt.Errorf("line %d: an indented block; hint: fence it, with its language", n+1)
		case listItem.MatchString(line):
			item = len(listItem.FindString(line))
		case line == trimmed:
			item = 0
			if heading.MatchString(line) {
				section = heading.ReplaceAllString(line, "")
			}
		}
		blank = trimmed == ""
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: this block does not end", open.line)
	}
	return blocks, nil
}

var (
	listItem = regexp.MustCompile(`^(\d+\.|-) +`)
	heading  = regexp.MustCompile(`^#+ `)
)

func parseFence(info string) (block, error) {
	language, rest, _ := strings.Cut(info, " ")
	b := block{language: language}
	if reason, ok := strings.CutPrefix(rest, "not run:"); ok {
		b.notRun = strings.TrimSpace(reason)
		if b.notRun == "" {
			return b, fmt.Errorf("a block that is not run, without a reason")
		}
		return b, nil
	}
	for _, word := range strings.Fields(rest) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "on":
			b.on = value
		case "file":
			b.file = value
		case "keys":
			b.keys = value
		case "exit":
			b.exit, err = strconv.Atoi(value)
		default:
			err = fmt.Errorf("unknown %q", word)
		}
		if err != nil {
			return b, fmt.Errorf("the fence: %w; hint: on=MACHINE, file=NAME, exit=CODE, keys=KEYS, or not run: REASON", err)
		}
	}
	return b, nil
}

// step is a command of a console block, and what the page shows of its output.
type step struct {
	command string
	output  []string
}

// steps takes a console block apart: commands begin with "$ ", and go on after a backslash.
func (b *block) steps() ([]step, error) {
	var steps []step
	goesOn := false
	for line := range strings.Lines(b.text) {
		line = strings.TrimSuffix(line, "\n")
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case goesOn:
			steps[len(steps)-1].command += "\n" + line
		case isCommand:
			steps = append(steps, step{command: command})
		case len(steps) == 0:
			return nil, fmt.Errorf("a console block begins with \"$ \"")
		default:
			last := &steps[len(steps)-1]
			last.output = append(last.output, line)
		}
		goesOn = (goesOn || isCommand) && strings.HasSuffix(line, `\`)
	}
	return steps, nil
}

// differs are the parts of an output that differ between two runs, and "..." for what a page leaves out. The number of
// the schema is one that a page has to have right.
var differs = regexp.MustCompile(`schema version +\d+|this binary's( is)? +\d+|\.\.\.|` +
	`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+|\blocal:[0-9a-f]+|[0-9A-F]+/[0-9A-F]+|\d+| +`)

// likeness is the pattern of a line: numbers, ids and positions may be others, and the line may be a part of the real
// one's beginning.
func likeness(line string) *regexp.Regexp {
	var pattern strings.Builder
	pattern.WriteString("^")
	last := 0
	for _, at := range differs.FindAllStringIndex(line, -1) {
		pattern.WriteString(regexp.QuoteMeta(line[last:at[0]]))
		switch found := line[at[0]:at[1]]; {
		case strings.HasPrefix(found, "schema") || strings.HasPrefix(found, "this"):
			pattern.WriteString(strings.Join(strings.Fields(found), " +"))
		case found == "...":
			pattern.WriteString(".*")
		case found[0] == ' ':
			pattern.WriteString(` +`)
		case strings.Contains(found, "-"):
			pattern.WriteString(`[0-9a-f-]+`)
		case strings.HasPrefix(found, "local:"):
			pattern.WriteString(`local:[0-9a-f]+`)
		case strings.Contains(found, "/"):
			pattern.WriteString(`[0-9A-F]+/[0-9A-F]+`)
		default:
			pattern.WriteString(`\d+`)
		}
		last = at[1]
	}
	return regexp.MustCompile(pattern.String() + regexp.QuoteMeta(strings.TrimRight(line[last:], " ")))
}

// missing returns the first documented line that the output does not have after those before it.
func missing(documented []string, output string) (string, bool) {
	lines := strings.Split(output, "\n")
	for _, want := range documented {
		if strings.TrimSpace(want) == "" {
			continue
		}
		like := likeness(want)
		for {
			if len(lines) == 0 {
				return want, true
			}
			line := lines[0]
			lines = lines[1:]
			if like.MatchString(line) {
				break
			}
		}
	}
	return "", false
}

// commandLike is a line that a reader would type.
var commandLike = regexp.MustCompile(`^(\$ .*|(\w+=\S+ )*(vaultctl|vaultd|psql|pg_\w+|createuser|createdb|curl|` +
	`systemctl|make|go|export|kubectl|aws|vault|sops|chamber|infisical|patronictl|apt-get|cp|mv|rm|touch|mkdir|` +
	`install|cat)( .*)?)$`)
