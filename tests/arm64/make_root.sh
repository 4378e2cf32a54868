#!/usr/bin/env bash
# Makes a folder with an ARM Python, the runtime's dependencies, pytest and edge_s2s, for test_emulated_cpu.py and
# test_arm64_suite.py:
#     tests/arm64/make_root.sh [FOLDER]
# FOLDER/python then starts it under qemu-user; QEMU_CPU chooses the CPU.
# On Debian, with apt, gcc-aarch64-linux-gnu, the network, and what csrc/toolchains/aarch64_wheel.py asks for in
# the Python that is first in PATH. Nothing is installed into the system, and no root rights are needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
root="$(realpath -m "${1:-build/arm64-root}")"
source tests/arm64/debian_packages.sh
unpack_arm64 "$root" python3 libstdc++6

# ONNX Runtime asks the system what CPUs there are, and crashes at import where it gets the host's answer.
# qemu -L looks here first. A Cortex-A72 tells nobody what it is: features come from QEMU_CPU.
mkdir -p "$root/sys/devices/system/cpu" "$root/proc"
for list in possible present online; do echo 0 >"$root/sys/devices/system/cpu/$list"; done
printf '%s\n' "processor : 0" "Features : fp asimd crc32 cpuid" "CPU implementer : 0x41" \
    "CPU architecture: 8" "CPU variant : 0x0" "CPU part : 0xd08" "CPU revision : 3" >"$root/proc/cpuinfo"

# The versions that this Python has, so that a difference is the CPU's.
version() { python -c "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))" "$1"; }
python="$(basename "$root"/usr/bin/python3.[0-9]*[0-9])"
platforms=()
for glibc in 2_17 2_24 2_26 2_27 2_28 2_31 2_34 2_35 2_36; do platforms+=(--platform "manylinux_${glibc}_aarch64"); done
install=(python -m pip install -q --target "$root/opt/site" "${platforms[@]}" --platform manylinux2014_aarch64
    --python-version "${python#python}" --implementation cp --only-binary=:all:)
"${install[@]}" --no-deps "numpy==$(version numpy)" "onnxruntime==$(version onnxruntime)" \
    "tokenizers==$(version tokenizers)" "cffi==$(version cffi)" "llguidance==$(version llguidance)" \
    "$(python csrc/toolchains/aarch64_wheel.py "$root/wheel" | tail -n 1)"
"${install[@]}" "pytest==$(version pytest)" "pytest-timeout==$(version pytest-timeout)" \
    "hypothesis==$(version hypothesis)" "zstandard==$(version zstandard)" "cryptography==$(version cryptography)" \
    "urllib3==$(version urllib3)"

# A script, so that a program finds in sys.executable what starts another one: the system cannot start ARM programs.
cat >"$root/python" <<EOF
#!/bin/sh
exec $(command -v qemu-aarch64-static || command -v qemu-aarch64) -0 "\$0" -L "$root" \\
    -E PYTHONHOME="$root/usr" -E PYTHONPATH="$root/opt/site" "$root/usr/bin/$python" "\$@"
EOF
chmod +x "$root/python"
"$root/python" -m compileall -q "$root/usr/lib/$python"
echo "$root"
