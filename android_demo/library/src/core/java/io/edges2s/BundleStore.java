package io.edges2s;

import java.io.File;

/**
 * The bundle of an app in its folder: available, or how to get it.
 *
 * <pre>{@code
 * BundleStore store = new BundleStore(context.getFilesDir(), source);
 * if (store.availability() != Availability.AVAILABLE) store.download(listener, cancellation);
 * EdgeS2S model = EdgeS2S.open(store.file());
 * }</pre>
 *
 * For any number of threads; a folder belongs to one store of one process.
 */
public final class BundleStore {
    private final BundleSource source;
    private final File file;
    private volatile boolean downloading;

    public BundleStore(File folder, BundleSource source) {
        this.source = source;
        // A name of its own for each content: a bundle that is open is never replaced.
        this.file = new File(folder, source.sha256.substring(0, 16) + ".es2s");
    }

    /** Where the bundle is, once it is available. */
    public File file() {
        return file;
    }

    public Availability availability() {
        if (!EdgeS2S.isSupported()) {
            return Availability.UNAVAILABLE;
        }
        if (file.length() == source.sizeBytes) { // it got this name after its hash was found right
            return Availability.AVAILABLE;
        }
        if (downloading) {
            return Availability.DOWNLOADING;
        }
        return new Download(source, file).fits() ? Availability.DOWNLOADABLE : Availability.UNAVAILABLE;
    }

    /** Downloads the bundle unless it is there; goes on where an earlier download was interrupted. Blocks. */
    public synchronized void download(DownloadListener listener, Cancellation cancellation)
            throws DownloadException {
        if (file.length() == source.sizeBytes) {
            return;
        }
        downloading = true;
        try {
            new Download(source, file).run(listener, cancellation);
        } finally {
            downloading = false;
        }
    }
}
