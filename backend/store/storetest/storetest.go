// Package storetest helps to test stores and what is built on them: Run is the
// conformance suite that every store.Store must pass, and Memory is a store for
// unit tests.
package storetest
