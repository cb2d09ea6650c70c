package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

var (
	// ErrInUse says that another process answers on the socket.
	ErrInUse = errors.New("another process answers on the socket")

	// ErrNotRunning says that no process answers on the socket.
	ErrNotRunning = errors.New("no hostgwd answers")
)

// Listen makes the socket at path for root, and for group unless it is empty.
// Its directory is made if it is missing, for the same, so that nobody else
// gets at the socket at any moment. A socket that nobody answers on any more is
// replaced.
func Listen(path, group string) (net.Listener, error) {
	gid := -1
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, fmt.Errorf("control socket: group %s has id %s", group, g.Gid)
		}
	}
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
		if err := os.Chown(dir, -1, gid); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("control socket %s: %w", path, ErrInUse)
	}
	// The socket is made under a name of its own and gets its mode before it gets
	// its name: there is no moment at which others could connect.
	tmp, err := os.MkdirTemp(dir, ".socket-")
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer os.RemoveAll(tmp)
	made := filepath.Join(tmp, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	mode := os.FileMode(0o600)
	if gid >= 0 {
		mode = 0o660
	}
	if err := errors.Join(os.Chown(made, -1, gid), os.Chmod(made, mode)); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	if err := os.Rename(made, path); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return &listener{l, path}, nil
}

// listener removes its socket when it is closed.
type listener struct {
	net.Listener
	path string
}

func (l *listener) Close() error {
	return errors.Join(os.Remove(l.path), l.Listener.Close())
}

// Handler answers GET /status with what report returns.
func Handler(report func() Report) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// An error here is the caller having gone away.
		_ = Encode(w, report())
	})
	return mux
}

// Encode writes r as indented JSON.
func Encode(w io.Writer, r any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// Get asks the daemon behind the socket at path for its report.
func Get(ctx context.Context, path string) (Report, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hostgwd/status", nil)
	if err != nil {
		return Report{}, err
	}
	resp, err := client.Do(req)
	if errors.Is(err, os.ErrPermission) {
		return Report{}, fmt.Errorf("%s: %w: the socket is for root and for -socket-group", path, os.ErrPermission)
	}
	if err != nil {
		return Report{}, fmt.Errorf("%w on %s: %w", ErrNotRunning, path, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Report{}, fmt.Errorf("%s answers %s", path, resp.Status)
	}
	var r Report
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return Report{}, fmt.Errorf("read the answer of %s: %w", path, err)
	}
	return r, nil
}
