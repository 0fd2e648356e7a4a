package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// TestTheSettingsOfThePages decodes every block of settings in the documents: its keys are settings, and its values
// fit.
func TestTheSettingsOfThePages(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^( *)```toml\n(.*?)^ *```$")
	found := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range block.FindAllStringSubmatch(string(text), -1) {
			found++
			settings := strings.ReplaceAll("\n"+b[2], "\n"+b[1], "\n")
			meta, err := toml.Decode(settings, &Config{})
			if err != nil || len(meta.Undecoded()) > 0 {
				t.Errorf("%s: got %v, unknown %v, of:%s", page, err, meta.Undecoded(), settings)
			}
		}
	}
	if found < 9 {
		t.Errorf("only %d blocks of settings were found", found)
	}
}
