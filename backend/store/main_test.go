package store_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Whoever closes what it opened leaves no goroutine behind.
func TestMain(m *testing.M) {
	// Each step of the model waits for the disk. The command line has the last word.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
