package io.edges2s;

import java.nio.charset.StandardCharsets;

/** Texts of tokens, and which of them later tokens may change. */
final class Detokenizer {
    private static final int NOT_SOUGHT = -2;
    private static final int NONE = -1;

    private final long model;
    private final int vocabSize;

    /** A token that is a byte of no character when it is alone. */
    private volatile int loneByte = NOT_SOUGHT;

    Detokenizer(long model, int vocabSize) {
        this.model = model;
        this.vocabSize = vocabSize;
    }

    /** Of the first {@code n} tokens, without special ones. */
    String text(int[] ids, int n) {
        return new String(Native.detokenize(model, ids, n), StandardCharsets.UTF_8);
    }

    /**
     * Whether a token's text may be another one when more tokens follow it: some models have tokens for single bytes, a run
     * of which becomes U+FFFD as a whole if a later one does not fit. A byte that fits nowhere tells.
     */
    boolean mayChange(int token) {
        int wrong = loneByte();
        return wrong != NONE && !text(new int[] {token, wrong}, 2).equals(text(new int[] {token}, 1) + "\ufffd");
    }

    private int loneByte() {
        if (loneByte == NOT_SOUGHT) {
            int found = NONE;
            for (int id = vocabSize - 1; id >= 0 && found == NONE; id--) { // of 256 bytes the last is never right
                found = text(new int[] {id}, 1).equals("\ufffd") ? id : NONE;
            }
            loneByte = found;
        }
        return loneByte;
    }
}
