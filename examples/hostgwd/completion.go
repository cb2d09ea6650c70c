package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/hostgw/hostgw/examples/internal/setting"
)

func runCompletion(_ context.Context, c *call) error {
	shells := map[string]func(io.Writer){"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	if len(c.Args) != 1 || shells[c.Args[0]] == nil {
		return classed{errUsage, fmt.Errorf("completion takes one of bash, zsh and fish")}
	}
	shells[c.Args[0]](c.stdout)
	return nil
}

// offered are the settings worth completing: those that do something.
func offered() (list []setting.Setting) {
	for _, s := range setting.Table() {
		if !s.Refused {
			list = append(list, s)
		}
	}
	return list
}

func bashCompletion(w io.Writer) {
	var names, flags, files []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	for _, s := range offered() {
		flags = append(flags, "-"+s.Name)
		if s.Arg == "file" || s.Arg == "dir" {
			files = append(files, "-"+s.Name, "--"+s.Name)
		}
	}
	fmt.Fprintf(w, `_hostgwd() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    case $prev in
        %s) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        -iface|--iface) COMPREPLY=($(compgen -W "$(ls /sys/class/net)" -- "$cur")); return ;;
        -o) COMPREPLY=($(compgen -W "table json" -- "$cur")); return ;;
        lease) COMPREPLY=($(compgen -W "ls reserve release" -- "$cur")); return ;;
        completion) COMPREPLY=($(compgen -W "bash zsh fish" -- "$cur")); return ;;
    esac
    local words="%s"
    [ "$COMP_CWORD" -eq 1 ] && words="%s $words"
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _hostgwd hostgwd
`, strings.Join(files, "|"), strings.Join(flags, " "), strings.Join(names, " "))
}

func zshCompletion(w io.Writer) {
	fmt.Fprint(w, "#compdef hostgwd\n_hostgwd() {\n  local -a commands\n  commands=(\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "    '%s:%s'\n", c.name, zshText(c.short))
	}
	fmt.Fprint(w, "  )\n  _arguments -A '-*' \\\n")
	for _, s := range offered() {
		star := ""
		if s.Repeatable() {
			star = "*"
		}
		fmt.Fprintf(w, "    '%s-%s[%s]", star, s.Name, zshText(s.Help))
		switch s.Arg {
		case "":
		case "file":
			fmt.Fprint(w, ":file:_files")
		case "dir":
			fmt.Fprint(w, ":directory:_files -/")
		default:
			fmt.Fprintf(w, ":%s:", zshText(s.Arg))
		}
		fmt.Fprint(w, "' \\\n")
	}
	fmt.Fprint(w, `    '1: :{_describe command commands}' \
    '*::argument:{
      case $words[1] in
        lease) _values operation ls reserve release ;;
        completion) _values shell bash zsh fish ;;
        *) _files ;;
      esac
    }'
}
_hostgwd "$@"
`)
}

// zshText makes a text safe inside a quoted _arguments specification.
func zshText(s string) string {
	return strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`, ":", `\:`).Replace(s)
}

func fishCompletion(w io.Writer) {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `\'`) + "'" }
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	bare := quote("not __fish_seen_subcommand_from " + strings.Join(names, " "))
	fmt.Fprintln(w, "complete -c hostgwd -f")
	for _, c := range commands() {
		fmt.Fprintf(w, "complete -c hostgwd -n %s -a %s -d %s\n", bare, c.name, quote(c.short))
	}
	fmt.Fprintf(w, "complete -c hostgwd -n '__fish_seen_subcommand_from lease' -a 'ls reserve release'\n")
	fmt.Fprintf(w, "complete -c hostgwd -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n")
	for _, s := range offered() {
		arg := ""
		switch s.Arg {
		case "":
		case "file", "dir":
			arg = " -r -F"
		default:
			arg = " -x"
		}
		fmt.Fprintf(w, "complete -c hostgwd -o %s%s -d %s\n", s.Name, arg, quote(s.Help))
	}
}
