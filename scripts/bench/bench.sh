#!/usr/bin/env bash
# What `make bench` runs: the benchmarks of single parts, the simulator, the lab,
# and from five rounds on how PCs start (alone: `make bench-boot`). Figures go to
# standard output, everything else to standard error. RUNS=1 for a quick look;
# BENCH="-pcs 1,4 -frames 50" for other flags of the lab; DOCS=1 puts the pictures into docs/images.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=build/bench
mkdir -p $out
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
go=${GO:-go}

say() { echo "bench: $*" >&2; }

# The programs that we are compared with. None of them is needed for our own
# figures.
declare -A tools=([udp-sender]=udpcast [bmaptool]=bmap-tools [aria2c]=aria2 [zstd]=zstd [curl]=curl [casync]=casync [gnuplot]=gnuplot-nox [losetup]=mount [tc]=iproute2)
missing=()
for t in "${!tools[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$t" >/dev/null || missing+=("${tools[$t]}")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  $sudo apt-get update >$out/apt.log 2>&1 || true
  for p in "${missing[@]}"; do
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$p" >>$out/apt.log 2>&1 ||
      echo "# $p does not install here (see $out/apt.log): what needs it is left out"
  done
fi
if ! command -v desync >/dev/null && [ ! -x $out/desync ]; then
  GOBIN=$PWD/$out GOFLAGS= $go install github.com/folbricht/desync/cmd/desync@v0.9.6 >$out/desync.log 2>&1 ||
    echo "# desync does not install here: $(tail -n 1 $out/desync.log | cut -c 1-200)"
fi

$go build -o $out/bench ./scripts/bench/cmd/bench
CGO_ENABLED=0 $go build -trimpath -ldflags '-s -w' -o $out/pc ./scripts/bench/cmd/pc

echo '# single parts'
$go test -run '^$' -bench . -benchtime 300ms ./images/... ./agent/... ./appliance/store | scripts/bench/lines.sh

echo '# the simulator: the real relay in virtual time'
tsv=$out/simulator.tsv; [ -z "${DOCS:-}" ] || tsv=docs/images/simulator.tsv
$go run ./scripts/bench/cmd/simulate -tsv $tsv || echo '# the simulator failed'

$sudo env "PATH=$PWD/$out:$PATH:/usr/sbin:/sbin" $out/bench -out $out -pc $out/pc -runs "${RUNS:-5}" ${BENCH:-}

if [ "${RUNS:-5}" -ge 5 ]; then
  echo '# how PCs start'
  $go build -o $out/boot ./scripts/bench/cmd/boot
  $sudo env "PATH=$PATH:/usr/sbin:/sbin" $out/boot -dir build -runs 2 || echo '# the bench of starts failed'
else
  echo '# how PCs start: left out in a short run, see make bench-boot'
fi

if command -v gnuplot >/dev/null && grep -q '^refurb' $out/results.tsv; then
  gnuplot -e "in='$out/results.tsv'; out='$out/bench.svg'" scripts/bench/bench.gp 2>$out/gnuplot.log || say "no picture: $(tail -n 1 $out/gnuplot.log)"
  if [ -n "${DOCS:-}" ]; then cp $out/bench.svg docs/images/bench.svg; gnuplot scripts/bench/simulator.gp; fi
fi
say "tables: $out/results.tsv and runs.tsv; picture: $out/bench.svg"
