//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "lab: it makes network namespaces, which only Linux has; run it in a Linux machine, virtual or not")
	os.Exit(1)
}
