package io.edges2s.hybrid;

/**
 * The cloud was not asked, or did not answer as it must; {@link #reason} says in one word why, as in Python: {@code mode},
 * {@code privacy}, {@code connect}, {@code timeout}, {@code status}, {@code invalid_response}.
 */
public final class CloudException extends Exception {
    private static final long serialVersionUID = 1L;

    public final String reason;

    public CloudException(String reason, String message) {
        super(message);
        this.reason = reason;
    }
}
