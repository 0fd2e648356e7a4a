package rotation

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestWordList(t *testing.T) {
	words := wordList()
	if got, want := len(words), 1<<wordBits; got != want {
		t.Errorf("got %d words, want %d", got, want)
	}
	if joined := strings.Join(words, "\n") + "\n"; joined != wordsFile {
		t.Errorf("words.txt is not one word a line, each ended by a newline")
	}
	if !slices.IsSorted(words) {
		t.Errorf("words.txt is not sorted")
	}
	shape := regexp.MustCompile(`^[a-z]{3,7}$`)
	listed := map[string]bool{}
	for _, w := range words {
		if !shape.MatchString(w) {
			t.Errorf("word %q: want 3 to %d lower-case letters", w, longestWord)
		}
		if listed[w] {
			t.Errorf("word %q stands twice", w)
		}
		listed[w] = true
	}
	for _, w := range words {
		if listed[w+"s"] || listed[w+"es"] {
			t.Errorf("word %q stands beside its plural, which sounds too much like it", w)
		}
	}
}

// One of each pair may stand in the list, for a phrase is also read aloud.
func TestWordListHasNoSoundAlikes(t *testing.T) {
	listed := map[string]bool{}
	for _, w := range wordList() {
		listed[w] = true
	}
	for pair := range strings.FieldsSeq(`
		aisle/isle altar/alter ant/aunt ball/bawl bare/bear base/bass beach/beech beat/beet
		berry/bury blew/blue board/bored brake/break bread/bred buy/bye cell/sell cent/scent
		cereal/serial choral/coral chord/cord coarse/course council/counsel currant/current
		cymbal/symbol dear/deer dense/dents desert/dessert dew/due doe/dough ewe/you fair/fare
		feat/feet find/fined fir/fur flair/flare flea/flee flour/flower fore/four gild/guild
		grate/great groan/grown guessed/guest hair/hare hall/haul hangar/hanger heal/heel
		hear/here hole/whole horse/hoarse hour/our idle/idol jam/jamb jewel/joule kernel/colonel
		knead/need knight/night knot/not lessen/lesson links/lynx loan/lone mail/male main/mane
		maize/maze manner/manor mantel/mantle meat/meet medal/meddle metal/mettle miner/minor
		mist/missed moose/mousse morning/mourning muscle/mussel naval/navel oar/ore one/won
		pail/pale pain/pane pair/pear palate/palette pause/paws peace/piece peak/peek
		pedal/peddle peer/pier plain/plane plum/plumb pole/poll pore/pour pray/prey
		principal/principle profit/prophet quarts/quartz rain/reign raise/rays rap/wrap red/read
		right/write ring/wring road/rode role/roll root/route rose/rows rough/ruff sail/sale
		scene/seen sea/see seam/seem serial/cereal series/serious sew/sow shear/sheer sight/site
		slay/sleigh soar/sore sole/soul son/sun sonny/sunny stair/stare stake/steak steal/steel
		straight/strait suite/sweet tail/tale tea/tee team/teem their/there throne/thrown
		thyme/time tide/tied toad/toed toe/tow two/too vain/vein vale/veil waist/waste wait/weight
		waive/wave ware/wear weak/week weather/whether wet/whet whale/wail which/witch whine/wine
		wood/would yoke/yolk`) {
		a, b, _ := strings.Cut(pair, "/")
		if listed[a] && listed[b] {
			t.Errorf("words %q and %q sound alike", a, b)
		}
	}
}

func TestWordsFollowTheRandomBits(t *testing.T) {
	words := wordList()
	g := mustParse(t, "words:6")
	got := string(g.generate(repeating(
		0x00, 0x00, // the first word
		0x07, 0xff, // the last
		0xf8, 0x00, // the high five bits do not count
		0xff, 0xff,
		0x00, 0x01,
		0x01, 0x00,
	)))
	want := strings.Join([]string{words[0], words[2047], words[0], words[2047], words[1], words[256]}, "-")
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
