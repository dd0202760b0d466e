//go:build !race

package test

// raceDetector says that these tests run without it.
const raceDetector = false
