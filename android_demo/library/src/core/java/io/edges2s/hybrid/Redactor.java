package io.edges2s.hybrid;

/** Takes out of a text what nobody else may know, for {@link Policy.Privacy#REDACTED}. */
public interface Redactor {
    Redacted redact(String text);

    /** A text that may be sent. */
    interface Redacted {
        String text();

        /** Puts back into an answer what was taken out. */
        String restore(String answer);
    }
}
