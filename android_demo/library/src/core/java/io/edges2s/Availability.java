package io.edges2s;

/** What an app can do about a model, in the words of ML Kit's and the browsers' built-in models. */
public enum Availability {
    /** Not on this device: no library for its ABI, or no room for the bundle. */
    UNAVAILABLE,
    DOWNLOADABLE,
    DOWNLOADING,
    AVAILABLE
}
