#!/usr/bin/env bash
# Installs the appliance as a service that starts with the machine. Run by `make
# install IFACE=…` as root, again after every update: settings and data stay.
set -euo pipefail
cd "$(dirname "$0")/../.."
iface=${1:?which network card leads to the workshop?} dhcp=${2:-auto}
lib=/usr/local/lib/refurb etc=/etc/refurb data=/var/lib/refurb

[ -d "/sys/class/net/$iface" ] || { echo "install: there is no network card $iface; there are: $(ls /sys/class/net | grep -v '^lo$' | tr '\n' ' ')" >&2; exit 2; }
command -v systemctl >/dev/null || { echo "install: this machine has no systemd; use make run IFACE=$iface instead" >&2; exit 1; }
if pgrep -x refurb >/dev/null && ! systemctl is-active --quiet refurb; then
  echo "install: an appliance is running (make run?): end it first" >&2
  exit 1
fi

getent passwd refurb >/dev/null || useradd --system --user-group --home-dir $data --no-create-home --shell /usr/sbin/nologin refurb
install -d -m 0755 $lib $etc
for f in refurb refurb-agent tinyos base.cpio; do
  install -m 0755 "build/$f" "$lib/.$f" && mv "$lib/.$f" "$lib/$f" # the running one is replaced, not written over
done
install -m 0644 docs/operators-guide.md $lib/
ln -sf $lib/refurb /usr/local/bin/refurb
if [ ! -e $etc/refurb.toml ]; then
  printf '# Settings of the appliance; `refurb serve --help` explains them.\ninterface = "%s"\ndhcp = "%s"\n' "$iface" "$dhcp" >$etc/refurb.toml
  chmod 0644 $etc/refurb.toml
fi

# What an earlier `make run` left belongs to root.
install -d -m 0700 -o refurb -g refurb $data
chown -Rh refurb:refurb $data
$lib/refurb payload build

install -m 0644 scripts/service/refurb.service /etc/systemd/system/refurb.service
systemctl daemon-reload
systemctl enable refurb.service
systemctl restart refurb.service
sleep 3
if ! systemctl is-active --quiet refurb.service; then
  journalctl --no-pager --lines=15 --unit refurb.service >&2
  echo "install: the appliance doesn't start; the last lines above say why" >&2
  exit 1
fi
echo "installed and running. Settings: $etc/refurb.toml   Log: journalctl -u refurb   The code for the first visit stands in the log."
