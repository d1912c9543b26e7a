package trace

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Every rule is provoked, and named at the right stage; before its time has
// come, and for a PC that is well, nothing is said.
func TestDiagnose(t *testing.T) {
	for _, tt := range []struct {
		name  string
		mode  string
		start string
		at    float64 // seconds
		want  string  // ids, comma apart; the first one is the cause
		stage string  // where it stands; with ✗ when it is stuck there
		says  string  // in cause or next step
	}{
		{"all is well", "", arrived, 40, "", "hello", ""},
		{"all is well, long after", "", arrived, 4000, "", "hello", ""},
		{"an iPXE ROM is well", "", ipxeInitramfs + "20 hello number=8", 40, "", "hello", ""},

		// 1: nobody takes our offer.
		{"one discover says nothing", "", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi", 60, "", "firmware", ""},
		{"offers ignored", "", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi\n4 discover via=pxe\n4 offer via=pxe file=shimx64.efi", 13, "offer-ignored", "firmware✗", "DHCP snooping"},
		{"offers ignored, too early to say", "", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi\n4 discover via=pxe\n4 offer via=pxe file=shimx64.efi", 6, "", "firmware", ""},
		{"proxy offers ignored", "proxy", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi\n4 discover via=pxe\n4 offer via=pxe file=shimx64.efi", 13, "proxy-ignored", "firmware✗", "boot stick"},

		// 2: another server's address.
		{"another server chosen", "", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi\n1 request via=pxe server=10.77.0.9", 12, "other-server", "firmware✗", "10.77.0.9"},
		{"another server chosen, then ours", "", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi\n1 request via=pxe server=10.77.0.9\n3 request via=pxe\n3 ack via=pxe\n4 begin file=shimx64.efi", 12, "", "loader", ""},
		{"proxy: never asked", "proxy", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi\n4 request via=pxe server=192.168.1.1", 20, "proxy-not-asked", "firmware✗", "192.168.1.1"},
		{"proxy: about to ask", "proxy", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi\n4 request via=pxe server=192.168.1.1", 10, "", "firmware", ""},
		{"proxy: asks for the file", "proxy", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi\n4 request via=pxe server=192.168.1.1\n5 begin file=shimx64.efi", 20, "", "loader", ""},
		{"has our address, fetches nothing", "", uefi, 20, "file-not-asked", "firmware✗", "TFTP"},

		// 3: shim.
		{"shim refused", "", shim, 28, "shim-refused", "loader✗", "Microsoft 3rd Party UEFI CA"},
		{"shim refused, firmware is back at once", "", shim + "9 discover via=http arch=16", 9.1, "shim-refused", "loader✗", "shimx64.efi was fetched whole"},
		{"shim is being looked at", "", shim, 15, "", "loader", ""},
		{"shim in part", "", uefi + "6 begin file=shimx64.efi\n17 tftp file=shimx64.efi bytes=450 size=900 began=6 err=broken_off", 40, "tftp-broken", "loader✗", "50 %"},
		{"shim runs and asks for nothing", "", shimRuns, 30, "grub-unasked", "loader✗", "shim runs"},
		{"32-bit GRUB refused", "", "0 discover via=pxe arch=6\n0 offer via=pxe file=grubia32.efi\n1 request via=pxe\n1 ack via=pxe\n2 begin file=grubia32.efi\n3 tftp file=grubia32.efi bytes=9 size=9 began=2", 30, "grub32-refused", "loader✗", "Switch Secure Boot off"},

		// 4: after GRUB.
		{"GRUB refused", "", grub, 35, "grub-refused", "loader✗", "GRUB was fetched and never ran"},
		{"shim asks for its key manager", "", grub + "11 tftp file=mmx64.efi missing", 30, "grub-refused", "loader✗", "Secure Boot"},
		{"no script after the configuration", "", config, 35, "no-script", "loader✗", "8080"},
		{"iPXE fetches no script", "", ipxeROM, 60, "no-script", "loader✗", "iPXE runs"},
		{"undionly is silent", "", "0 discover via=pxe arch=0\n0 offer via=pxe file=undionly.kpxe\n1 request via=pxe\n1 ack via=pxe\n2 begin file=undionly.kpxe\n3 tftp file=undionly.kpxe bytes=9 size=9 began=2", 50, "ipxe-silent", "loader✗", "undionly.kpxe"},
		{"no kernel after the script", "", script, 45, "no-kernel", "script✗", "boot script"},
		{"no initramfs after the kernel", "", kernel, 50, "no-initramfs", "kernel✗", "initramfs"},
		{"the initramfs stops in the middle", "", kernel + "16 begin file=initrd", 90, "transfer-slow", "initramfs✗", "initrd"},
		{"the initramfs is on its way", "", kernel + "16 begin file=initrd", 40, "", "initramfs", ""},
		{"the initramfs breaks off", "", kernel + "16 begin file=initrd\n20 http file=initrd bytes=5000 size=20000 began=16 err=broken_off", 45, "http-broken", "initramfs✗", "25 %"},
		{"broken off, then fetched again", "", kernel + "16 begin file=initrd\n20 http file=initrd bytes=5000 size=20000 began=16 err=broken_off\n22 begin file=initrd\n24 http file=initrd bytes=20000 size=20000 began=22", 45, "", "initramfs", ""},
		{"no hello", "", initramfs, 130, "no-hello", "initramfs✗", "memory"},
		{"no hello, the card is known", "", ipxeInitramfs, 130, "no-hello-card", "initramfs✗", "pci 8086:153a"},
		{"no hello yet", "", initramfs, 80, "", "initramfs", ""},
		{"the agent gets no address", "", initramfs + "60 discover\n64 discover", 130, "agent-no-address", "initramfs✗", "PortFast"},
		{"the agent never reports", "", agentUp, 130, "agent-silent", "initramfs✗", "8443"},
		{"the agent is turned away", "", agentUp + "33 refused err=wrong_version", 40, "agent-refused", "hello✗", "wrong version"},
		{"turned away, then taken", "", agentUp + "33 refused err=busy\n40 hello number=7", 50, "", "hello", ""},

		{"iPXE in the card hands back", "", strings.Replace(ipxeInitramfs, "arch=0", "arch=7", 1) + "12 discover via=pxe arch=7", 13, "ipxe-handed-back", "initramfs", "option ROM"},
		{"it hands back from the disk, too", "", strings.Replace(ipxeROM, "arch=0", "arch=7", 1) + "2 script boots=disk\n9 discover via=pxe arch=7", 10, "ipxe-handed-back", "disk", "option ROM"},
		{"it was started again later", "", strings.Replace(ipxeInitramfs, "arch=0", "arch=7", 1) + "112 discover via=ipxe arch=7", 113, "no-hello-card", "initramfs✗", ""},

		// 5: slow ports and cables.
		{"the first packets were lost", "", strings.Replace(arrived, "arch=7", "arch=7 secs=28", 1), 40, "slow-port", "hello", "28 s"},
		{"four seconds are nothing", "", strings.Replace(arrived, "arch=7", "arch=7 secs=4", 1), 40, "", "hello", ""},
		{"the agent waits for its address", "", arrived + "34 hello address=31", 40, "slow-port", "hello", "31 s"},
		{"the agent waits for the cable", "", arrived + "34 hello carrier=12", 40, "slow-link", "hello", "12 s"},
		{"the link comes and goes", "", "0 discover via=pxe\n70 discover via=pxe\n70 offer via=pxe file=shimx64.efi", 72, "flapping", "firmware", "70 s"},

		// 6: a card without a driver.
		{"a card without a driver", "", agentUp + "33 hello number=7 gap=pci_10ec:8125", 40, "card-driver", "hello", "pci 10ec:8125"},

		// 7: what we don't have.
		{"another server's boot file", "proxy", "0 discover via=pxe\n1 request via=pxe server=192.168.1.1\n2 tftp file=pxelinux.0 missing", 10, "foreign-file", "firmware✗", "pxelinux.0"},
		{"another boot file, full mode", "", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi\n1 request via=pxe\n1 ack via=pxe\n2 tftp file=bootx64.efi missing", 30, "foreign-file-full", "firmware✗", "bootx64.efi"},
		{"an optional file is none", "", arrived + "34 http file=autoexec.ipxe missing", 40, "", "hello", ""},
		{"an architecture", "", "0 discover via=pxe arch=11\n0 offer via=pxe problem=arch", 2, "architecture", "firmware✗", "UEFI ARM"},
		{"an architecture without a name", "proxy", "0 discover via=pxe arch=25 problem=arch", 2, "architecture", "firmware✗", "(25)"},

		{"the boot files aren't built", "", "0 discover via=pxe arch=7\n0 offer via=pxe problem=file", 2, "no-boot-file", "firmware✗", "refurb payload build"},

		// 8: addresses and transfers.
		{"pool full", "", "0 discover via=pxe problem=pool", 1, "pool-full", "firmware✗", "larger pool"},
		{"an address in use", "", "0 discover via=pxe problem=taken ip=10.77.0.100\n1 discover via=pxe\n1 offer via=pxe file=shimx64.efi\n2 request via=pxe\n2 ack via=pxe\n3 begin file=shimx64.efi", 4, "address-taken", "loader", "10.77.0.100"},
		{"every address in use", "", "0 discover via=pxe problem=taken ip=10.77.0.100", 20, "address-taken", "firmware✗", "second DHCP server"},
		{"an address declined", "", uefi + "5 decline via=pxe problem=taken ip=10.77.0.100", 40, "address-taken", "firmware✗", "10.77.0.100"},
		{"refused again and again", "", "0 request via=pxe\n0 nak via=pxe\n1 discover via=pxe\n1 request via=pxe\n1 nak via=pxe\n2 discover via=pxe", 3, "nak-loop", "firmware✗", "2 times"},
		{"refused once", "", "0 request via=pxe\n0 nak via=pxe\n1 discover via=pxe\n1 offer via=pxe file=x\n2 request via=pxe\n2 ack via=pxe", 4, "", "firmware", ""},
		{"our own cable", "", "0 discover via=pxe\n0 offer via=pxe file=shimx64.efi problem=send", 1, "send-failed", "firmware✗", "its own network card"},
		{"too many tries", "", kernel + strings.Repeat("16 begin file=initrd\n17 http file=initrd bytes=5 size=20 began=16 err=broken\n", 3) + "20 begin file=initrd\n21 http file=initrd bytes=20 size=20 began=20\n30 hello number=7", 40, "retries", "hello", "4 times"},
		{"we said nothing", "", "0 discover via=pxe err=came_over_a_relay\n4 discover via=pxe err=came_over_a_relay", 12, "unanswered", "firmware✗", "over a relay"},

		// 9: not netbooting.
		{"a phone", "", "0 discover\n0 offer\n0 request\n0 ack ip=10.77.0.120", 500, "not-netboot", "firmware", "isn’t starting from the network"},
		{"a phone and a full pool", "", "0 discover problem=pool", 500, "not-netboot", "firmware", ""},

		// 10: scripts.
		{"refused script", "", config + "13 script err=Too_many_PCs", 14, "script-refused", "script✗", "Too many PCs"},
		{"told to start its disk", "", config + "13 script boots=disk", 500, "", "disk", ""},
		{"its disk starts", "", config + "13 script boots=disk\n40 discover\n40 offer\n60 discover via=pxe", 61, "", "disk", ""},
		{"its disk checks in", "", config + "13 script boots=disk\n80 firstboot\n90 discover via=pxe", 91, "", "disk", ""},
		{"nothing on its disk starts", "", config + "13 script boots=disk\n88 discover via=pxe arch=7", 89, "disk-loop", "disk✗", "back after 75 s"},
		{"started again a day later", "", config + "13 script boots=disk\n90000 discover via=pxe arch=7", 90001, "", "disk", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBook()
			b.mode = tt.mode
			play(t, b, tt.start)
			now := noon.Add(time.Duration(tt.at * float64(time.Second)))
			s := b.starts[0].given()
			found := Diagnose(s, now)
			var ids []string
			for _, f := range found {
				ids = append(ids, f.ID)
				if f.Severity > Note && len(f.Evidence) == 0 {
					t.Errorf("%s rests on nothing", f.ID)
				}
				if cause, next := f.Cause(), f.Next(); cause == "" || next == "" || strings.Contains(cause+next, "{{") {
					t.Errorf("%s says %q, %q", f.ID, cause, next)
				}
			}
			if got := strings.Join(ids, ","); got != tt.want {
				t.Errorf("found %q, want %q", got, tt.want)
			}
			if len(found) > 0 && !strings.Contains(found[0].Cause()+" "+found[0].Next(), tt.says) {
				t.Errorf("%q doesn't say %q", found[0].Cause()+" "+found[0].Next(), tt.says)
			}
			where := ""
			for _, step := range Chain(s, found) {
				switch step.Standing {
				case Stuck:
					where = step.Stage.String() + "✗"
				case Here, Past:
					where = step.Stage.String()
				}
			}
			if where != tt.stage {
				t.Errorf("stands at %s, want %s", where, tt.stage)
			}
			if t.Failed() {
				for i := range s.Lines {
					t.Log(s.Lines[i].Text())
				}
			}
		})
	}
}

// Every sentence belongs to a finding that the table above has provoked.
func TestEveryFindingIsProvoked(t *testing.T) {
	src := readSource(t, "diagnose_test.go")
	rules := readSource(t, "diagnose.go")
	for id, w := range English {
		if !strings.Contains(src, `"`+id+`", "`) {
			t.Errorf("no test provokes %s", id)
		}
		if !strings.Contains(rules, `"`+id+`"`) {
			t.Errorf("no rule finds %s", id)
		}
		if w.Cause == "" || w.Next == "" {
			t.Errorf("%s says nothing", id)
		}
	}
}

func TestAtMostOneCause(t *testing.T) {
	b := newBook()
	play(t, b, "0 discover via=pxe problem=taken ip=10.77.0.100\n4 discover via=pxe problem=arch\n4 offer via=pxe problem=send\n70 discover via=pxe")
	failures := 0
	for _, f := range Diagnose(b.starts[0].given(), noon.Add(time.Hour)) {
		if f.Severity == Failure {
			failures++
		}
	}
	if failures != 1 {
		t.Errorf("%d causes", failures)
	}
}

func TestSeverestFirst(t *testing.T) {
	b := newBook()
	play(t, b, strings.Replace(shim, "arch=7", "arch=7 secs=20", 1))
	found := Diagnose(b.starts[0].given(), noon.Add(time.Hour))
	if !slices.IsSortedFunc(found, func(a, b Finding) int { return int(b.Severity - a.Severity) }) || len(found) != 2 {
		t.Errorf("%v", found)
	}
}
