// Package storetest holds a subnet store and lease watcher to the contract of
// hostgw.SubnetStore and hostgw.LeaseWatcher. The stores of this module pass it,
// and the author of another one can run it on theirs:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Harness {
//			server := startMyServer(t)
//			return storetest.Harness{
//				Open:      func(t *testing.T) storetest.Store { return mystore.New(server) },
//				PutConfig: server.PutConfig,
//				PutLease:  server.PutLease,
//				Delete:    server.DeleteLease,
//			}
//		})
//	}
package storetest
