package io.edges2s;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** One text's way: tokens, encoder, decoder, text. The model stays open meanwhile. */
final class SummaryCall {
    private final EdgeS2S model;
    private final SummaryOptions options;
    private final Cancellation cancellation;
    private final TextStream stream;
    private final long start = System.nanoTime();

    SummaryCall(EdgeS2S model, SummaryOptions options, Cancellation cancellation, SummaryListener listener) {
        this.model = model;
        this.options = options;
        this.cancellation = cancellation;
        this.stream = new TextStream(model.detokenizer(), listener);
    }

    Summary run(String text) {
        int numBeams = model.numBeams(options);
        int maxNewTokens = model.maxNewTokens(options);
        int[] source = tokenize(text);
        long session = Native.createSession(model.handle(), numBeams, source.length, maxNewTokens);
        try {
            long encoding = System.nanoTime();
            boolean isRead = Native.encode(model.handle(), session, source, leftMs(), cancellation.flag);
            long decoding = System.nanoTime();
            int[] tokens = {};
            float[] logprobs = new float[maxNewTokens];
            int[] reason = {(cancellation.isCancelled() ? FinishReason.CANCELLED : FinishReason.DEADLINE).ordinal()};
            if (isRead) {
                tokens =
                        Native.generate(
                                model.handle(),
                                session,
                                numBeams,
                                maxNewTokens,
                                leftMs(),
                                cancellation.flag,
                                stream,
                                logprobs,
                                reason);
            }
            long end = System.nanoTime();
            String summary = stream.finish(tokens);
            double firstPieceMs = ms(start, stream.firstPieceAt == 0 ? end : stream.firstPieceAt);
            return new Summary(
                    summary,
                    Summary.DEVICE,
                    FinishReason.values()[reason[0]],
                    Collections.<String>emptyList(),
                    source.length,
                    first(logprobs, tokens.length),
                    new Summary.Timings(
                            ms(encoding, decoding), ms(decoding, end), firstPieceMs, ms(start, System.nanoTime())));
        } finally {
            Native.freeSession(session);
        }
    }

    private int[] tokenize(String text) {
        int[] n = new int[1];
        byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
        int[] ids = Native.tokenize(model.handle(), utf8, model.maxSourceTokens(), n);
        if (n[0] > ids.length) {
            throw new InputTooLongException(n[0], model.maxSourceTokens());
        }
        return ids;
    }

    /** Of the deadline, for the core: below 0 is none. */
    private long leftMs() {
        return options.deadlineMs == null
                ? -1
                : Math.max(0, options.deadlineMs - (System.nanoTime() - start) / 1_000_000);
    }

    private static double ms(long from, long to) {
        return (to - from) / 1e6;
    }

    private static List<Float> first(float[] values, int n) {
        List<Float> list = new ArrayList<>(n);
        for (int i = 0; i < n; i++) {
            list.add(values[i]);
        }
        return list;
    }
}
