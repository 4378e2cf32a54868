package io.edges2s;

/** A bundle that a newer exporter has written: the app has to be updated, not the bundle to be downloaded again. */
public final class UnsupportedVersionException extends BundleException {
    private static final long serialVersionUID = 1L;

    UnsupportedVersionException(String message) {
        super(UNSUPPORTED_VERSION, message);
    }
}
