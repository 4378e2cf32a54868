package io.edges2s;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** A summary and what is known about it. Names are those of the Python package's {@code Generation}. */
public final class Summary {
    public static final String DEVICE = "device";
    public static final String CLOUD = "cloud";

    public final String text;

    /** {@link #DEVICE} or {@link #CLOUD}. */
    public final String origin;

    /** {@link FinishReason#EOS} for the cloud, which does not say. */
    public final FinishReason finishReason;

    /** Why the cloud was asked, and why it did not answer; {@link io.edges2s.hybrid.Policy} has the words. */
    public final List<String> reasons;

    /** Tokens of the text that was read; 0 for the cloud. */
    public final int sourceTokens;

    /** Of each token of the summary, before any rule; empty for the cloud. */
    public final List<Float> tokenLogprobs;

    public final Timings timings;

    public Summary(
            String text,
            String origin,
            FinishReason finishReason,
            List<String> reasons,
            int sourceTokens,
            List<Float> tokenLogprobs,
            Timings timings) {
        this.text = text;
        this.origin = origin;
        this.finishReason = finishReason;
        this.reasons = Collections.unmodifiableList(new ArrayList<>(reasons));
        this.sourceTokens = sourceTokens;
        this.tokenLogprobs = Collections.unmodifiableList(new ArrayList<>(tokenLogprobs));
        this.timings = timings;
    }

    /** The same with other reasons. */
    public Summary withReasons(List<String> others) {
        return new Summary(text, origin, finishReason, others, sourceTokens, tokenLogprobs, timings);
    }

    /** Of decoding; 0 if nothing was decoded. */
    public double tokensPerSecond() {
        return timings.decodeMs > 0 ? 1000 * tokenLogprobs.size() / timings.decodeMs : 0;
    }

    /** Milliseconds of wall time. */
    public static final class Timings {
        public final double encodeMs;
        public final double decodeMs;

        /** From the call to the first piece, or to the end if there was none. */
        public final double firstPieceMs;

        public final double totalMs;

        public Timings(double encodeMs, double decodeMs, double firstPieceMs, double totalMs) {
            this.encodeMs = encodeMs;
            this.decodeMs = decodeMs;
            this.firstPieceMs = firstPieceMs;
            this.totalMs = totalMs;
        }
    }
}
