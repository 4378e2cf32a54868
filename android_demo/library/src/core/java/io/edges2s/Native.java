package io.edges2s;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/** The C API, call by call, as {@code edge_s2s_jni.c} binds it. Handles are pointers: whoever holds one frees it. */
final class Native {
    static {
        System.loadLibrary("edge_s2s_jni");
    }

    private Native() {}

    /** Told of tokens that can no longer change, in the thread that generates. */
    interface OnTokens {
        void onTokens(int[] tokens);
    }

    static native long loadPath(byte[] pathUtf8, int numThreads);

    static native long loadFd(int fd, long offset, long length, int numThreads);

    static native void freeModel(long model);

    static native byte[] isa(long model);

    /** max_source_len, max_target_len, num_beams, max_new_tokens. */
    static native int[] limits(long model);

    static native int[] tokenize(long model, byte[] utf8, int capacity, int[] nOut);

    static native byte[] detokenize(long model, int[] ids, int n);

    static native long createSession(long model, int numBeams, int nSource, int nTarget);

    static native void freeSession(long session);

    static native long sessionMemory(long session);

    static native boolean encode(long model, long session, int[] ids, long deadlineMs, ByteBuffer cancel);

    static native int[] generate(
            long model,
            long session,
            int numBeams,
            int maxNewTokens,
            long deadlineMs,
            ByteBuffer cancel,
            OnTokens listener,
            float[] logprobsOut,
            int[] finishReasonOut);

    /** What a failure of the core is in Java; called by the JNI layer. */
    static Throwable exception(int status, byte[] messageUtf8) {
        String message = new String(messageUtf8, StandardCharsets.UTF_8);
        switch (status) {
            case EdgeS2SException.INVALID_ARGUMENT:
                return new IllegalArgumentException(message);
            case EdgeS2SException.OUT_OF_MEMORY:
                return new OutOfMemoryError(message);
            case EdgeS2SException.BAD_FORMAT:
                return new BundleException(status, message);
            case EdgeS2SException.UNSUPPORTED_VERSION:
                return new UnsupportedVersionException(message);
            default:
                return new EdgeS2SException(status, message);
        }
    }
}
