package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hostgw/hostgw/examples/internal/setting"
)

// The places of the manual page's source that are filled in here.
const (
	datePlace    = "@DATE@"
	versionPlace = "@VERSION@"
	flagsPlace   = ".\\\" @FLAGS@\n"
)

// manual makes the manual page: what a person wrote, with the flags put in from
// the table that the daemon reads them by.
func manual(source, version string, date time.Time) ([]byte, error) {
	text, err := os.ReadFile(source)
	if err != nil {
		return nil, err
	}
	for _, place := range []string{datePlace, versionPlace, flagsPlace} {
		if n := bytes.Count(text, []byte(place)); n != 1 {
			return nil, fmt.Errorf("%s has %d times %q: it must be there once", source, n, place)
		}
	}
	var flags strings.Builder
	for _, s := range setting.Table() {
		if !s.Refused {
			writeFlag(&flags, s)
		}
	}
	return []byte(strings.NewReplacer(
		datePlace, date.Format("2006-01-02"),
		versionPlace, roff(version),
		flagsPlace, flags.String(),
	).Replace(string(text))), nil
}

func writeFlag(w *strings.Builder, s setting.Setting) {
	fmt.Fprintf(w, ".TP\n\\fB%s\\fR", roff("-"+s.Name))
	if s.Arg != "" {
		fmt.Fprintf(w, " \\fI%s\\fR", roff(s.Arg))
	}
	fmt.Fprintf(w, "\n%s\n", roff(s.Help))
	if s.Repeatable() {
		fmt.Fprintln(w, "In the environment, several are separated by commas.")
	}
	if s.Default != "" {
		fmt.Fprintf(w, "The default is %s.\n", roff(s.Default))
	}
}

// roff writes a text so that troff takes it for nothing else. A hyphen is made
// one that can be searched for and copied.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
