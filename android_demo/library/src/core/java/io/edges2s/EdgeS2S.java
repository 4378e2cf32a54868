package io.edges2s;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/**
 * A model, open: a text in, a summary out, on this device.
 *
 * <pre>{@code
 * try (EdgeS2S model = EdgeS2S.open(new File("summarizer.es2s"))) {
 *     Summary summary = model.summarize(text, listener);   // blocks: call it in a thread of your own
 * }
 * }</pre>
 *
 * For any number of threads, each of which summarizes a text of its own. The bundle has to be one that {@code
 * edge-s2s-export convert --encoder native} has written, and must not change while it is open.
 */
public final class EdgeS2S implements AutoCloseable {
    private final long model;
    private final int maxSourceTokens;
    private final int maxTargetTokens;
    private final int numBeams;
    private final int maxNewTokens;
    private final Detokenizer detokenizer;

    /** Calls that use the model; the last one frees it after {@link #close}. Guarded by itself. */
    private final List<Cancellation> running = new ArrayList<>();

    private boolean closed;

    private EdgeS2S(long model) {
        this.model = model;
        int[] limits = Native.limits(model);
        maxSourceTokens = limits[0];
        maxTargetTokens = limits[1];
        numBeams = limits[2];
        maxNewTokens = limits[3];
        detokenizer = new Detokenizer(model, maxSourceTokens);
    }

    /** Opens a bundle, a folder or an {@code .es2s}, for one thread; its files are mapped, not read into memory. */
    public static EdgeS2S open(File bundle) {
        return open(bundle, 1);
    }

    /**
     * The same with up to {@code numThreads} threads for one summary.
     *
     * @throws BundleException if the bundle is damaged, or {@link UnsupportedVersionException} if it is too new
     * @throws EdgeS2SException with {@link EdgeS2SException#IO} if it cannot be read
     */
    public static EdgeS2S open(File bundle, int numThreads) {
        byte[] path = bundle.getPath().getBytes(StandardCharsets.UTF_8);
        return own(Native.loadPath(path, checkThreads(numThreads)));
    }

    /**
     * Opens a part of a file, such as an uncompressed asset inside an APK, which is used in place. The descriptor may be
     * closed afterwards.
     */
    public static EdgeS2S open(int fd, long offset, long length, int numThreads) {
        return own(Native.loadFd(fd, offset, length, checkThreads(numThreads)));
    }

    /** Java's part of a model, which has none if there is no memory for it. */
    private static EdgeS2S own(long model) {
        boolean isOwned = false;
        try {
            EdgeS2S owner = new EdgeS2S(model);
            isOwned = true;
            return owner;
        } finally {
            if (!isOwned) {
                Native.freeModel(model);
            }
        }
    }

    /** Whether the library of the core is there for this device's ABI. */
    public static boolean isSupported() {
        try {
            Class.forName("io.edges2s.Native");
            return true;
        } catch (ClassNotFoundException | LinkageError e) {
            return false;
        }
    }

    /** With the bundle's settings. Blocks until the summary is there; {@code listener} may be null. */
    public Summary summarize(String text, SummaryListener listener) {
        return summarize(text, SummaryOptions.DEFAULT, new Cancellation(), listener);
    }

    /**
     * Summarizes a text that fits into one pass. After {@code cancellation}, or the deadline, what is there is returned.
     *
     * @throws InputTooLongException for more than {@link #maxSourceTokens()} tokens
     * @throws IllegalArgumentException for a blank text, or options that the model does not have
     * @throws IllegalStateException if the model is closed
     */
    public Summary summarize(
            String text, SummaryOptions options, Cancellation cancellation, SummaryListener listener) {
        if (text.trim().isEmpty()) {
            throw new IllegalArgumentException("the text is blank");
        }
        enter(cancellation);
        try {
            return new SummaryCall(this, options, cancellation, listener).run(text);
        } finally {
            leave(cancellation);
        }
    }

    /** Ends the summaries that are being written; each returns what it has. */
    public void cancel() {
        synchronized (running) {
            for (Cancellation cancellation : running) {
                cancellation.cancel();
            }
        }
    }

    /** Cancels what runs and lets go of the model, at once or after the last call has returned. */
    @Override
    public void close() {
        synchronized (running) {
            if (closed) {
                return;
            }
            closed = true;
            try {
                cancel();
            } finally {
                freeIfUnused();
            }
        }
    }

    /** The longest text in one pass. */
    public int maxSourceTokens() {
        return maxSourceTokens;
    }

    /** The kernels in use, such as {@code neon_dotprod}. */
    public String isa() {
        Cancellation unused = new Cancellation();
        enter(unused);
        try {
            return new String(Native.isa(model), StandardCharsets.UTF_8);
        } finally {
            leave(unused);
        }
    }

    long handle() {
        return model;
    }

    Detokenizer detokenizer() {
        return detokenizer;
    }

    int numBeams(SummaryOptions options) {
        return options.numBeams == null ? numBeams : options.numBeams;
    }

    int maxNewTokens(SummaryOptions options) {
        int wanted = options.maxNewTokens == null ? maxNewTokens : options.maxNewTokens;
        if (wanted > maxTargetTokens) {
            throw new IllegalArgumentException(
                    "maxNewTokens: expected up to " + maxTargetTokens + ", found " + wanted);
        }
        return wanted;
    }

    private static int checkThreads(int numThreads) {
        if (numThreads < 1 || numThreads > 64) {
            throw new IllegalArgumentException("numThreads: expected 1..64, found " + numThreads);
        }
        return numThreads;
    }

    private void enter(Cancellation cancellation) {
        synchronized (running) {
            if (closed) {
                throw new IllegalStateException("the model is closed");
            }
            running.add(cancellation);
        }
    }

    private void leave(Cancellation cancellation) {
        synchronized (running) {
            running.remove(cancellation);
            if (closed) {
                freeIfUnused();
            }
        }
    }

    private void freeIfUnused() {
        if (running.isEmpty()) {
            Native.freeModel(model);
        }
    }
}
