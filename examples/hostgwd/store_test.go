package main

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/setting"
	"github.com/hostgw/hostgw/examples/internal/status"
)

// A command that has a password for the store may leave it to the daemon to say where
// that is.
func TestStoreEndpoints(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	r, err := setting.Parse([]string{"-etcd-username", "x", "-etcd-password", "y", "-socket", socket}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := storeEndpoints(t.Context(), r.Values); exitStatus(err) != exitUsage || !strings.Contains(err.Error(), "-etcd-endpoints") {
		t.Errorf("without a daemon: %v, %v", got, err)
	}

	l, err := status.Listen(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379"}
	srv := &http.Server{Handler: status.Handler(func() status.Report { return status.Report{Store: status.Store{Endpoints: want}} })}
	done := make(chan error)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	if got, err := storeEndpoints(t.Context(), r.Values); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}
