# 32-bit ARM Linux (ARMv7 with VFP) from another machine; ctest runs under qemu, QEMU_CPU=cortex-a7 for example.
#   cmake -S . -B build-arm --toolchain csrc/toolchains/arm-linux-gnueabihf.cmake
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR armv7l)
set(CMAKE_C_COMPILER arm-linux-gnueabihf-gcc)
find_program(ES2S_QEMU NAMES qemu-arm-static qemu-arm)
set(CMAKE_CROSSCOMPILING_EMULATOR ${ES2S_QEMU} -L /usr/arm-linux-gnueabihf)
