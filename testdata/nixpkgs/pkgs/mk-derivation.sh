# What mkDerivation builds with: buildCommand, or the phases that are given.
# Every variable comes from the derivation.
# shellcheck shell=sh disable=SC2154
if [ -n "$buildCommandPath" ]; then
	# shellcheck disable=SC1090
	. "$buildCommandPath"
	exit
fi
if [ -n "$src" ]; then
	cp -r "$src" source
	chmod -R u+w source
	if [ -d source ]; then cd source || exit; fi
fi
for phase in "$patchPhase" "$configurePhase" "$buildPhase" "$installPhase" "$fixupPhase"; do
	eval "$phase"
done
