package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/daemon"
)

// program is the hostgwd under test, built by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if dir := os.Getenv(etcdVariable); dir != "" {
		return runEtcd(dir) // started by startEtcd
	}
	if os.Getuid() != 0 {
		return m.Run() // every test skips
	}
	dir, err := os.MkdirTemp("", "hostgw-integration-")
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
