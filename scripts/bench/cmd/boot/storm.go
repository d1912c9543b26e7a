package main

import (
	"context"
	"fmt"
	"os"

	"refurb/scripts/bench/storm"
)

// rates measures handshakes alone: of PCs that are new, whose address is looked
// for on the network before it is given, and of PCs that were here before.
func rates(ctx context.Context, o options) error {
	const pcs, atOnce = 400, 100
	handshake := func(int) []storm.Step { return storm.UEFI("")[:1] }
	for _, who := range []struct {
		name  string
		start func(*room, options) error
	}{{"", (*room).ours}, {"dnsmasq_", (*room).dnsmasq}} {
		var fresh, known, drops []float64
		for range o.runs {
			r, err := newRoom(0)
			if err != nil {
				return err
			}
			err = who.start(r, o)
			lost := 0
			for _, into := range []*[]float64{&fresh, &known} {
				if err != nil {
					break
				}
				var done []storm.PC
				var repeats, failed int
				done, repeats, failed, err = r.run(ctx, storm.Room{PCs: pcs, AtOnce: atOnce, Chain: handshake})
				if lost += repeats + failed; err == nil && failed == 0 {
					*into = append(*into, pcs/last(done, leased))
				}
			}
			r.close()
			if err != nil {
				fmt.Printf("# dhcp, %sserver: %v\n", who.name, err)
				break
			}
			drops = append(drops, float64(lost))
		}
		figure(who.name+"dhcp_4way_per_s", fresh, "1/s")
		figure(who.name+"dhcp_4way_per_s_known", known, "1/s")
		figure(who.name+"dhcp_drops", drops, "packets")
	}
	return nil
}

// storms switches a room full of PCs on at once, a quarter of them with BIOS.
func storms(ctx context.Context, o options) error {
	content := map[string][]byte{}
	for _, f := range []string{"undionly.kpxe", "shimx64.efi", "grubx64.efi", "vmlinuz", "initrd"} {
		b, err := os.ReadFile(bootFile(o, f))
		if err != nil {
			return err
		}
		content[f] = b
	}
	chain := func(pc int) []storm.Step {
		if pc%4 == 0 {
			return storm.BIOS(mac(pc))
		}
		return storm.UEFI(mac(pc))
	}
	loaders := func(pc int) []storm.Step { return storm.Loaders(chain(pc)) }
	var whole, ideal, drops, cpu, slow, tftp, tftpD []float64
	for range o.runs {
		r, err := newRoom(o.mbit)
		if err != nil {
			return err
		}
		err = func() error {
			defer r.close()
			if err := r.ours(o); err != nil {
				return err
			}
			w := storm.Room{PCs: o.pcs, Chain: chain, Content: func(name string) []byte { return content[name] }}
			done, repeats, failed, err := r.run(ctx, w)
			if err != nil || failed > 0 {
				return fmt.Errorf("%d PCs failed: %w", failed, err)
			}
			var bytes int64
			first := done[0].Done
			for _, p := range done {
				bytes += p.Bytes
				first = min(first, p.Done)
			}
			wire := float64(bytes) * 8 / (float64(o.mbit) * 1e6)
			t := last(done, through)
			whole, ideal, drops = append(whole, t), append(ideal, t/wire), append(drops, float64(repeats))
			cpu, slow = append(cpu, r.seconds()), append(slow, t/first.Seconds())
			// Loaders alone, side by side with dnsmasq, from PCs that both know.
			w.Chain = loaders
			for _, s := range []struct {
				start func(options) error
				into  *[]float64
			}{{r.ours, &tftp}, {r.dnsmasq, &tftpD}} {
				if err := s.start(o); err != nil {
					fmt.Printf("# storm of loaders: %v\n", err)
					continue
				}
				done, repeats, failed, err := r.run(ctx, w)
				if err != nil {
					return err
				}
				if failed > 0 || repeats > 0 {
					fmt.Printf("# storm of loaders: %d PCs failed, %d packets sent again\n", failed, repeats)
				}
				*s.into = append(*s.into, last(done, loader))
			}
			return nil
		}()
		if err != nil {
			return err
		}
	}
	name := fmt.Sprintf("storm%d_", o.pcs)
	figure(name+"s", whole, "s")
	figure(name+"s_x_ideal", ideal, "x")
	figure(name+"drops", drops, "packets")
	figure(name+"last_x_first", slow, "x")
	figure(name+"server_cpu_s", cpu, "s")
	figure(name+"loaders_s", tftp, "s")
	figure("dnsmasq_"+name+"loaders_s", tftpD, "s")
	return nil
}
