//go:build !unix

package main

import "os"

// hasInput tells whether there may be something to read from what is no terminal.
func hasInput(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice == 0
}
