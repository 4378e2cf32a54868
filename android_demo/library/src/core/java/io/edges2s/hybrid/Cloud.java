package io.edges2s.hybrid;

/** An endpoint that summarizes; blocks. */
public interface Cloud {
    String summarize(String text) throws CloudException;
}
