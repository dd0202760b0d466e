package configs

import (
	"errors"
	"maps"
	"slices"
	"time"
)

// Status is what a Watcher has seen, and what it made of it.
type Status struct {
	// Source is where the document comes from: a file, or a key in Consul.
	Source string
	// InForce is about the document that the front runs with. Its Time is zero when
	// there is none so far.
	InForce Report
	// Latest is about the newest document. It differs from InForce when that was
	// refused, or could not be applied.
	Latest Report
	// Accepted and Refused count documents that were good and bad.
	Accepted, Refused int
	// Overrides are in force, by node; OverrideErrors says what is wrong with those
	// that are not.
	Overrides      map[string]Override
	OverrideErrors Errors
	// Failing is why Consul does not answer, nil when it does, and Failures how many
	// queries have failed since it did. Answered is when it last did, zero for never.
	Failing  error
	Failures int
	Answered time.Time
	// CacheFailing is why what is in force cannot be kept for a start without Consul.
	CacheFailing error
}

// Report is what became of a document.
type Report struct {
	// Version is the document's ModifyIndex; 0 for a file's.
	Version  uint64
	Time     time.Time // of the verdict
	Accepted bool
	// Cached is set when the document is the one that was kept on disk.
	Cached bool
	// Err is why the document was refused or could not be had; for one that was read
	// it is an Errors.
	Err error
}

func (s Status) clone() Status {
	s.Overrides = maps.Clone(s.Overrides)
	s.OverrideErrors = slices.Clone(s.OverrideErrors)
	return s
}

// Messages returns what is wrong with the document, one error in each.
func (r Report) Messages() []string {
	if r.Err == nil {
		return nil
	}
	list, ok := errors.AsType[Errors](r.Err)
	if !ok {
		return []string{r.Err.Error()}
	}
	messages := make([]string, len(list))
	for i, e := range list {
		messages[i] = e.Error()
	}
	return messages
}
