//go:build race

package limit_test

// strangers is how many sources attack in TestMillionSources: fewer, for each costs
// ten times as much with the race detector.
const strangers = 100_000
