#!/bin/sh
# Keeps one host running: boots it, and boots it again when its pid 1 ends, as a
# machine does. It runs in the host's own network namespace and outlives who
# started it. When it ends, by whatever signal, the kernel takes the host's
# processes, mounts, namespaces and cable with it.
#
# usage: supervise.sh FOLDER NAME ADDRESS/BITS NIX INIT [CGROUP]
#   stdin  a line comes when the cable (eth0) is there; end of file: the starter died
#   fd 3   the locked file that says the host is running; closed to the host itself
set -eu
dir=$1 name=$2 address=$3 nix=$4 init=$5 cgroup=${6-}

echo $$ >"$dir/pid"
read -r _ || exit 1
exec </dev/null
ip link set lo up
ip address add "$address" dev eth0
ip link set eth0 up

stop='' child=''
# TERM means power off. Pid 1 is killed rather than unshare, which waits for it:
# so this script ends after the last process of the host has.
trap 'stop=yes; kill -KILL "$(cat "$dir/pid1")" 2>/dev/null || kill -KILL "$child" 2>/dev/null || :' TERM

while [ -z "$stop" ]; do
	setpriv --pdeathsig KILL unshare --mount --uts --ipc --pid --kill-child=KILL -- \
		/bin/sh "$dir/init.sh" "$dir" "$name" "$nix" "$init" "$cgroup" 3>&- &
	child=$!
	[ -z "$stop" ] || kill -KILL "$child"
	# wait also returns when the trap has run
	while kill -0 "$child" 2>/dev/null; do wait "$child" && code=0 || code=$?; done
	# reboot(2): in a pid namespace a power-off is seen as SIGINT, a restart as SIGHUP
	[ "$code" != 130 ] || stop=yes
	# no sense in trying again what never came as far as sshd
	[ -e "$dir/booted" ] || stop=yes
	rm -f "$dir/pid1" "$dir/booted"
	[ -n "$stop" ] || sleep 0.2
done
rm -f "$dir/pid"
