#!/bin/sh
# Waits until the process at the other end of stdin is gone, then removes what is
# left of its lab.
#
# usage: reap.sh FOLDER ID
set -eu
dir=$1 id=$2
cat >/dev/null
for pid in "$dir"/*/pid; do
	if [ -e "$pid" ]; then kill -KILL "$(cat "$pid")" 2>/dev/null || :; fi
done
bridge=$(ip -o link show type bridge | awk -v id="$id" -F ': ' 'index($0, id) { print $2 }')
if [ -n "$bridge" ]; then ip link delete "$bridge"; fi
rm -rf -- "$dir"
