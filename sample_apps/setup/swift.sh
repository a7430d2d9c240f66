#!/usr/bin/env bash
# Fetch Swift with a Debian of its own around it, once, and print the folder that it is in; in_root.sh runs it.
# usage: swift.sh [--where]        needs apt-get on amd64 Linux, and no root. --where: print the folder, there or
#                                not, and fetch nothing
#
# The folder lies in $SLMKIT_TOOLS, else in the cache of slmkit. Its name is a hash of these scripts, so that other pins
# make another folder. Nothing of the machine changes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${SLMKIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slmkit}
all=${SLMKIT_TOOLS:-$cache/tools}
tools=$all/swift-$(cat "$here"/{swift.sh,debs.sh} | sha256sum | cut -c 1-12)
if [ "${1-}" = --where ]; then echo "$tools"; exit; fi
mkdir -p "$all"; exec 9> "$tools.lock"; flock 9 # one fetches, others wait
if [ -d "$tools" ]; then echo "$tools"; exit; fi

work=$(mktemp -d "$all/.fetching-XXXXXX"); trap 'rm -rf "$work"' EXIT
new=$work/new
for pause in 2 10 30 0; do # a mirror's bad minute is no failure
    "$here/debs.sh" trixie amd64 "$new" swiftlang=6.0.3-2 swiftlang-dev=6.0.3-2 libc6-dev libstdc++-14-dev \
        bash coreutils >&2 && break
    [ $pause != 0 ] || { echo "Swift cannot be had: see above" >&2; exit 1; }
    rm -rf "$new"; echo "again: Swift" >&2; sleep $pause
done

# Debuggers, other languages' compilers, code for microcontrollers: what neither swift build nor swift test starts.
cd "$new/usr"; swift=libexec/swift
rm -rf share/{doc,man,locale,perl,python3} lib/python3* lib/*/perl* libexec/gcc \
    $swift/bin/{lldb*,repl_swift,swift-api-*,sourcekit-lsp,docc} $swift/lib/{liblldb*,libsourcekitdInProc.so} \
    $swift/lib/swift/{embedded,FrameworkABIBaseline} $swift/lib/swift_static
mkdir -p "$new"/{proc,dev,tmp,project} # what in_root.sh mounts
mv "$new" "$tools"; echo "$tools"
