package io.edges2s;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * Ends a summary or a download that another thread runs, once and for all. The core polls the flag in each layer and
 * each step, the download at each block.
 */
public final class Cancellation {
    /** An int that C reads while Java writes it; direct, so that it does not move. */
    final ByteBuffer flag = ByteBuffer.allocateDirect(4).order(ByteOrder.nativeOrder());

    private volatile boolean cancelled;

    public void cancel() {
        flag.putInt(0, 1);
        cancelled = true;
    }

    public boolean isCancelled() {
        return cancelled || flag.getInt(0) != 0; // C may have seen the one before Java sees the other
    }
}
