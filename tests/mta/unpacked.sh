#!/bin/sh
# Runs a command where Postfix, OpenSMTPD and Exim are all there, as their packages do not allow: they are unpacked into a
# view of the file system that is the command's own and goes with it. Nothing is installed. Root, on Debian or Ubuntu:
#
#   tests/mta/unpacked.sh make mta

set -eu

if [ "${1:-}" != --inside ]; then
    place=$(mktemp -d)
    trap 'rm -rf "$place"' EXIT
    chmod 755 "$place"
    mkdir -p "$place/debs/partial" "$place/root/usr/lib" "$place/root/etc" "$place/root/var"
    for package in postfix opensmtpd exim4-daemon-light; do
        apt-get -qq -y --no-install-recommends --download-only -o Dir::Cache::archives="$place/debs" \
            -o APT::Sandbox::User=root install "$package" > /dev/null
    done
    for deb in "$place"/debs/*.deb; do dpkg -x "$deb" "$place/root"; done
    if [ -d "$place/root/lib" ]; then cp -a "$place/root/lib/." "$place/root/usr/lib/"; fi
    status=0
    unshare --mount "$0" --inside "$place" "$@" || status=$?
    exit "$status"
fi

place=$2
shift 2
mkdir "$place/above"
mount -t tmpfs tmpfs "$place/above"
for directory in usr etc var; do
    mkdir "$place/above/$directory" "$place/above/$directory.work"
    mount -t overlay overlay "/$directory" \
        -o "lowerdir=$place/root/$directory:/$directory,upperdir=$place/above/$directory,workdir=$place/above/$directory.work"
done
number=60000
for user in postfix postdrop opensmtpd opensmtpq Debian-exim; do
    number=$((number + 1))
    getent group "$user" > /dev/null || echo "$user:x:$number:" >> /etc/group
    getent passwd "$user" > /dev/null || echo "$user:x:$number:$number::/nonexistent:/usr/sbin/nologin" >> /etc/passwd
done
mkdir -p /var/lib/opensmtpd/empty
exec "$@"
