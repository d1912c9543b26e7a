//go:build race

package campaign

// The race detector makes every byte that is copied ten times as dear; fewer
// runs show what it can find.
const selection = 45
