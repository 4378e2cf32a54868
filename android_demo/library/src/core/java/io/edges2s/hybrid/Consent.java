package io.edges2s.hybrid;

/** Asks the user, for {@link Policy.Privacy#ASK}, in the thread that summarizes. */
public interface Consent {
    /** Whether this text may be sent. */
    boolean maySend(String text);
}
