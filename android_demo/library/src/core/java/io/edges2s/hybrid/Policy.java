package io.edges2s.hybrid;

import io.edges2s.FinishReason;
import io.edges2s.Summary;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * What the user allows, with the names of the Python package's {@code edge_s2s.hybrid.Policy}. By default nothing leaves
 * the device.
 *
 * <p>Why the cloud was asked: {@code low_probability}, {@code unlikely_tokens}, {@code incomplete}, {@code too_long},
 * {@code mode}. Why it did not answer: {@code cloud_} and the reason of the {@link CloudException}, such as {@code
 * cloud_privacy}. The checks of numbers, names and loops and a bundle's calibration are the Python package's alone.
 */
public final class Policy {
    public enum Mode {
        PREFER_ON_DEVICE,
        ONLY_ON_DEVICE,
        PREFER_IN_CLOUD,
        ONLY_IN_CLOUD;

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    public enum Privacy {
        /** No connection is opened. */
        NEVER,
        /** The user decides for each text. */
        ASK,
        /** The text goes without what the app's {@link Redactor} finds. */
        REDACTED,
        /** The text goes as it is. */
        ALLOW;

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    public static final Policy DEFAULT = new Policy(Mode.PREFER_ON_DEVICE, Privacy.NEVER);

    static final double LOW_MEAN_LOGPROB = -1.0;
    static final double UNLIKELY = 0.05;
    static final int MAX_UNLIKELY_TOKENS = 1;

    public final Mode mode;
    public final Privacy privacy;

    public Policy(Mode mode, Privacy privacy) {
        this.mode = mode;
        this.privacy = privacy;
    }

    /** What speaks against an answer of the device. */
    public static List<String> doubts(Summary draft) {
        List<String> reasons = new ArrayList<>();
        double sum = 0;
        int unlikely = 0;
        for (float logprob : draft.tokenLogprobs) {
            sum += logprob;
            unlikely += logprob < Math.log(UNLIKELY) ? 1 : 0;
        }
        if (!draft.tokenLogprobs.isEmpty() && sum / draft.tokenLogprobs.size() < LOW_MEAN_LOGPROB) {
            reasons.add("low_probability");
        }
        if (unlikely > MAX_UNLIKELY_TOKENS) {
            reasons.add("unlikely_tokens");
        }
        if (draft.finishReason != FinishReason.EOS) {
            reasons.add("incomplete");
        }
        return reasons;
    }
}
