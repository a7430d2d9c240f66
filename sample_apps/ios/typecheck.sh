#!/usr/bin/env bash
# Check the types of the app, and that no data is shared between tasks, in Swift 6 mode where there is no iOS SDK: against
# stubs of Apple's modules. It runs nothing.
# usage: typecheck.sh FOLDER        for the modules that are made, those that are there are taken; swiftc is on PATH
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); modules=$1; mkdir -p "$modules"
module() { # NAME OPTIONS...
    [ -e "$modules/$1.swiftmodule" ] || swiftc -parse-as-library -emit-module -module-name "$1" -o "$modules/$1.swiftmodule" "${@:2}"
}
for stub in "$here"/stubs/*; do # FoundationModels of iOS 27 has version 2
    module "${stub##*/}" -swift-version 5 -user-module-version 2 "$stub"/*.swift
done
module SlmkitCore -swift-version 6 -warnings-as-errors "$here"/SlmkitCore/Sources/SlmkitCore/*.swift
swiftc -swift-version 6 -warnings-as-errors -parse-as-library -wmo -emit-sil -o /dev/null -module-name SlmkitSample \
    -I "$modules" "$here"/App/*.swift
echo "type-checked"
