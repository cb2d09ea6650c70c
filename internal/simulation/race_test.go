//go:build race

package simulation

// The race detector makes a schedule cost ten times as much, and needs few of
// them to see all there is to see.
const (
	usualSchedules = 500
	withTeeth      = false
)
