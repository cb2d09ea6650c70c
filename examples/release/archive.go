package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"time"
)

// file is a file to be installed.
type file struct {
	mode     int64
	data     []byte
	conffile bool // an operator may change it, and dpkg does not replace it then
}

// files are files by their paths below the root, without a leading slash.
type files map[string]file

// sorted goes through a map by its keys in order.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// archive makes a compressed tar archive of the files and the directories they
// are in, below prefix, which ends with a slash and is a directory in it too.
// Everything is root's and bears the same date.
func archive(prefix string, tree files, date time.Time) ([]byte, error) {
	entries := map[string]*file{prefix: nil}
	for name, f := range tree {
		entries[prefix+name] = &f
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			entries[prefix+dir+"/"] = nil
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, f := range sorted(entries) {
		h := &tar.Header{
			Typeflag: tar.TypeDir, Name: name, Mode: 0o755,
			Uname: "root", Gname: "root", ModTime: date, Format: tar.FormatUSTAR,
		}
		var data []byte
		if f != nil {
			h.Typeflag, h.Mode, h.Size, data = tar.TypeReg, f.mode, int64(len(f.data)), f.data
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("archive %s: %w", name, err)
		}
		if _, err := w.Write(data); err != nil {
			return nil, fmt.Errorf("archive %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return compress(out.Bytes())
}

// compress compresses data, without a name or a date of its own.
func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
