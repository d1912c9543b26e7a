#!/bin/sh
# Run by mmdebstrap when all packages are in; $1 is the new system's root, and
# the folder of this script holds the files that are laid over it.
set -eu
root=$1
here=$(dirname "$0")

cp -R "$here/root/." "$root/"
chroot "$root" sh -eu <<'EOF'
chmod 0755 /usr/lib/refurb-desktop/*
locale-gen >/dev/null
python3 -B /usr/lib/refurb-desktop/words.py
python3 -B -c 'import ast; ast.parse(open("/usr/lib/refurb-desktop/wizard.py").read())'
echo 'LANG=en_US.UTF-8' >/etc/default/locale
systemctl --quiet enable refurb-hostname.service refurb-first-start.service refurb-checkin.service
# Its waiting would hold up every start of a PC without a cable.
systemctl --quiet disable NetworkManager-wait-online.service
systemctl --quiet set-default graphical.target
passwd --quiet --lock root
mkdir -p /boot/efi /var/lib/refurb
update-initramfs -u
# What GRUB's core on BIOS loads besides itself stays of the core's own version.
mkdir -p /boot/grub/i386-pc /boot/grub/fonts
cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst /boot/grub/i386-pc/
cp /usr/share/grub/unicode.pf2 /boot/grub/fonts/
EOF

# What was for the build only: a person who installs more wants it whole.
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap"
sed -i /unsafe-io/d "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
# What belongs to the machine that built it.
rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root/etc/hosts" "$root/initrd.img.old" "$root/vmlinuz.old" \
  "$root"/etc/ssh/ssh_host_* "$root/var/lib/systemd/random-seed" "$root/root/.bash_history"
rm -rf "$root/var/lib/refurb/first-start.done" "$root"/var/log/*.log "$root/var/log/apt" "$root/var/cache/debconf"/*-old
: >"$root/etc/machine-id"
# No file is younger than the date of the build: the same packages make the same
# tree. The fonts' cache is keyed to the folders' dates, so it comes last; without
# it the first window of the first start takes minutes on an old PC.
find "$root" -xdev \( -path "$root/var/cache/apt" -o -path "$root/proc" -o -path "$root/sys" -o -path "$root/dev" \) -prune \
  -o -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
# With the variable set it takes every folder for too young, and writes nothing.
chroot "$root" env -u SOURCE_DATE_EPOCH fc-cache --system-only --force
[ "$(ls "$root/var/cache/fontconfig" | wc -l)" -gt 5 ] || { echo "the fonts' cache is empty" >&2; exit 1; }
