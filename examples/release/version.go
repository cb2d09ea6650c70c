package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// describe names the commit: by its tag, by the tag before it, or by its hash. The
// hash has a fixed length, for git's own choice depends on what else the clone
// holds.
func describe(ctx context.Context, root string) (string, error) {
	return git(ctx, root, "describe", "--tags", "--match=v*", "--abbrev=12", "--always", "--dirty")
}

// commitDate is the date that everything in the release bears: that of
// SOURCE_DATE_EPOCH if it is set, else the commit's.
func commitDate(ctx context.Context, root string) (time.Time, error) {
	source, text := "SOURCE_DATE_EPOCH", os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		var err error
		source = "git log"
		if text, err = git(ctx, root, "log", "-1", "--format=%ct"); err != nil {
			return time.Time{}, err
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("%s %q must be a number of seconds since 1970", source, text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func git(ctx context.Context, root string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = root
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

var (
	// A tag, a pre-release's part of it, and how many commits after it.
	tagged = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+)(?:-([0-9A-Za-z.]+))?(?:-([0-9]+)-g([0-9a-f]+))?$`)
	hashed = regexp.MustCompile(`^[0-9a-f]{7,64}$`)
)

// debianVersion spells a version so that dpkg puts it where it belongs: a
// pre-release before its release, commits after a tag after it, and what has no
// tag at all before everything, by date.
func debianVersion(version string, date time.Time) (string, error) {
	v, dirty := strings.CutSuffix(version, "-dirty")
	var out string
	if m := tagged.FindStringSubmatch(v); m != nil {
		out = m[1]
		if m[2] != "" {
			out += "~" + m[2]
		}
		switch {
		case m[3] != "":
			out += "+" + m[3] + ".g" + m[4]
		case dirty:
			out += "+0" // before the next commit
		}
	} else if hashed.MatchString(v) {
		out = "0.0.0~" + date.Format("20060102150405") + "." + v
	} else {
		return "", fmt.Errorf("version %q must be like v1.2.3, v1.2.3-rc.1, v1.2.3-4-g0123abc or a commit's hash", version)
	}
	if dirty {
		out += ".dirty"
	}
	return out, nil
}
