//go:build !linux

package main

import "testing"

func testLeastPrivilege(t *testing.T, _ string) { t.Skip("needs Linux") }
