// Package netlinkx makes a Linux host's routes what they should be: it finds the
// uplink through which the peers are reached ([FindUplink]) and programs one
// route a peer ([Programmer]), in batches, listening to the kernel so that
// whatever changes is put right when it changes. [Plan] tells what a Programmer
// would change, and [Cleanup] removes everything that one has left.
//
// On other systems than Linux the package compiles, and its functions return
// [ErrUnsupported].
package netlinkx
