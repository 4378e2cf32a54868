package io.edges2s;

/** Why a summary ended, with the names that the Python package has. The order is that of {@code es2s_finish_reason}. */
public enum FinishReason {
    EOS,
    LENGTH,
    DEADLINE,
    CANCELLED;

    @Override
    public String toString() {
        return name().toLowerCase(java.util.Locale.ROOT);
    }
}
