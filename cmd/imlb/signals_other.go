//go:build !unix

package main

import "os"

// userSignals are none where there are no such signals.
func userSignals() map[os.Signal]string { return nil }
