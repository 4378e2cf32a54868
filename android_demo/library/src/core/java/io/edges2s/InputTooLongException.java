package io.edges2s;

/** A text has more tokens than the model reads in one pass. */
public final class InputTooLongException extends IllegalArgumentException {
    private static final long serialVersionUID = 1L;

    public final int tokens;
    public final int maxTokens;

    InputTooLongException(int tokens, int maxTokens) {
        super("the text has " + tokens + " tokens, but this model reads at most " + maxTokens);
        this.tokens = tokens;
        this.maxTokens = maxTokens;
    }
}
