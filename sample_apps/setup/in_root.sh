#!/bin/sh
# Run a command in the Debian tree of swift.sh, with one folder of this machine at /project; nothing stays mounted.
# usage: in_root.sh TREE FOLDER COMMAND...       needs user namespaces, or root; exit code 77: there are neither
#
# The command sees the tree, /project (where it starts), an empty /tmp, and no network.
tree=$1 folder=$2; shift 2
own="--mount --net --pid --fork"
user="--user --map-root-user"
unshare $user $own true 2> /dev/null || user=
unshare $user $own true 2> /dev/null || {
    echo "this computer gives no user namespaces, in which Swift's Debian tree runs"; exit 77
}
exec unshare $user $own --kill-child sh -ec '
    tree=$1 folder=$2; shift 2
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    mount -t tmpfs tmpfs "$tree/tmp"
    mount --bind "$folder" "$tree/project"
    exec chroot "$tree" /usr/bin/env -i -C /project PATH=/usr/libexec/swift/bin:/usr/bin HOME=/tmp LANG=C.UTF-8 "$@"
' sh "$tree" "$folder" "$@"
