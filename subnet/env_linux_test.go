package subnet

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func TestWriteEnvReadOnly(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a file system read-only")
	}
	e, err := ParseEnv([]byte(workflowEnv))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "subnet.env")
	result := make(chan error, 2)
	go func() {
		// The mount is seen by this thread alone, which ends with the goroutine
		// because it stays locked, and the mount with it.
		runtime.LockOSThread()
		if err := errors.Join(
			syscall.Unshare(syscall.CLONE_NEWNS),
			syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
			syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_RDONLY, ""),
		); err != nil {
			result <- err
			return
		}
		result <- nil
		result <- WriteEnv(path, e)
	}()
	if err := <-result; err != nil {
		t.Fatalf("mounting: %v", err)
	}
	if err := <-result; !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want one that names %s and wraps EROFS", err, path)
	}
}

func TestReadEnvDoesNotBlockOnAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subnet.env")
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadEnv(path); err == nil || !strings.Contains(err.Error(), "a named pipe") {
		t.Errorf("got %v", err)
	}
}
