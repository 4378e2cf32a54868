package io.edges2s;

/** Gets the progress of a download, in the thread that downloads. */
public interface DownloadListener {
    /** Begins at what an earlier attempt has left. */
    void onProgress(long doneBytes, long totalBytes);
}
