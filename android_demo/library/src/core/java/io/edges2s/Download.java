package io.edges2s;

import io.edges2s.DownloadException.Reason;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.RandomAccessFile;
import java.net.HttpURLConnection;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/**
 * One file by HTTP, which exists under its name only when it is complete and right.
 *
 * <p>Until then it is {@code NAME.part}, beside it {@code NAME.tag}, which says what the server called this version: with
 * it, {@code If-Range} gets the rest of the same file, or all of another one.
 */
final class Download {
    private static final int BLOCK = 1 << 16;
    private static final int MAX_FAILURES = 5; // one after the other, without a byte between them
    private static final int CONNECT_MS = 15_000;
    private static final int READ_MS = 30_000;
    private static final int MAX_TAG = 1024;

    private final BundleSource source;
    private final File target;
    private final File part;
    private final File tag;

    Download(BundleSource source, File target) {
        this.source = source;
        this.target = target;
        this.part = new File(target.getPath() + ".part");
        this.tag = new File(target.getPath() + ".tag");
    }

    /** Whether there is room for what is missing; a folder that does not exist yet has that of the one above. */
    boolean fits() {
        File folder = folder();
        while (!folder.exists() && folder.getParentFile() != null) {
            folder = folder.getParentFile();
        }
        return folder.getUsableSpace() >= source.sizeBytes - part.length();
    }

    private File folder() {
        return target.getAbsoluteFile().getParentFile();
    }

    void run(DownloadListener listener, Cancellation cancellation) throws DownloadException {
        if (!fits()) {
            throw new DownloadException(Reason.STORAGE, "no room for " + source.sizeBytes + " bytes", null);
        }
        folder().mkdirs(); // where it cannot be made, the part cannot be written, and says so
        for (int failures = 0; part.length() != source.sizeBytes; ) {
            long before = part.length();
            try {
                receive(listener, cancellation);
            } catch (DownloadException e) {
                failures = part.length() > before ? 1 : failures + 1;
                if (e.reason != Reason.NETWORK || failures == MAX_FAILURES) {
                    throw e;
                }
                pause(250L << failures, cancellation);
            }
        }
        if (!sha256(part).equals(source.sha256)) {
            discard();
            throw new DownloadException(
                    Reason.WRONG_FILE, source.url + ": expected a file with SHA-256 " + source.sha256, null);
        }
        if (!part.renameTo(target)) {
            throw new DownloadException(Reason.STORAGE, target + ": cannot be written", null);
        }
        tag.delete();
    }

    private void receive(DownloadListener listener, Cancellation cancellation) throws DownloadException {
        HttpURLConnection connection = null;
        try {
            connection = (HttpURLConnection) source.url.openConnection();
            connection.setConnectTimeout(CONNECT_MS);
            connection.setReadTimeout(READ_MS);
            connection.setUseCaches(false);
            connection.setRequestProperty("Accept-Encoding", "identity");
            long have = part.length();
            if (have > 0) {
                connection.setRequestProperty("Range", "bytes=" + have + "-");
                if (tag.exists()) {
                    connection.setRequestProperty("If-Range", read(tag));
                }
            }
            long start = startOf(connection, have);
            if (start == 0) { // in this order: a tag is never beside bytes of another version
                tag.delete();
                empty();
                remember(connection.getHeaderField("ETag"));
            }
            try (InputStream body = connection.getInputStream()) {
                write(body, start, listener, cancellation);
            }
        } catch (DownloadException e) {
            throw e;
        } catch (IOException e) {
            throw new DownloadException(Reason.NETWORK, source.url + ": " + e.getMessage(), e);
        } finally {
            if (connection != null) {
                connection.disconnect();
            }
        }
    }

