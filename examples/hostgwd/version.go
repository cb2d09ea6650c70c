package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker in a release: -ldflags '-X main.version=1.2.3'.
var version = ""

// build says which program this is.
type build struct{ version, revision string }

func thisBuild() build {
	b := build{version: version, revision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.version == "" {
		b.version = info.Main.Version
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.revision = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified {
		b.revision += "+modified"
	}
	return b
}

func (b build) String() string {
	return fmt.Sprintf("hostgwd %s revision %s %s %s/%s", b.version, b.revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
