# Android's target triples without an NDK: clang, our own declarations of what the core calls, and libraries that have
# nothing but names. It shows what would be linked; what it makes cannot run.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${ES2S_ANDROID_ARCH})
set(ANDROID TRUE)
set(CMAKE_C_COMPILER clang)
set(CMAKE_C_COMPILER_TARGET ${ES2S_ANDROID_TARGET})
set(CMAKE_HAVE_LIBC_PTHREAD TRUE) # as in bionic; what compiles proves nothing where nothing links
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ES2S_ANDROID_ARCH ES2S_ANDROID_TARGET ES2S_JNI_HEADERS)
set(CMAKE_C_FLAGS_INIT
  "-ffreestanding -nostdlibinc -isystem ${CMAKE_CURRENT_LIST_DIR}/include -isystem ${ES2S_JNI_HEADERS} -isystem ${ES2S_JNI_HEADERS}/linux")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-nostdlib -fuse-ld=lld -L${ES2S_STUBS}")
set(CMAKE_C_STANDARD_LIBRARIES "-lc ${ES2S_STUBS}/libbuiltins.a")
