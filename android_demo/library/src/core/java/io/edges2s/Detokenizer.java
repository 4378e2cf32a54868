package io.edges2s;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Texts of tokens, and which of them later tokens may change. */
final class Detokenizer {
    private static final int NOT_SOUGHT = -2;
    private static final int NONE = -1;

    /** The last code point, which has no token of its own: it is written in bytes, if the model has tokens for bytes. */
    private static final String RAREST = "\udbff\udfff";

    private final long model;
    private final int maxSourceTokens;

    /** Where a run of bytes changes as a whole: one that begins a character, and so is wrong after any other. */
    private volatile int wrongByte = NOT_SOUGHT;

    Detokenizer(long model, int maxSourceTokens) {
        this.model = model;
        this.maxSourceTokens = maxSourceTokens;
    }

    /** Without special tokens. */
    String text(int... ids) {
        return text(ids, ids.length);
    }

    /** Of the first {@code n} tokens. */
    String text(int[] ids, int n) {
        return new String(Native.detokenize(model, ids, n), StandardCharsets.UTF_8);
    }

    /**
     * Whether a token's text may be another one when more tokens follow it: some models have tokens for single bytes, a run
     * of which becomes U+FFFD as a whole if a later one does not fit.
     */
    boolean mayChange(int token) {
        if (wrongByte == NOT_SOUGHT) {
            wrongByte = findWrongByte();
        }
        if (wrongByte == NONE) {
            return false;
        }
        String alone = text(token);
        return alone.equals("\ufffd") || !text(token, wrongByte).equals(alone + "\ufffd");
    }

    private int findWrongByte() {
        byte[] utf8 = RAREST.getBytes(StandardCharsets.UTF_8);
        int[] ids = Native.tokenize(model, utf8, maxSourceTokens, new int[1]);
        for (int i = 0; i < ids.length; i++) {
            if (text(ids[i]).equals("\ufffd")) {
                int[] cutOff = Arrays.copyOfRange(ids, i, ids.length + 1); // the character, and the first byte of another
                cutOff[ids.length - i] = ids[i];
                return text(cutOff).contains(RAREST) ? NONE : ids[i];
            }
        }
        return NONE;
    }
}
