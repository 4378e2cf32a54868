package io.edges2s.hybrid;

/**
 * The cloud was not asked, or did not answer as it must; {@link #reason} says in one word why: {@code mode}, {@code
 * privacy}, {@code connect}, {@code timeout}, {@code status}, {@code invalid_response}, {@code too_large}, as in Python, and
 * two that are Java's alone: {@code cancelled}, and {@code exception} if what the app brings has thrown the cause.
 */
public final class CloudException extends Exception {
    private static final long serialVersionUID = 1L;

    public final String reason;

    public CloudException(String reason, String message) {
        this(reason, message, null);
    }

    public CloudException(String reason, String message, Throwable cause) {
        super(message, cause);
        this.reason = reason;
    }
}
