/*
 * Of a bundle's manifest.json the core reads what decides whether it may open the bundle at all, in Python's
 * order: the format's version, the oldest runtime, the digest, and that nothing is required which it does not
 * know.
 */
#ifndef ES2S_MANIFEST_H
#define ES2S_MANIFEST_H

#include <stddef.h>

#include "edge_s2s.h"

/* json NULL: there is none. Fails with BAD_FORMAT, UNSUPPORTED_VERSION, OUT_OF_MEMORY. */
es2s_status es2s_manifest_check(const void *json, size_t size);

#endif
