#!/bin/sh
# Runs the command that its arguments are, and ends it when stdin comes to its end:
# a build may say nothing for an hour, and would not notice that nobody listens.
exec 3<&0
"$@" </dev/null &
command=$!
(
	while read -r _; do :; done
	kill "$command"
) <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&-
wait "$command"
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
