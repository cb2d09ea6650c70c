// Release makes what is given to operators: static hostgwd programs for linux on
// amd64 and arm64, and of each a tarball and a Debian package, with the systemd
// unit, the manual page, the completion scripts and the licences.
//
//	go run ./examples/release -o dist
//
// The same commit gives the same bytes, wherever and whenever it is built by the
// same version of Go.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root := flag.String("root", ".", "`dir` of the checkout")
	out := flag.String("o", "dist", "`dir` to write to; what an earlier release left there is replaced")
	version := flag.String("version", "", "`version`, such as v1.2.3; what git describe says if absent")
	arch := flag.String("arch", "amd64,arm64", "comma-separated `list` of architectures")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("%q is one argument too many", flag.Arg(0))
	}
	names, err := release{
		Root: *root, Out: *out, Version: *version, Arch: strings.Split(*arch, ","),
	}.make(ctx)
	for _, n := range names {
		fmt.Println(n)
	}
	return err
}
