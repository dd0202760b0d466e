//go:build race

package balancer_test

// The race detector looks for something else, and makes properties slow to check.
const (
	checks = "10" // of each property
	orders = 10   // pairs that are searched for structure
)
