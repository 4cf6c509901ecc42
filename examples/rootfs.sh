#!/bin/sh
# Makes a small root filesystem from the host's static busybox: examples/rootfs.sh DIR
set -eu
root=$1
busybox=$(command -v busybox)
mkdir -p "$root/bin" "$root/etc" "$root/www" "$root/tmp" "$root/proc" "$root/sys" "$root/dev"
cp "$busybox" "$root/bin/busybox"
for name in sh httpd wget awk sleep echo cat ls ps id true false kill dd head tail yes seq env hostname mount wc tr grep touch printf setsid; do
	ln -sf busybox "$root/bin/$name"
done
printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
echo 'hello from wharfinger' >"$root/www/index.html"
