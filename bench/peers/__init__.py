"""One module a peer: `prepare(checkpoint, folder)` once, then `load(folder, threads)` in its own process.

`load` returns `generate(input_ids, n_tokens) -> list[int]`: greedy, exactly `n_tokens` new tokens, batch 1.
`VERSION` names the library and its version.
"""
