package io.edges2s;

import java.io.IOException;

/** Why there is no bundle. What was received stays for the next attempt, unless the reason says that it was wrong. */
public final class DownloadException extends IOException {
    private static final long serialVersionUID = 1L;

    public enum Reason {
        /** No connection, or one that broke, too often. */
        NETWORK,
        /** The server answers that it does not have the file, or will not give it. */
        REFUSED,
        /** The server has a file of another size or hash. */
        WRONG_FILE,
        /** There is no room, or the system refuses to write. */
        STORAGE,
        CANCELLED
    }

    public final Reason reason;

    DownloadException(Reason reason, String message, Throwable cause) {
        super(message, cause);
        this.reason = reason;
    }
}
