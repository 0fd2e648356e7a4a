// Command dotenv has the programs that read .env files read each text in a table, and rewrites the table:
//
//	go run ./tools/dotenv cmd/vaultctl/testdata/dotenv.jsonl
//
// It takes node, npm's dotenv (NODE_PATH), Debian's python3-dotenv, dash and bash; docker compose's reader is
// linked. A test compares vaultctl's reader with the table.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/sirupsen/logrus"
)

// row is a text and the variables that each program reads from it; null if it refuses the text. "all" stands for
// every program that is not named.
type row struct {
	Text string                       `json:"text"`
	Read map[string]map[string]string `json:"read"`
}

// interpreter runs another program on a file. Its output is a JSON object, or variables that end in zero bytes.
type interpreter []string

var interpreters = map[string]interpreter{
	"node": {"node", "--env-file=FILE", "-p", "JSON.stringify(process.env)"},
	"npm":  {"node", "-p", `JSON.stringify(require("dotenv").parse(require("fs").readFileSync("FILE")))`},
	"python": {"/usr/bin/python3", "-c",
		`import dotenv, json; print(json.dumps({k: v for k, v in dotenv.dotenv_values("FILE").items() if v is not None}))`},
	"dash": {"/bin/dash", "-ec", `set -a; . FILE; /usr/bin/env -0`},
	"bash": {"/bin/bash", "--norc", "-ec", `set -a; . FILE; /usr/bin/env -0`},
}

func main() {
	log.SetFlags(0)
	logrus.SetOutput(io.Discard) // compose's reader names each variable that is not set
	if len(os.Args) != 2 {
		log.Fatal("usage: dotenv TABLE")
	}
	if err := rewrite(os.Args[1]); err != nil {
		log.Fatalf("dotenv: %s", err)
	}
}

func rewrite(table string) error {
	old, err := os.ReadFile(table)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dotenv-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var made bytes.Buffer
	lines := bufio.NewScanner(bytes.NewReader(old))
	for lines.Scan() {
		var r row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		if r.Read, err = readings(dir, r.Text); err != nil {
			return fmt.Errorf("%q: %w", r.Text, err)
		}
		encoder := json.NewEncoder(&made)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(r); err != nil {
			return err
		}
	}
	return errors.Join(lines.Err(), os.WriteFile(table, made.Bytes(), 0o644))
}

// readings returns the variables that each program reads from a text.
func readings(dir, text string) (map[string]map[string]string, error) {
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	compose, err := dotenv.UnmarshalWithLookup(text, nil)
	if err != nil {
		compose = nil
	}
	read := map[string]map[string]string{"compose": compose}
	for name, program := range interpreters {
		if read[name], err = program.read(path); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return agreed(read), nil
}

// agreed names only the programs that differ from compose.
func agreed(read map[string]map[string]string) map[string]map[string]string {
	all := read["compose"]
	maps.DeleteFunc(read, func(_ string, got map[string]string) bool {
		return (got == nil) == (all == nil) && maps.Equal(got, all)
	})
	read["all"] = all
	return read
}

// read runs the program with an empty PATH: a text may be a command to a shell.
func (p interpreter) read(path string) (map[string]string, error) {
	program, err := exec.LookPath(p[0])
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	for _, arg := range p[1:] {
		cmd.Args = append(cmd.Args, strings.ReplaceAll(arg, "FILE", path))
	}
	cmd.Env = []string{"PATH=/nonexistent", "HOME=/home/x", "NODE_PATH=" + os.Getenv("NODE_PATH"), "LC_ALL=C.UTF-8"}
	out, err := cmd.Output()
	if cmd.Process != nil { // "$$"
		out = bytes.ReplaceAll(out, strconv.AppendInt(nil, int64(cmd.Process.Pid), 10), []byte("PID"))
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && bytes.Contains(exit.Stderr, []byte("Cannot find module")):
		return nil, errors.New("npm's dotenv is not in NODE_PATH")
	case errors.As(err, &exit) && bytes.Contains(exit.Stderr, []byte("No module named")):
		return nil, errors.New("python3-dotenv is not installed")
	case errors.As(err, &exit):
		return nil, nil // it refuses the text
	case err != nil:
		return nil, err
	}
	read := map[string]string{}
	if bytes.HasPrefix(out, []byte("{")) {
		err = json.Unmarshal(out, &read)
	} else {
		for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
			name, value, _ := strings.Cut(line, "=")
			read[name] = value
		}
	}
	for _, own := range []string{"PATH", "HOME", "NODE_PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"} {
		delete(read, own)
	}
	return read, err
}
