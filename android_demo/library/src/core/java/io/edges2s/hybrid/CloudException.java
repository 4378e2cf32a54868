package io.edges2s.hybrid;

/**
 * The cloud was not asked, or did not answer as it must; {@link #reason} says in one word why: {@code mode}, {@code
 * privacy}, {@code connect}, {@code timeout}, {@code status}, {@code invalid_response}, {@code too_large}, as in Python, and
 * {@code cancelled}, which is Java's alone.
 */
public final class CloudException extends Exception {
    private static final long serialVersionUID = 1L;

    public final String reason;

    public CloudException(String reason, String message) {
        super(message);
        this.reason = reason;
    }
}
