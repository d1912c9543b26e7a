package trace

import "strings"

// Words are a finding’s sentences: what happened, and what to do next. What
// stands in braces comes from Finding.With.
type Words struct{ Cause, Next string }

// English has the sentences of every finding. The pages have them in their own
// languages and are tested to say the same.
var English = map[string]Words{
	"agent-refused": {"The agent on this PC was turned away: {{.Why}}.",
		"Start the PC again from the network. If it happens again, look at this server’s log."},
	"script-refused": {"This server didn’t boot this PC: {{.Why}}.",
		"Put right what is named here; the PC tries again by itself."},
	"send-failed": {"This server’s answer could not be sent: its own network card has no link.",
		"Check the cable between this server and the switch, and that the switch is on."},
	"architecture": {"There is no boot file for this kind of firmware ({{.Arch}}).",
		"Only PCs with BIOS, 64-bit UEFI or 32-bit UEFI can be started. If it is one of these, choose another network entry in its boot menu."},
	"no-boot-file": {"This server lacks the boot file for this PC: {{.Why}}.",
		"Run sudo build/refurb payload build on this server, then start the PC again."},
	"pool-full": {"No address is left for this PC.",
		"Switch off PCs that are done, or give this server a larger pool."},
	"tftp-broken": {"Fetching {{.File}} by TFTP broke off at {{.Part}}.",
		"Try another cable and another switch port. If others fail too, a firewall or a router on the way drops large packets: connect the PC to this server’s own switch."},
	"http-broken": {"Fetching {{.File}} by HTTP broke off at {{.Part}}.",
		"Check that the network cable sits firmly and the PC is still on, try another switch port, then start it again."},
	"transfer-slow": {"{{.File}} has been on its way for more than a minute and isn’t whole.",
		"Was the PC switched off or its cable pulled? Else try another cable and another switch port: this one is broken or very slow."},
	"no-hello": {"Kernel and initramfs were fetched, and the agent never came.",
		"Look at the PC’s screen: it says when it finds no network card or waits for a cable. A frozen or dark screen: give it more memory (1 GB at least), or try another PC’s memory. Else use another network card, a USB one for instance."},
	"no-hello-card": {"Kernel and initramfs were fetched, and the agent never came. The PC started from the network card {{.Card}}.",
		"Look at the PC’s screen: it says when that card has no driver or no firmware. Then use another card, a USB one for instance. A frozen or dark screen: give it more memory (1 GB at least)."},
	"agent-no-address": {"The agent runs and asks for an address in vain.",
		"Check the cable and the switch port; switch off STP there, or set it to PortFast."},
	"agent-silent": {"The agent has an address and never reported.",
		"Look at the PC’s screen. A firewall between it and this server must let the agents’ port through (8443 unless set otherwise)."},
	"no-initramfs": {"The kernel was fetched, the initramfs never.",
		"Look at the PC’s screen and start it again. If it stays so, the PC has too little memory or its cable fails."},
	"no-kernel": {"The PC has its boot script and never fetched the kernel.",
		"Look at the PC’s screen and start it again. If it stays so, try another cable and another switch port."},
	"disk-loop": {"The PC was told to start from its own disk and was back after {{.Seconds}} s: nothing on that disk starts.",
		"Install it again on its page. If that has just been done, set its firmware to start the same way as the image does (UEFI or BIOS) and to start from its disk."},
	"grub-refused": {"GRUB was fetched and never ran: Secure Boot refused it.",
		"In the firmware’s setup, switch Secure Boot off, or reset its keys to the factory’s. Newer boot files help when these were revoked: run sudo build/refurb payload build --refresh."},
	"grub-unasked": {"shim runs and never asked for GRUB.",
		"Start the PC again; if it stays so, try another cable and another switch port, or switch Secure Boot off in the firmware’s setup."},
	"shim-refused": {"{{.File}} was fetched whole and never ran: Secure Boot refused it.",
		"In the firmware’s setup, under Secure Boot, switch on “Allow Microsoft 3rd Party UEFI CA”, or switch Secure Boot off. If that is on already, the PC has revoked this shim (SBAT): run sudo build/refurb payload build --refresh."},
	"grub32-refused": {"{{.File}} was fetched whole and never ran: there is no signed boot file for 32-bit UEFI.",
		"Switch Secure Boot off in the firmware’s setup."},
	"ipxe-silent": {"{{.File}} was fetched and iPXE never asked for an address.",
		"Look at the PC’s screen. If it hangs there, start it from the boot stick, or from another network card. A switch port with STP needs PortFast."},
	"ipxe-handed-back": {"iPXE in this PC’s network card gave up and handed back to the firmware: with Secure Boot on it may not start a kernel, and old ones know no disk.",
		"Nothing: the firmware goes on by itself. If it doesn’t, choose the firmware’s own network boot in its boot menu, or switch the network card’s option ROM off."},
	"no-script": {"{{.Loader}} runs and never asked for this PC’s boot script.",
		"It can’t reach this server by HTTP: a firewall must let the boot files’ port through (8080 unless set otherwise). Look at the PC’s screen."},
	"foreign-file": {"The PC asked this server for {{.File}}, which it doesn’t have: the router names that file.",
		"Take the boot file and the boot server (options 66 and 67, “network boot” or “PXE”) out of the router’s DHCP settings, or set the boot file there to undionly.kpxe for BIOS and shimx64.efi for UEFI."},
	"foreign-file-full": {"The PC asked this server for {{.File}}, which it doesn’t have.",
		"Another DHCP server names that file, or the PC’s firmware has it set: unplug the other server, and clear the boot file in the firmware’s network settings."},
	"nak-loop": {"The PC keeps asking for an address that it can’t have here ({{.Count}} times).",
		"Unplug its power for ten seconds, then start it again. If it stays so, look for a second DHCP server."},
	"other-server": {"Another DHCP server, {{.Server}}, gave this PC its address, and the PC asked nobody for a boot file.",
		"Start the PC again: if the server has made way meanwhile (the bench says so), it works. Else unplug {{.Server}}, or set dhcp = \"auto\"."},
	"proxy-not-asked": {"The PC took its address from {{.Server}} and never asked this server for its boot file.",
		"Its firmware doesn’t listen to a second server. Start it from the boot stick, or make this server the only DHCP server of the network. See also that no other boot server is set in the router (options 66 and 67)."},
	"file-not-asked": {"The PC has an address and never fetched its boot file.",
		"Look at the PC’s screen. Choose another network entry in its boot menu (IPv4 PXE rather than HTTP), or start it from the boot stick. A firewall must let TFTP through (UDP port 69)."},
	"offer-ignored": {"The PC asked {{.Count}} times and took none of this server’s offers.",
		"Either they don’t reach it: on a managed switch, make this server’s port trusted (DHCP snooping), or connect both to a plain switch. Or another server answers it: unplug that. Else start it from the boot stick."},
	"proxy-ignored": {"The PC asked {{.Count}} times and took neither the router’s address nor this server’s boot file.",
		"Check that the router gives out addresses. If others start, this firmware ignores offers from a second server: start it from the boot stick, or make this server the only DHCP server of the network."},
	"unanswered": {"This server had no answer for this PC: {{.Why}}.",
		"Put right what is named here, then start the PC again."},
	"address-taken": {"The address {{.IP}} is in use by something else on this network.",
		"Look for a second DHCP server, or a device with a fixed address inside this server’s pool."},
	"card-driver": {"The network card {{.Card}} doesn’t work on this PC: {{.Why}}.",
		"Use the PC’s other network card, as it does now. For this one, run sudo build/refurb payload build --refresh on this server; if it stays so, tell us its number."},
	"slow-port": {"The network was silent for {{.Seconds}} s before the PC was heard.",
		"Use another switch port. On a managed switch, switch STP off there, or set the port to PortFast."},
	"slow-link": {"It took {{.Seconds}} s until the cable had a link.",
		"Try another cable and another switch port."},
	"flapping": {"{{.Seconds}} s went by between two tries: the link comes and goes.",
		"Try another cable and another switch port."},
	"retries": {"{{.File}} was fetched {{.Count}} times before it was whole.",
		"Try another cable and another switch port."},
	"not-netboot": {"This device only asks for an address: it isn’t starting from the network.",
		"If it is a PC that should, start it again, press its boot menu key (F12, F9, F8 or Esc) and choose the network."},
}

// Cause and Next in English.
func (g Finding) Cause() string { return g.fill(English[g.ID].Cause) }
func (g Finding) Next() string  { return g.fill(English[g.ID].Next) }

func (g Finding) fill(s string) string {
	for k, v := range g.With {
		s = strings.ReplaceAll(s, "{{."+k+"}}", v)
	}
	return s
}
