# Draws docs/images/simulator.svg from docs/images/simulator.tsv:
#   go run ./scripts/bench/cmd/simulate -tsv docs/images/simulator.tsv
#   gnuplot scripts/bench/simulator.gp
set terminal svg size 860,520 font "sans-serif,14" background rgb "#fdfdfb"
set output "docs/images/simulator.svg"
set datafile separator "\t"
set title "Last PC written and checked, N PCs against one (simulated; 575 frames, 1 Gbit/s)" textcolor rgb "#222222"
set xlabel "PCs in the batch, N" textcolor rgb "#222222"
set ylabel "time, one PC alone = 1" textcolor rgb "#222222"
set border 3 linecolor rgb "#666666"
set tics nomirror textcolor rgb "#222222"
set grid ytics linecolor rgb "#dddddd"
set key at graph 0.36,0.97 top left Left reverse textcolor rgb "#222222"
set logscale x 2
set xrange [0.9:1150]
set xtics (1, 2, 4, 8, 16, 32, 64, 128, 200, 500, 1000)
set yrange [0.98:1.45]
set ytics 0.05
set format y "%.2f"
set arrow from 200,1.05 to 500,1.05 nohead dashtype 3 linecolor rgb "#888888"
set arrow from 500,1.06 to 1150,1.06 nohead dashtype 3 linecolor rgb "#888888"
set label "targets: 1.05 at 200, 1.06 at 1,000" at 1100,1.015 right textcolor rgb "#555555" font ",12"
set label "udpcast, measured at 16: 1.20, unchecked" at 17.5,1.20 textcolor rgb "#9a5b00" font ",12"
set label "BitTorrent, measured at 16: 2.2 (beyond the picture)" at 17.5,1.24 textcolor rgb "#9a5b00" font ",12"
plot "docs/images/simulator.tsv" using 1:4 with linespoints pointtype 9 linewidth 2 linecolor rgb "#8a8a8a" title "unicast: N", \
     "" using 1:3 with linespoints pointtype 5 linewidth 2 linecolor rgb "#3a6ea5" title "one chain", \
     "" using 1:2 with linespoints pointtype 7 linewidth 3 linecolor rgb "#1a7f4b" title "relay as shipped: a chain, then two trees", \
     "" using 1:5:6 with filledcurves fillcolor rgb "#1a7f4b" fillstyle transparent solid 0.2 notitle, \
     "-" using 1:2 with points pointtype 4 pointsize 1.2 linewidth 2 linecolor rgb "#c77700" notitle
16	1.20
e
