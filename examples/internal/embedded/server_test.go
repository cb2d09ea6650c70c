package embedded

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func freeURL(t *testing.T) url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return url.URL{Scheme: "http", Host: l.Addr().String()}
}

func TestServerIsDurable(t *testing.T) {
	dir, listen := t.TempDir(), freeURL(t)
	var out bytes.Buffer
	conf := Config{Dir: dir, Listen: []url.URL{listen}, Logger: slog.New(slog.NewTextHandler(&out, nil))}
	if Exists(dir) {
		t.Error("an empty directory passes for one with data")
	}

	s, err := Start(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client().Put(t.Context(), "/k", "v"); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), conf); !errors.Is(err, ErrInUse) {
		t.Errorf("a second server on the same data: %v, want ErrInUse", err)
	}

	// Others reach it over the network.
	outside, err := clientv3.New(clientv3.Config{Endpoints: []string{listen.String()}, Context: t.Context()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := outside.Get(t.Context(), "/k")
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "v" {
		t.Errorf("over the network: %v, %v", r, err)
	}
	outside.Close()
	s.Close()

	if !Exists(dir) {
		t.Error("the data is not recognised")
	}
	s, err = Start(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err = s.Client().Get(t.Context(), "/k")
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "v" {
		t.Errorf("after a restart: %v, %v", r, err)
	}
	if out.Len() > 0 {
		t.Errorf("a server that does well should say nothing, but said:\n%s", &out)
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := url.URL{Scheme: "http", Host: l.Addr().String()}
	dir := t.TempDir()
	conf := Config{Dir: dir, Listen: []url.URL{busy}, Logger: slog.New(slog.DiscardHandler)}
	if _, err := Start(t.Context(), conf); err == nil {
		t.Fatal("started on a port that is taken")
	}
	conf.Listen = []url.URL{freeURL(t)}
	s, err := Start(t.Context(), conf)
	if err != nil {
		t.Fatalf("the failed start left something behind: %v", err)
	}
	s.Close()
}

func TestURLs(t *testing.T) {
	got := URLs([]url.URL{{Scheme: "http", Host: "0.0.0.0:1"}, {Scheme: "http", Host: "[::]:2"}, {Scheme: "http", Host: "10.0.0.1:3"}})
	if want := []string{"http://127.0.0.1:1", "http://[::1]:2", "http://10.0.0.1:3"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
