package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hostgw/hostgw/examples/internal/status"
)

func statusFlags(fs *flagSet, c *call) {
	outputFlag(fs, c)
	fs.BoolVar(&c.watch, "watch", false, "show it again every second, until interrupted")
}

func outputFlag(fs *flagSet, c *call) {
	fs.StringVar(&c.output, "o", "table", "what to print: `table` or json")
}

func (c *call) json() (bool, error) {
	switch c.output {
	case "table":
		return false, nil
	case "json":
		return true, nil
	}
	return false, classed{errUsage, fmt.Errorf("-o %q must be table or json", c.output)}
}

// watchEvery is how often status -watch draws the picture again.
const watchEvery = time.Second

func runStatus(ctx context.Context, c *call) error {
	asJSON, err := c.json()
	if err != nil {
		return err
	}
	for {
		r, err := status.Get(ctx, c.Socket)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, status.ErrNotRunning) && c.watch:
			fmt.Fprintf(c.stdout, "\x1b[H\x1b[2J%v\n", err)
		case err != nil:
			return err
		case asJSON:
			err = status.Encode(c.stdout, r)
		default:
			if c.watch {
				fmt.Fprint(c.stdout, "\x1b[H\x1b[2J")
			}
			err = status.Print(c.stdout, r)
		}
		if !c.watch {
			return err
		}
		if !sleep(ctx, watchEvery) {
			return nil
		}
	}
}
