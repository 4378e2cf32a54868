# 64-bit ARM Linux from another machine; ctest runs under qemu. QEMU_CPU=cortex-a53 chooses the emulated CPU.
#   cmake -S . -B build-aarch64 --toolchain csrc/toolchains/aarch64-linux-gnu.cmake
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
find_program(ES2S_QEMU NAMES qemu-aarch64-static qemu-aarch64)
set(CMAKE_CROSSCOMPILING_EMULATOR ${ES2S_QEMU} -L /usr/aarch64-linux-gnu)
