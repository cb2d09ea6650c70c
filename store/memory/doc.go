// Package memory is a subnet store and lease watcher inside one process: for
// embedders whose hosts all live there, for tests, and for simulations of whole
// networks.
//
// [New] is a store with a config and no leases, ready for one Manager. Many
// nodes share a [Server], each through a [Store] of its own from
// [Server.Client], which can be cut off from the server, slowed down or made to
// lose answers with [Store.SetFaults]; the server itself can be wiped, restored
// from a backup and edited behind everybody's back.
//
// Time is time.Now and timers alone, and no goroutine outlives the call it was
// for, so that everything runs under testing/synctest.
package memory
