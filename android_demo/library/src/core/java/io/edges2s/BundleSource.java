package io.edges2s;

import java.net.MalformedURLException;
import java.net.URL;

/** Where a bundle comes from, and what it must be: an app ships the hash of the bundle that it was tested with. */
public final class BundleSource {
    public final URL url;
    public final long sizeBytes;

    /** 64 lower-case hexadecimal digits. */
    public final String sha256;

    public BundleSource(String url, long sizeBytes, String sha256) {
        try {
            this.url = new URL(url);
        } catch (MalformedURLException e) {
            throw new IllegalArgumentException("url: " + e.getMessage(), e);
        }
        if (sizeBytes < 1) {
            throw new IllegalArgumentException("sizeBytes: expected 1 or more, found " + sizeBytes);
        }
        if (!sha256.matches("[0-9a-f]{64}")) {
            throw new IllegalArgumentException("sha256: expected 64 lower-case hexadecimal digits, found " + sha256);
        }
        this.sizeBytes = sizeBytes;
        this.sha256 = sha256;
    }
}
