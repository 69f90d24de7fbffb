#!/bin/sh
# Waits until the process at the other end of stdin is gone, then removes what is
# left of its lab.
#
# usage: reap.sh FOLDER
set -eu
dir=$1
cat >/dev/null
if [ ! -e "$dir" ]; then exit 0; fi
for pid in "$dir"/*/pid; do
	if [ -e "$pid" ]; then kill -KILL "$(cat "$pid")" 2>/dev/null || :; fi
done
id=$(sed -n 's/.*"id": "\([0-9a-f]*\)".*/\1/p' "$dir/.lab.json")
bridge=$(ip -o link show type bridge | awk -v id="${id:?}" -F ': ' 'index($0, id) { print $2 }')
if [ -n "$bridge" ]; then
	ip link delete "$bridge"
	for group in "$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/$bridge".*; do
		# until the last process of a host has ended
		while [ -e "$group" ] && ! find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do sleep 0.1; done
	done
fi
rm -rf -- "$dir"
