//go:build race

package test

// raceDetector says that these tests run with it; then so does the program.
const raceDetector = true
