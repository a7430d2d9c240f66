#!/usr/bin/env bash
# Type-check the app in Swift 6 mode where there is no iOS SDK: against stubs of Apple's modules. It runs nothing.
# usage: typecheck.sh FOLDER        for modules that are made; swiftc is on PATH
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); modules=$1; mkdir -p "$modules"
for stub in "$here"/stubs/*; do # FoundationModels of iOS 27 has version 2
    swiftc -swift-version 5 -parse-as-library -emit-module -user-module-version 2 \
        -module-name "${stub##*/}" -o "$modules/${stub##*/}.swiftmodule" "$stub"/*.swift
done
swiftc -swift-version 6 -warnings-as-errors -parse-as-library -emit-module -module-name SlmkitCore \
    -o "$modules/SlmkitCore.swiftmodule" "$here"/SlmkitCore/Sources/SlmkitCore/*.swift
swiftc -swift-version 6 -warnings-as-errors -parse-as-library -typecheck -module-name SlmkitSample -I "$modules" \
    "$here"/App/*.swift
echo "type-checked"
