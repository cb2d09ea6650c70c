//go:build !linux

package netlinkx

import "context"

// FindUplink checks o and returns ErrUnsupported.
func FindUplink(ctx context.Context, o UplinkOptions) (Uplink, error) {
	if _, _, err := o.complete(); err != nil {
		return Uplink{}, err
	}
	return Uplink{}, ErrUnsupported
}
