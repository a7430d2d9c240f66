#!/usr/bin/env bash
# Unpack Debian packages of any suite into a folder; the machine's own packages and lists stay as they are.
# usage: debs.sh [--alone] SUITE ARCHITECTURE FOLDER PACKAGE...     with all that they depend on; --alone: without
#
# The mirror is the one that apt already has. A package may be pinned: NAME=VERSION.
set -euo pipefail
alone=
if [ "$1" = --alone ]; then alone=yes; shift; fi
suite=$1 architecture=$2; mkdir -p "$3"; folder=$(realpath "$3"); shift 3
command -v apt-get > /dev/null || { echo "Debian's packages cannot be had here: there is no apt-get" >&2; exit 1; }

state=$(mktemp -d); trap 'rm -rf "$state"' EXIT
mkdir -p "$state"/{lists/partial,archives/partial,sources}; touch "$state/status"
mirror=$(awk '/^URIs:/ { print $2; exit } /^deb / { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }' \
    /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2> /dev/null || true)
[ -n "$mirror" ] || { echo "Debian's packages cannot be had here: apt has no mirror" >&2; exit 1; }
cat > "$state/sources/debs.sources" << END
Types: deb
URIs: $mirror
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
cat > "$state/configuration" << END
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Install-Recommends "false";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Cache::archives "$state/archives";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$state/sources";
END
export APT_CONFIG=$state/configuration

apt-get --quiet=2 update
if [ "$alone" ]; then
    (cd "$state/archives" && apt-get --quiet=2 download "$@" > /dev/null)
else
    apt-get --quiet=2 --yes --download-only install "$@" > /dev/null
fi
for package in "$state"/archives/*.deb; do dpkg-deb --extract "$package" "$folder"; rm "$package"; done
