//go:build race

package balancer_test

// checks of each property: the race detector looks for something else, and makes
// them slow.
const checks = "10"
