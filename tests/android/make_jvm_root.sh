#!/usr/bin/env bash
# Makes a folder with an ARM JVM, for test_java.py:
#     tests/android/make_jvm_root.sh [FOLDER]
# On Debian, with apt and the network. Nothing is installed into the system, and no root rights are needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
root="$(realpath -m "${1:-build/arm64-jvm}")"
source tests/arm64/debian_packages.sh
unpack_arm64 "$root" openjdk-17-jre-headless

# The JVM's settings are links to /etc, which the system would look up outside of this folder.
find "$root" -type l -lname '/*' | while read -r link; do
    ln -sfnr "$root$(readlink "$link")" "$link"
done
echo "$root"
