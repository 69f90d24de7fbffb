#!/bin/sh
# cloud.sh DIR: an example of a program for deployment.targetEnv = "exec".
#
# Its cloud is the folder DIR. A machine or resource is one file there, ID.json:
# {"token", "state", "properties"}. A file DIR/quota has the number of those that may
# be there.
set -eu
dir=$1
mkdir -p "$dir"
request=$(cat)
op='' id='' token=''
eval "$(printf '%s\n' "$request" | jq -r '@sh "op=\(.op) id=\(.id // "") token=\(.token // "")"')"

# fail MESSAGE [HINT]: nothing was done, and why.
fail() {
	jq -cn --arg error "$1" --arg hint "${2-}" '{$error, $hint, made: false}'
	exit
}

# write ID STATE: make its file anew, whole or not at all.
write() {
	printf '%s\n' "$request" | jq --arg state "$2" '{token, $state, properties}' >"$dir/.$1"
	mv "$dir/.$1" "$dir/$1.json"
}

# search: the ID that is asked for, if it is there, or that of the token: whoever was
# killed before the ID was remembered has only the token.
search() {
	if [ -n "$id" ]; then
		[ ! -e "$dir/$id.json" ] || echo "$id"
		return
	fi
	file=$(grep -Fls "\"token\": \"$token\"" "$dir"/*.json) || return 0
	basename "$file" .json
}

# describe ID: the answer.
describe() {
	jq -c --arg id "$1" '{
		$id, state, properties,
		outputs: {address: ($id + ".cloud.example")},
		target: {host: ($id + ".cloud.example")}
	}' "$dir/$1.json"
}

[ ! -e "$dir/locked" ] || fail "401: $(cat "$dir/locked")" "set CLOUD_TOKEN"
found=$(search)
case $op,$found in
create,)
	set -- "$dir"/*.json
	[ -e "$1" ] || shift
	[ ! -e "$dir/quota" ] || [ $# -lt "$(cat "$dir/quota")" ] || fail "the quota of $(cat "$dir/quota") is used up" "ask for more"
	found=m$(od -An -N6 -tx1 /dev/urandom | tr -d ' ')
	write "$found" up
	printf '{"remember":{"id":"%s"}}\n' "$found"
	echo '{"message":"waiting until it is up"}'
	describe "$found"
	;;
read,) echo '{"state":"missing"}' ;;
destroy,*)
	[ -z "$found" ] || rm -f "$dir/$found.json"
	echo '{}'
	;;
*,) fail "404: there is no $id" ;;
create,* | read,*) describe "$found" ;;
update,* | start,* | reboot,*)
	write "$found" up
	describe "$found"
	;;
stop,*)
	write "$found" stopped
	describe "$found"
	;;
*) fail "it cannot $op" ;;
esac
