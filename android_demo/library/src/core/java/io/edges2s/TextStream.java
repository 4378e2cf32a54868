package io.edges2s;

import java.util.Arrays;

/**
 * Turns tokens, as they come, into pieces of text which, joined, are the text of all of them. The end of a text may
 * still change, and waits for more: blanks depend on what follows, and a run of tokens that are one byte each becomes
 * U+FFFD as a whole if a later byte is wrong.
 */
final class TextStream implements Native.OnTokens {
    /** When the first piece was sent, by {@link System#nanoTime}; 0 if none was. */
    long firstPieceAt;

    private final Detokenizer detokenizer;
    private final SummaryListener listener;
    private int[] ids = new int[64];
    private int n;
    private int nSettled;
    private String sent = "";

    TextStream(Detokenizer detokenizer, SummaryListener listener) {
        this.detokenizer = detokenizer;
        this.listener = listener;
    }

    @Override
    public void onTokens(int[] tokens) {
        if (listener == null) {
            return;
        }
        if (n + tokens.length > ids.length) {
            ids = Arrays.copyOf(ids, 2 * (n + tokens.length));
        }
        for (int token : tokens) {
            ids[n++] = token;
            if (!detokenizer.mayChange(token)) {
                nSettled = n;
            }
        }
        send(settled(detokenizer.text(ids, nSettled)));
    }

    /** The text of all tokens, whose rest is sent. */
    String finish(int[] tokens) {
        String text = detokenizer.text(tokens, tokens.length);
        if (listener != null) {
            if (text.startsWith(sent)) {
                send(text);
            } else {
                listener.onReplace(text);
            }
        }
        return text;
    }

    private void send(String text) {
        if (text.length() > sent.length() && text.startsWith(sent)) {
            String piece = text.substring(sent.length());
            sent = text;
            firstPieceAt = firstPieceAt == 0 ? System.nanoTime() : firstPieceAt;
            listener.onPiece(piece);
        }
    }

    private static String settled(String text) {
        int end = text.length();
        while (end > 0 && " \t\r\n\ufffd".indexOf(text.charAt(end - 1)) >= 0) {
            end--;
        }
        return text.substring(0, end);
    }
}
