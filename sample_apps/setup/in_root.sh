#!/bin/sh
# Run a command in the Debian tree of swift.sh, with one folder of this machine at /work; nothing stays mounted.
# usage: in_root.sh TREE FOLDER COMMAND...       needs user namespaces, or root
#
# The command sees the tree, /work (where it starts), an empty /tmp, and no network.
# Exit code 77: this computer has none.
tree=$1 folder=$2; shift 2
unshare --user --map-root-user --mount --net --pid --fork true 2> /dev/null || {
    echo "this computer gives no user namespaces, in which Swift's Debian tree runs"; exit 77
}
user=
unshare --user --map-root-user true 2> /dev/null && user="--user --map-root-user"
exec unshare $user --mount --net --pid --fork --kill-child sh -ec '
    tree=$1 folder=$2; shift 2
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    mount -t tmpfs tmpfs "$tree/tmp"
    mount --bind "$folder" "$tree/work"
    exec chroot "$tree" /usr/bin/env -i -C /work PATH=/usr/libexec/swift/bin:/usr/bin HOME=/tmp LANG=C.UTF-8 "$@"
' sh "$tree" "$folder" "$@"
