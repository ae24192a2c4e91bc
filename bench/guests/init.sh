#!/bin/busybox sh
# The first program of a guest: mounts its disk and goes on with /guest/run on it.
set -e
for module in /modules/*; do
  busybox insmod "$module"
done
busybox mount -t devtmpfs dev /dev
busybox mount -t ext4 -o ro /dev/vda /disk
busybox mount -t proc proc /disk/proc
busybox mount -t sysfs sys /disk/sys
busybox mount -t tmpfs tmp /disk/tmp
busybox mount -o move /dev /disk/dev
# Requests are read line by line, answered without an echo.
busybox stty -F /disk/dev/ttyS0 -echo -onlcr
export PATH=/usr/bin:/bin HOME=/tmp LANG=C.UTF-8
exec busybox switch_root -c /dev/ttyS0 /disk /guest/run
