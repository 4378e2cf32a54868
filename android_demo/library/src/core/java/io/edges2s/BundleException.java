package io.edges2s;

/** A bundle is damaged or hostile, or lacks the native encoder; the message says what was expected and found. */
public class BundleException extends EdgeS2SException {
    private static final long serialVersionUID = 1L;

    BundleException(int status, String message) {
        super(status, message);
    }
}
