//go:build !race

package campaign

const selection = 300
