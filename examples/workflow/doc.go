// Package workflow has no code but tests: of hostgwd with the real programs around
// it, Docker and the CNI plugins, on hosts made of network namespaces. They need
// root and Debian's docker.io, busybox-static, containernetworking-plugins and
// iptables; what is missing is named and its tests are skipped, or fail where
// HOSTGW_REQUIRE_TOOLS is set.
//
// Each dockerd is in its host's network namespace, in a PID and a mount namespace
// of its own besides: so it finds neither another Docker's files nor its
// containerd, and whatever it starts or mounts ends with the test, also with one
// that is killed. It keeps the machine's /sys, because it needs the cgroups there,
// which ip netns exec would hide.
package workflow
