package memory_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hostgw/hostgw/store/memory"
	"github.com/hostgw/hostgw/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		s := memory.NewServer()
		return storetest.Harness{
			Open: func(*testing.T) storetest.Store { return s.Client() },
			OpenFailing: func(*testing.T) (storetest.Store, func(bool)) {
				c := s.Client()
				return c, func(failing bool) {
					var f memory.Faults
					if failing {
						f.Err = errors.New("away")
					}
					c.SetFaults(f)
				}
			},
			PutConfig: func(_ *testing.T, text string) {
				if text == "" {
					s.DeleteConfig()
				} else {
					s.PutConfig([]byte(text))
				}
			},
			PutLease: func(_ *testing.T, name, value string) { s.Put(name, []byte(value), 0) },
			Delete:   func(_ *testing.T, name string) { s.Delete(name) },
			MinTTL:   200 * time.Millisecond,
		}
	})
}
