#!/usr/bin/env bash
# Makes a folder with an ARM JVM, for test_java.py:
#     tests/android/make_jvm_root.sh [FOLDER]
# On Debian, with apt and the network. Nothing is installed into the system, and no root rights are needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
root="$(realpath -m "${1:-build/arm64-jvm}")"
rm -rf "$root"

# Debian packages of the other architecture, with their dependencies, by apt with a state of its own.
mkdir -p "$root"/apt/{lists/partial,archives/partial}
touch "$root/apt/status"
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Install-Recommends=0
    -o Debug::NoLocking=1 -o Dir::State="$root/apt" -o Dir::State::status="$root/apt/status" -o Dir::Cache="$root/apt")
"${apt[@]}" update
"${apt[@]}" install --yes --download-only openjdk-17-jre-headless >/dev/null
for package in "$root"/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
rm -rf "$root/apt"

# The JVM's settings are links to /etc, which the system would look up outside of this folder.
find "$root" -type l -lname '/*' | while read -r link; do
    ln -sfnr "$root$(readlink "$link")" "$link"
done
echo "$root"
