package io.edges2s;

/** A listener that remembers. */
class Pieces implements SummaryListener {
    final StringBuilder text = new StringBuilder();
    int count;
    boolean replaced;

    @Override
    public void onPiece(String piece) {
        text.append(piece);
        count++;
    }

    @Override
    public void onReplace(String all) {
        text.setLength(0);
        text.append(all);
        replaced = true;
    }
}
