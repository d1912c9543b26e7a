# Time of a batch against its size, for every engine: gnuplot -e "in='results.tsv'; out='bench.svg'" bench.gp
set terminal svg size 860,520 font "sans-serif,14" background "#ffffff"
set output out
set datafile separator "\t"
set title "The last PC of a batch is done, × one PC of ours alone"
set xlabel "PCs"
set ylabel "×"
set logscale x 2
set logscale y 2
set xrange [0.9:18]
set yrange [0.25:*]
set xtics (1, 2, 4, 8, 16)
set grid ytics linecolor "#dddddd"
set border 3
set tics nomirror
set key outside right top Left reverse samplen 2
engines = "refurb udpcast aria2-bittorrent refurb-unicast"
colours = "#0b6e4f #d1495b #edae49 #7a8288"
label(e) = e eq "refurb" ? "Refurb: decoded, written, read back" : e eq "udpcast" ? "udpcast: file only" : e eq "aria2-bittorrent" ? "BitTorrent (aria2): file only" : "Refurb without peers"
plot for [i=1:words(engines)] in index word(engines, i) using 2:3:4:5 with yerrorlines linewidth 2 pointtype 7 pointsize 0.6 linecolor rgb word(colours, i) title label(word(engines, i))
