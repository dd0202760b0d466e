//go:build !race

package balancer_test

const (
	checks = "60" // of each property
	orders = 50   // pairs that are searched for structure
)
