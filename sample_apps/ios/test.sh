#!/usr/bin/env bash
# Test the app's core, which needs no Apple system. usage: test.sh FOLDER      for what is built; swift is on PATH
set -euo pipefail
cd "$(dirname "$0")/SlmkitCore"
swift build --build-tests --jobs 2 --scratch-path "$1" -Xswiftc -warnings-as-errors
swift test --skip-build --scratch-path "$1" --disable-swift-testing
