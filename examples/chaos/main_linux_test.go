package chaos

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"google.golang.org/grpc/grpclog"

	"github.com/hostgw/hostgw/examples/internal/daemon"
)

var (
	roundsFlag = flag.Int("chaos.rounds", 1, "how many times everything is broken, from the second time on in random order")
	seedFlag   = flag.Uint64("chaos.seed", 0, "seed of what is chosen at random; 0 means a random one, which is logged")
)

// program is the hostgwd under test, built by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if spec := os.Getenv(etcdVariable); spec != "" {
		return runEtcd(spec) // started by member.start
	}
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(discard{}, discard{}, discard{}))
	flag.Parse()
	if os.Getuid() != 0 {
		return m.Run() // the test skips
	}
	dir, err := os.MkdirTemp("", "hostgw-chaos-")
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

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
