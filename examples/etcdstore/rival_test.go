package etcdstore

import (
	"testing"
	"time"

	"github.com/hostgw/hostgw/examples/internal/etcdtest"
	"github.com/hostgw/hostgw/subnet"
)

// TestRivalRestored restores a backup from before the daemon's last restart, which
// holds the name of a process that has ended.
func TestRivalRestored(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, nil)
	network(t, server.Operator())
	r := take(t, open(t, server.Endpoint()), 1)
	backup := server.Backup()
	const next = `{"Node":"host1","Instance":"next"}`
	user := prefix + "/users/" + r.Name
	put(t, server.Operator(), user, next)
	store := open(t, server.Endpoint())
	ended, told := make(chan error, 1), make(chan subnet.Renewal, 1000)
	go func() {
		n := subnet.Node{Name: "host1", Instance: "next"}
		ended <- store.Keep(t.Context(), r, n, func(l subnet.Renewal) { told <- l })
	}()
	<-told

	server.Restore(backup)
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		got, err := server.Operator().Get(t.Context(), user)
		if err == nil && len(got.Kvs) == 1 && string(got.Kvs[0].Value) == next {
			break
		}
		if time.Since(begin) > patience {
			t.Fatalf("Keep has not written its name: %v, %v", got, err)
		}
	}
	time.Sleep(time.Second) // nobody answers
	stillKept(t, ended)
	for len(told) > 0 {
		if l := <-told; l.Rival != nil {
			t.Errorf("a process that has ended is reported as the rival %+v", *l.Rival)
		}
	}
}
