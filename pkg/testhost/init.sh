#!/bin/sh
# Boots one host: the first process in new mount, pid, uts and ipc namespaces. It
# builds the root file system, activates the system profile as the second stage of
# NixOS' boot does, and becomes sshd, which stays pid 1 and reaps, or systemd.
#
# usage: init.sh FOLDER NAME NIX INIT [CGROUP]
#   FOLDER/disk/*  what survives a reboot; NIX is the folder whose bin has nix-store
#   INIT is sshd, or systemd, which needs CGROUP, the folder of a control group
set -eu
dir=$1 name=$2 nix=$3 init=$4 cgroup=${5-}
disk=$dir/disk root=$dir/mnt

if [ -n "$cgroup" ]; then
	# In a namespace of its own the control group is the root of all that it sees.
	mkdir -p "$cgroup"
	echo 0 >"$cgroup/cgroup.procs"
	exec unshare --cgroup -- /bin/sh "$0" "$dir" "$name" "$nix" "$init"
fi

# /proc is still the outer one, so this is the pid that others can signal
read -r pid _ </proc/self/stat
echo "$pid" >"$dir/pid1.new"
mv "$dir/pid1.new" "$dir/pid1"

mount --make-rprivate /
mount -t tmpfs -o mode=755,size=64m "nx-$name" "$root"
cd "$root"
mkdir usr run proc sys dev old
for link in bin sbin lib lib32 lib64 libx32; do
	if [ -L "/$link" ]; then cp -P "/$link" "$link"; fi
done
for d in "$disk"/*; do
	mkdir "${d##*/}"
	mount --bind "$d" "${d##*/}"
done
# /usr, and what its programs find libraries and each other by
mount --rbind /usr usr
mount -o remount,bind,ro usr
for f in etc/ld.so.cache etc/alternatives; do
	if [ -e "/$f" ] && [ -e "$f" ]; then
		mount --bind "/$f" "$f"
		mount -o remount,bind,ro "$f"
	fi
done
mount -t tmpfs -o mode=755,size=64m run run
mkdir run/sshd
if [ "$nix" != /usr ]; then # at its own place, since its binaries may name it
	mkdir -p ".$nix"
	mount --bind "$nix" ".$nix"
	mount -o remount,bind,ro ".$nix"
fi
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
# Without controllers it is still what systemd follows its services by.
if [ "$init" = systemd ]; then mount -t cgroup2 cgroup2 sys/fs/cgroup; fi
mount -t tmpfs -o mode=755,size=1m dev dev
mkdir dev/pts dev/shm
for n in null zero full random urandom tty; do
	: >dev/$n
	mount --bind /dev/$n dev/$n
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "dev/${n#*:}"; done
mount -t tmpfs -o mode=1777,size=64m shm dev/shm
# hostname(1) would refuse a '_'
printf '%s\n' "$name" >proc/sys/kernel/hostname
# The kernel is this machine's too: only what each network namespace has of its own
# may be set.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net
# a boot id of its own: programs tell a reboot by it
cat proc/sys/kernel/random/uuid >run/boot_id
mount --bind run/boot_id proc/sys/kernel/random/boot_id

# the folder's files are out of reach behind the new root
pivot_root . old
cd /
: >"/old$dir/booted"
umount -l /old
rmdir /old

exec </dev/null >>/var/log/boot.log 2>&1
ip link set eth0 up # the system before may have shut it
echo "boot $(cat /run/boot_id)"
PATH=/run/current-system/sw/bin:$nix/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root USER=root
profile=/nix/var/nix/profiles/system
if [ -e "$profile" ]; then
	system=$(readlink -f "$profile")
	echo "activate $system"
	ln -sfn "$system" /run/current-system
	ln -sfn "$system" /run/booted-system
	# a system that fails to activate must stay within reach
	"$system/activate" || echo "activate $system: exit status $?"
fi
echo "start $init"
if [ "$init" = sshd ]; then exec /usr/sbin/sshd -D -e -f /etc/ssh/sshd_config -o "SetEnv=PATH=$PATH"; fi

# The host's own units. Those of its NixOS systems are in /etc, and come before them.
units=/run/systemd/system
mkdir -p $units/multi-user.target.wants
cat >$units/sshd.service <<UNIT
[Unit]
Description=OpenSSH server
[Service]
Type=notify
ExecStart=/usr/sbin/sshd -D -e -f /etc/ssh/sshd_config -o "SetEnv=PATH=$PATH"
# a restart does not end the sessions, as on NixOS and Debian
KillMode=process
Restart=always
UNIT
ln -s ../sshd.service $units/multi-user.target.wants
# There is no terminal to log in at.
ln -s /dev/null $units/getty.target
# By these it leaves out the services that would set this machine up.
exec setpriv --bounding-set -sys_module,-sys_rawio,-sys_time,-syslog,-audit_control,-audit_read \
	env -i container=nx PATH="$PATH" /lib/systemd/systemd --unit=multi-user.target --show-status=no
