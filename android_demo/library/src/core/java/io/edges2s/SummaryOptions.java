package io.edges2s;

/** How to summarize, with the names of transformers' {@code generate}; null is what the bundle says. */
public final class SummaryOptions {
    /** What the bundle says, without a deadline. */
    public static final SummaryOptions DEFAULT = new SummaryOptions(null, null, null);

    public final Integer numBeams;
    public final Integer maxNewTokens;

    /** Milliseconds for the whole call; what is there then is the summary, with the finish reason {@code deadline}. */
    public final Long deadlineMs;

    private SummaryOptions(Integer numBeams, Integer maxNewTokens, Long deadlineMs) {
        this.numBeams = numBeams;
        this.maxNewTokens = maxNewTokens;
        this.deadlineMs = deadlineMs;
    }

    /** 1 is greedy search: the fastest, and pieces come token by token. */
    public SummaryOptions numBeams(int n) {
        return new SummaryOptions(atLeast("numBeams", n, 1), maxNewTokens, deadlineMs);
    }

    public SummaryOptions maxNewTokens(int n) {
        return new SummaryOptions(numBeams, atLeast("maxNewTokens", n, 1), deadlineMs);
    }

    public SummaryOptions deadlineMs(long ms) {
        if (ms < 0) {
            throw new IllegalArgumentException("deadlineMs: expected 0 or more, found " + ms);
        }
        return new SummaryOptions(numBeams, maxNewTokens, ms);
    }

    private static int atLeast(String name, int value, int least) {
        if (value < least) {
            throw new IllegalArgumentException(name + ": expected " + least + " or more, found " + value);
        }
        return value;
    }
}
