//go:build !linux

package netlinkx

import (
	"context"

	"github.com/mdlayher/netlink"
)

// Run returns ErrUnsupported.
func (p *Programmer) Run(ctx context.Context, report func(Report)) error {
	if err := p.start(); err != nil {
		return err
	}
	return ErrUnsupported
}

// Plan returns ErrUnsupported.
func Plan(ctx context.Context, c Config, w Wanted) ([]Change, error) { return nil, ErrUnsupported }

// Cleanup returns ErrUnsupported.
func Cleanup(ctx context.Context, c Config) (int, error) { return 0, ErrUnsupported }

func dialKernel(groups ...uint32) (*netlink.Conn, error) { return nil, ErrUnsupported }
