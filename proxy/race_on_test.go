//go:build race

package proxy_test

// raceEnabled: the race detector takes more memory.
const raceEnabled = true