    /** At which byte of the file the body begins. */
    private long startOf(HttpURLConnection connection, long have) throws IOException {
        int status = connection.getResponseCode();
        if (status == HttpURLConnection.HTTP_PARTIAL) {
            String range = String.valueOf(connection.getHeaderField("Content-Range")).trim();
            if (range.equals("bytes " + have + "-" + (source.sizeBytes - 1) + "/" + source.sizeBytes)) {
                return have;
            }
            discard();
            throw new DownloadException(Reason.WRONG_FILE, source.url + ": an unexpected range, " + range, null);
        }
        if (status == HttpURLConnection.HTTP_OK) {
            String size = connection.getHeaderField("Content-Length");
            if (size != null && !size.trim().equals(Long.toString(source.sizeBytes))) {
                throw new DownloadException(
                        Reason.WRONG_FILE,
                        source.url + ": expected " + source.sizeBytes + " bytes, found " + size,
                        null);
            }
            return 0;
        }
        if (status == 416) { // the server has less than we already do
            discard();
        }
        boolean maySucceedLater = status == 408 || status == 416 || status == 429 || status >= 500;
        throw new DownloadException(
                maySucceedLater ? Reason.NETWORK : Reason.REFUSED, source.url + ": HTTP status " + status, null);
    }

    private void write(InputStream body, long start, DownloadListener listener, Cancellation cancellation)
            throws IOException {
        byte[] block = new byte[BLOCK];
        long have = start;
        RandomAccessFile file = null;
        try {
            file = storage(() -> new RandomAccessFile(part, "rw"));
            RandomAccessFile opened = file;
            storage(
                    () -> {
                        opened.seek(start);
                        return null;
                    });
            while (have < source.sizeBytes) {
                checkCancelled(cancellation);
                int n = body.read(block, 0, (int) Math.min(BLOCK, source.sizeBytes - have));
                if (n < 0) {
                    throw new IOException("the connection ended after " + have + " bytes");
                }
                storage(
                        () -> {
                            opened.write(block, 0, n);
                            return null;
                        });
                have += n;
                if (listener != null) {
                    listener.onProgress(have, source.sizeBytes);
                }
            }
            storage(
                    () -> {
                        opened.getFD().sync();
                        return null;
                    });
        } finally {
            if (file != null) {
                file.close();
            }
        }
    }

    private void empty() throws DownloadException {
        storage(
                () -> {
                    try (RandomAccessFile file = new RandomAccessFile(part, "rw")) {
                        file.setLength(0);
                    }
                    return null;
                });
    }

    private interface Write<T> {
        T run() throws IOException;
    }

    /** Tells a failure of the disk from one of the network. */
    private <T> T storage(Write<T> write) throws DownloadException {
        try {
            return write.run();
        } catch (IOException e) {
            throw new DownloadException(Reason.STORAGE, part + ": " + e.getMessage(), e);
        }
    }

    /** A weak tag may name two versions; without one the hash tells, at the end. */
    private void remember(String etag) throws DownloadException {
        if (etag != null && etag.startsWith("\"") && etag.length() <= MAX_TAG) {
            storage(
                    () -> {
                        try (RandomAccessFile file = new RandomAccessFile(tag, "rw")) {
                            file.write(etag.getBytes(StandardCharsets.ISO_8859_1));
                        }
                        return null;
                    });
        }
    }

    private static String read(File file) throws IOException {
        byte[] bytes = new byte[(int) Math.min(file.length(), MAX_TAG)];
        try (RandomAccessFile opened = new RandomAccessFile(file, "r")) {
            opened.readFully(bytes);
        }
        return new String(bytes, StandardCharsets.ISO_8859_1);
    }

    private void discard() {
        part.delete();
        tag.delete();
    }

    private static String sha256(File file) throws DownloadException {
        try (InputStream in = new FileInputStream(file)) {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            byte[] block = new byte[BLOCK];
            for (int n = in.read(block); n >= 0; n = in.read(block)) {
                digest.update(block, 0, n);
            }
            StringBuilder hex = new StringBuilder();
            for (byte b : digest.digest()) {
                hex.append(Character.forDigit(b >> 4 & 15, 16)).append(Character.forDigit(b & 15, 16));
            }
            return hex.toString();
        } catch (IOException e) {
            throw new DownloadException(Reason.STORAGE, file + ": " + e.getMessage(), e);
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e); // every Java platform has it
        }
    }

    private static void checkCancelled(Cancellation cancellation) throws DownloadException {
        if (cancellation.isCancelled()) {
            throw new DownloadException(Reason.CANCELLED, "the download was cancelled", null);
        }
    }

    private static void pause(long ms, Cancellation cancellation) throws DownloadException {
        try {
            for (long left = ms; left > 0; left -= 50) {
                checkCancelled(cancellation);
                Thread.sleep(Math.min(left, 50));
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new DownloadException(Reason.CANCELLED, "the download was interrupted", e);
        }
    }
}
