#!/usr/bin/env bash
# Installs what Refurb needs from the system's package manager. Quick and silent
# when all of it is there.
set -euo pipefail

packages=(
  make git ca-certificates gcc libc6-dev                # building
  iproute2                                              # the lab's network
  qemu-system-x86 qemu-utils ovmf ovmf-ia32 ipxe-qemu   # virtual PCs with real firmware
  chromium                                              # tests of the pages
  mmdebstrap dosfstools mtools e2fsprogs gdisk fdisk dnsmasq-base zstd xz-utils  # give-away systems, test disks
  ntfs-3g exfatprogs btrfs-progs xfsprogs f2fs-tools apfsprogs cryptsetup-bin lvm2  # what donors' disks hold
  debian-archive-keyring
  systemd util-linux                                    # the service, as tests look at it
  tshark kea-admin isc-dhcp-relay                       # DHCP as others read, load and relay it
)
declare -A binary=(
  [make]=make [git]=git [gcc]=gcc [iproute2]=ip [qemu-system-x86]=qemu-system-x86_64
  [qemu-utils]=qemu-img [chromium]=chromium [mmdebstrap]=mmdebstrap [dosfstools]=mkfs.vfat
  [mtools]=mcopy [systemd]=systemd-analyze [util-linux]=setpriv [e2fsprogs]=mkfs.ext4 [gdisk]=sgdisk [fdisk]=sfdisk [dnsmasq-base]=dnsmasq [zstd]=zstd [xz-utils]=xz
  [ntfs-3g]=mkntfs [exfatprogs]=mkfs.exfat [btrfs-progs]=mkfs.btrfs [xfsprogs]=mkfs.xfs [f2fs-tools]=mkfs.f2fs
  [apfsprogs]=mkapfs [cryptsetup-bin]=cryptsetup [lvm2]=pvcreate
  [tshark]=tshark [kea-admin]=perfdhcp [isc-dhcp-relay]=dhcrelay
)

command -v apt-get >/dev/null || {
  echo "setup: this is not a Debian system (no apt-get). Install by hand: ${packages[*]} and Go 1.26" >&2
  exit 1
}

# go.mod's own version: a Go of 1.21 or later fetches it as a module by itself.
have_go() {
  command -v go >/dev/null || return 1
  local v; v=$(go env GOVERSION 2>/dev/null); v=${v#go1.}; v=${v%%[!0-9]*}
  [ "${v:-0}" -ge 21 ]
}
have_node() { command -v npm >/dev/null; }

missing=()
for p in "${packages[@]}"; do
  if [ -n "${binary[$p]:-}" ] && PATH=$PATH:/usr/sbin:/sbin command -v "${binary[$p]}" >/dev/null; then continue; fi
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
have_go || missing+=(golang-go)
have_node || missing+=(npm)
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "setup: run \`make setup\` as root once: it installs ${missing[*]}" >&2; exit 1; }
  sudo=sudo
fi
echo "setup: installing ${missing[*]}"
log=$(mktemp)
if ! { $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "setup: the system's package manager failed (whole log: $log)" >&2
  exit 1
fi
rm -f "$log"
have_go || {
  echo "setup: this system's Go is older than 1.21: install Go 1.26 from your distribution's backports or go.dev, then run this again" >&2
  exit 1
}
