package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/hostgw/hostgw/examples/internal/setting"
)

func runHelp(_ context.Context, c *call) error {
	cmd := daemonCommand
	if len(c.Args) > 0 {
		var ok bool
		if cmd, ok = findCommand(c.Args[0]); !ok {
			return classed{errUsage, fmt.Errorf("there is no command %q", c.Args[0])}
		}
	}
	printHelp(c.stdout, cmd)
	return nil
}

func printHelp(w io.Writer, cmd command) {
	if cmd.name != "" {
		fmt.Fprintf(w, "hostgwd %s %s\n\n%s\n", cmd.name, cmd.usage, sentence(cmd.short))
		if cmd.flags != nil {
			fmt.Fprintf(w, "\nFlags of its own, besides those of hostgwd itself (hostgwd help):\n\n")
			var fs flagSet
			fs.SetOutput(w)
			cmd.flags(&fs, new(call))
			fs.PrintDefaults()
		}
		return
	}
	fmt.Fprintf(w, "hostgwd %s\n\n%s\n\nCommands:\n\n", cmd.usage, sentence(cmd.short))
	for _, c := range commands() {
		fmt.Fprintf(w, "  hostgwd %-34s %s\n", c.name+" "+c.usage, c.short)
	}
	fmt.Fprint(w, "\nFlags, with one dash or two, each also from the environment (-subnet-file from\n"+
		"HOSTGWD_SUBNET_FILE, and those that flanneld has from FLANNELD_SUBNET_FILE; the\nflag goes first):\n\n")
	for _, s := range setting.Table() {
		if s.Refused {
			continue
		}
		head := "-" + s.Name
		if s.Arg != "" {
			head += " " + s.Arg
		}
		if s.Default != "" {
			head += " (default " + s.Default + ")"
		}
		fmt.Fprintf(w, "  %s\n", head)
		for _, line := range wrap(s.Help, 72) {
			fmt.Fprintf(w, "        %s\n", line)
		}
	}
	fmt.Fprint(w, "\nExit status:\n\n")
	statuses := exits()
	for _, n := range slices.Sorted(maps.Keys(statuses)) {
		fmt.Fprintf(w, "  %d  %s\n", n, statuses[n])
	}
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

func wrap(s string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
