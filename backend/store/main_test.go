package store_test

import (
	"testing"

	"go.uber.org/goleak"
)

// Whoever closes what it opened leaves no goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
