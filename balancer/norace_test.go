//go:build !race

package balancer_test

// checks of each property.
const checks = "60"
