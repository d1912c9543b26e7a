package main

import (
	"context"
	"fmt"
	"os"

	"refurb/scripts/bench/storm"
)

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
	var whole, ideal, drops, cpu, slow, dhcp, tftp, tftpCPU, tftpD, tftpDCPU []float64
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
			dhcp = append(dhcp, last(done, leased))
			// Loaders alone, side by side with dnsmasq.
			w.Chain = loaders
			for _, s := range []struct {
				start     func(options) error
				into, cpu *[]float64
			}{{r.ours, &tftp, &tftpCPU}, {r.dnsmasq, &tftpD, &tftpDCPU}} {
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
				*s.into, *s.cpu = append(*s.into, last(done, loader)), append(*s.cpu, r.seconds())
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
	figure(name+"leased_s", dhcp, "s")
	figure(name+"loaders_s", tftp, "s")
	figure(name+"loaders_cpu_s", tftpCPU, "s")
	figure("dnsmasq_"+name+"loaders_s", tftpD, "s")
	figure("dnsmasq_"+name+"loaders_cpu_s", tftpDCPU, "s")
	return nil
}
