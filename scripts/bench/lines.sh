#!/bin/sh
# Turns the output of `go test -bench` into lines of "name value unit".
set -eu
awk '/^Benchmark/ {
  name = $1; sub(/^Benchmark/, "", name); sub(/-[0-9]+$/, "", name)
  gsub(/[^A-Za-z0-9]+/, "_", name)
  for (i = 3; i < NF; i += 2) { unit = $(i + 1); gsub(/ /, "", unit); print tolower(name), $i, unit }
}
/^(FAIL|---|panic)/ { print > "/dev/stderr"; bad = 1 }
END { exit bad }'
