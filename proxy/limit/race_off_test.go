//go:build !race

package limit_test

// strangers is how many sources attack in TestMillionSources.
const strangers = 1_000_000
