//go:build !race

package simulation

const (
	usualSchedules = 10000
	withTeeth      = true
)
