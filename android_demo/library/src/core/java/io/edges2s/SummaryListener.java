package io.edges2s;

/** Gets a summary while it is written, in the thread that writes it. What it throws ends the summary. */
public interface SummaryListener {
    /** The next piece of the text; it follows what came before it. */
    void onPiece(String piece);

    /** Another text takes the place of all pieces so far: the cloud's answer. */
    void onReplace(String text);
}
