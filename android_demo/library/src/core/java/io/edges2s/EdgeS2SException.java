package io.edges2s;

/**
 * What a failure of the C core is in Java; {@link #status} is its {@code es2s_status}. Not what the caller could rule
 * out: wrong arguments are an {@link IllegalArgumentException}, exhausted memory is an {@link OutOfMemoryError}.
 */
public class EdgeS2SException extends RuntimeException {
    public static final int INVALID_ARGUMENT = -1;
    public static final int OUT_OF_MEMORY = -2;
    public static final int IO = -3;
    public static final int BAD_FORMAT = -4;
    public static final int UNSUPPORTED_VERSION = -5;
    public static final int UNSUPPORTED_CPU = -6;
    public static final int CAPACITY = -7;
    public static final int STATE = -8;
    public static final int CANCELLED = -9;

    private static final long serialVersionUID = 1L;

    public final int status;

    EdgeS2SException(int status, String message) {
        super(message);
        this.status = status;
    }
}
