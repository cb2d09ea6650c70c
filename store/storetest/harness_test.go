package storetest_test

import (
	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/store/storetest"
)

// The suite's Store is what a Manager needs, no more and no less.
type stored interface {
	hostgw.SubnetStore
	hostgw.LeaseWatcher
}

var (
	_ stored          = storetest.Store(nil)
	_ storetest.Store = stored(nil)
)
