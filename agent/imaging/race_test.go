//go:build race

package imaging

// The race detector makes every byte that is copied ten times as dear, and these
// tests copy gigabytes: of runs that differ only by a number one in every so
// many is enough for it.
const every = 11
