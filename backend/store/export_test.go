package store

// SelectTrimStates is what retention asks of every timeline.
const SelectTrimStates = selectTrimStates
