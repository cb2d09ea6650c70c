//go:build !linux

package filter

import "context"

// Run returns ErrUnsupported.
func (f *Filter) Run(context.Context) error { return ErrUnsupported }

// Cleanup returns ErrUnsupported.
func Cleanup(context.Context) error { return ErrUnsupported }
