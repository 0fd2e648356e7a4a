package main

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/target"
	"github.com/hyperiondb/vault/internal/vault"
)

// settingsFlags are --rotate-every, --grace, --rotator and --window.
type settingsFlags struct {
	rotateEvery *time.Duration
	grace       *time.Duration
	rotator     optionalText
	window      optionalText
}

// optionalText is a flag whose empty value removes a setting.
type optionalText struct {
	text  string
	given bool
}

func (o *optionalText) String() string        { return o.text }
func (o *optionalText) Set(text string) error { *o = optionalText{text, true}; return nil }
func (o *optionalText) Type() string          { return "string" }
func (o optionalText) value() *string {
	if !o.given {
		return nil
	}
	return &o.text
}

func (f *settingsFlags) register(flags *pflag.FlagSet) {
	flags.Var(durationFlag{&f.rotateEvery}, "rotate-every",
		"make a new value this often, e.g. 30d (at least 1m; needs a generator)")
	flags.Var(durationFlag{&f.grace}, "grace", "how long a superseded version stays valid, e.g. 24h; 0 ends it at once")
	flags.Var(&f.rotator, "rotator",
		"what sets a new value where it is used, a `SPEC` such as \"postgres-role role=app via=prod/db/admin\"; "+
			"empty for nothing")
	flags.Var(&f.window, "window",
		"when it may rotate, a `WINDOW` such as \"02:00-05:00 Europe/Berlin\"; empty for any time")
}

// settings returns the given settings, nil where not given.
func (f settingsFlags) settings(generator *string) vault.Settings {
	return vault.Settings{Generator: generator, RotateEvery: f.rotateEvery, Grace: f.grace, Rotator: f.rotator.value(),
		Window: f.window.value()}
}

// check rejects early what the database would reject. ParseInterval has rejected too long intervals.
func (f *settingsFlags) check() error {
	if f.rotateEvery != nil && *f.rotateEvery < time.Minute {
		return usage("--rotate-every is at least 1m")
	}
	if f.rotator.text != "" {
		spec, err := target.Parse(f.rotator.text)
		if err != nil {
			return usage("--rotator: %s", err)
		}
		f.rotator.text = spec.String()
	}
	return nil
}

// defaultWait is how long --wait waits.
const defaultWait = time.Minute

// registerWait adds --wait and --wait=DURATION; nil until it is given.
func registerWait(cmd *cobra.Command, wait **time.Duration) {
	cmd.Flags().Var(durationFlag{wait}, "wait", "wait until it is done, for 1m or the `DURATION` written --wait=5m")
	cmd.Flags().Lookup("wait").NoOptDefVal = rotation.FormatInterval(defaultWait)
}

// generateFlags are --generate, --length and --charset.
type generateFlags struct {
	kind      string
	length    int
	charset   string
	generator *rotation.Generator
}

func (f *generateFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.kind, "generate", "",
		"make the value: `KIND` is chars, hex, base64, uuid, words or a whole spec, written --generate=hex:32")
	flags.Lookup("generate").NoOptDefVal = "chars"
	flags.IntVar(&f.length, "length", 0, "how many characters, bytes (hex, base64) or words to generate")
	flags.StringVar(&f.charset, "charset", "", "what to generate from: alnum, alpha, digits, ascii, url, or =CHARACTERS")
}

// parse is called after the flags are parsed.
func (f *generateFlags) parse(cmd *cobra.Command) error {
	given := cmd.Flags().Changed("generate")
	shaped := cmd.Flags().Changed("length") || cmd.Flags().Changed("charset")
	if !given && !shaped {
		return nil
	}
	if !given {
		return usage("--length and --charset go with --generate")
	}
	if cmd.Flags().Changed("length") && f.length < 1 {
		return usage("--length is at least 1")
	}
	var generator rotation.Generator
	var err error
	if shaped {
		generator, err = rotation.NewGenerator(f.kind, f.length, f.charset)
	} else {
		generator, err = rotation.ParseGenerator(f.kind)
	}
	if err != nil {
		return usage("--generate: %s", err)
	}
	f.generator = &generator
	return nil
}

func (f *generateFlags) chosen() bool { return f.generator != nil }

func (f *generateFlags) spec() *string {
	if f.generator == nil {
		return nil
	}
	spec := f.generator.String()
	return &spec
}
