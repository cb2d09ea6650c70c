package workflow

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/daemon"
)

// The test program is also the program that it runs on the hosts: these are its
// first arguments then.
const (
	bootArgument    = "boot"    // see boot
	abandonArgument = "abandon" // see abandon
)

// program is the hostgwd under test, built by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case bootArgument:
			return boot(os.Args[2:])
		case abandonArgument:
			return abandon(os.Args[2:])
		}
	}
	if os.Getuid() != 0 {
		return m.Run() // every test skips
	}
	dir, err := os.MkdirTemp("", "hostgw-workflow-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	var log bytes.Buffer
	if program, err = daemon.Build(context.Background(), dir, &log); err != nil {
		fmt.Fprintf(os.Stderr, "%v:\n%s", err, &log)
		return 1
	}
	return m.Run()
}
