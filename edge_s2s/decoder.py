"""The decoder: a typed face of the C core. The only module that touches the compiled one.

    decoder = DecoderModel(weights, num_threads=2)
    with decoder.session(1, 4, source_len, 96) as session:
        session.set_source(0, cross_kv)
        [hypotheses] = session.generate(params)

Calls release the GIL. `csrc/include/edge_s2s.h` says what each one does. A model has threads, which do not
come along into a forked process: there, using it is a RuntimeError and freeing it does nothing.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_s2s.errors import BundleError, CoreError, UnsupportedVersionError
from edge_s2s.manifest import GenerationDefaults
from edge_s2s.weights import FILE as WEIGHTS
from edge_s2s.weights import Buffer

try:
    from edge_s2s._core import ffi, lib
except ModuleNotFoundError as error:
    raise ImportError(
        "edge_s2s was imported from its source tree, where the C core is not compiled: "
        "start Python in another folder, set PYTHONSAFEPATH=1, or install with pip install -e ."
    ) from error

Floats: TypeAlias = npt.NDArray[np.float32]
FinishReason: TypeAlias = Literal["eos", "length", "deadline", "cancelled"]
Ints: TypeAlias = npt.NDArray[np.int32]
LogitsProcessor: TypeAlias = Callable[[Ints, Floats], npt.ArrayLike | None]
"""Gets the history int32 [1, len], from the start token on, and the next token's scores float32
[1, vocab_size]; changes them in place or returns others. As in transformers, one row at a time."""
OnTokens: TypeAlias = Callable[[int, list[int]], None]
"""Gets a source's row and the next tokens of its first sequence that can no longer change."""

_FINISH_REASONS: tuple[FinishReason, ...] = ("eos", "length", "deadline", "cancelled")  # es2s_finish_reason
_ROOM = 256  # for what a text's size does not tell: prefix, control tokens, long names
_EARLY_STOPPING = {False: 0, True: 1, "never": 2}  # es2s_early_stopping


@dataclass(frozen=True)
class Dims:
    """Sizes and special tokens of a decoder; -1 where it has no such token."""

    vocab_size: int
    d_model: int
    d_ff: int
    n_layers: int
    n_heads: int
    d_head: int
    max_source_len: int
    max_target_len: int
    decoder_start_token_id: int
    eos_token_id: int
    pad_token_id: int
    source_vocab_size: int


@dataclass(frozen=True)
class Hypothesis:
    """A decoded sequence: token ids without start token and prefix, with EOS; scores as in edge_s2s.h."""

    token_ids: tuple[int, ...]
    score: float
    token_logprobs: tuple[float, ...]
    finish_reason: FinishReason


class Cancellation:
    """Ends a running `generate` within one step; any thread may call `cancel`, for good."""

    def __init__(self) -> None:
        self.flag = ffi.new("int32_t *")

    def cancel(self) -> None:
        """Sets the flag."""
        self.flag[0] = 1

    @property
    def is_cancelled(self) -> bool:
        """Whether it was set."""
        return bool(self.flag[0])


def supported_isas() -> list[str]:
    """Kernel sets that this CPU can run, narrowest first."""
    isas: list[str] = ffi.string(lib.es2s_supported_isas()).decode().split()
    return isas


def available_memory(root: str = "/") -> int | None:
    """Bytes that the system and this process's control groups have left; None where nobody tells.

    `root` is the folder with proc and sys.
    """
    left: int = lib.es2s_available_memory(root.encode())
    return None if left == (1 << 64) - 1 else left


def release_memory() -> None:
    """Gives back to the system what the heap holds and nothing uses, where it can (glibc)."""
    lib.es2s_release_memory()


class DecoderModel:
    """The immutable weights of a decoder; any number of threads may share it.

    `weights` are the bytes of decoder.weights, `encoder` those of encoder.weights if sessions are to encode,
    `tokenizer` those of tokenizer.table if the model is to tokenize; used in place and kept alive as long as
    the model or a session of it lives. `num_threads` may work on one call, the caller's included. `isa`
    forces a kernel set, None takes the widest that the CPU has. `pin_threads` keeps all threads but the
    caller's to the fast cores. `verify=False` skips the SHA-256, for bytes already verified. `is_mapped` says
    that `weights` is a read-only mapping of a file, of which pages may be let go.
    """

    def __init__(
        self,
        weights: Buffer,
        *,
        encoder: Buffer | None = None,
        tokenizer: Buffer | None = None,
        num_threads: int = 1,
        isa: str | None = None,
        pin_threads: bool = False,
        verify: bool = True,
        is_mapped: bool = False,
    ) -> None:
        data = ffi.from_buffer(weights)
        encoder_data = None if encoder is None else ffi.from_buffer(encoder)
        tokenizer_data = None if tokenizer is None else ffi.from_buffer(tokenizer)
        isa_name = ffi.NULL if isa is None else ffi.new("char[]", isa.encode())
        params = ffi.new("es2s_model_params *")
        lib.es2s_model_params_init(params)
        params.n_threads, params.isa, params.verify_data = num_threads, isa_name, verify
        params.pin_threads, params.is_mapped = pin_threads, is_mapped
        if encoder_data is not None:
            params.encoder, params.encoder_size = encoder_data, len(encoder_data)
        if tokenizer_data is not None:
            params.tokenizer, params.tokenizer_size = tokenizer_data, len(tokenizer_data)
        out = ffi.new("es2s_model **")
        _check(lib.es2s_model_load_memory(data, len(data), params, out))
        self._pid = os.getpid()
        self._model = _owned(out[0], lib.es2s_model_free, self._pid, (data, encoder_data, tokenizer_data))
        dims = ffi.new("es2s_model_dims *", {"struct_size": ffi.sizeof("es2s_model_dims")})
        _check(lib.es2s_model_get_dims(self._model, dims))
        self.dims = Dims(**{name: getattr(dims, name) for name in Dims.__dataclass_fields__})
        self.isa: str = ffi.string(lib.es2s_model_isa(self._model)).decode()
        self.num_threads = num_threads

    def embed(self, token_ids: npt.ArrayLike) -> Floats:
        """Input embeddings float32 [n, d_model] of int token_ids [n], as the encoder takes them."""
        _check_process(self._pid)
        ids = np.ascontiguousarray(token_ids, np.int32)
        embeds = np.empty((len(ids), self.dims.d_model), np.float32)
        _check(lib.es2s_model_embed(self._model, _ints(ids), len(ids), _floats(embeds)))
        return embeds

    def tokenize(self, text: str) -> list[int]:
        """The input ids of a text, prefix and control tokens included, by the model's own tokenizer."""
        data, n = text.encode("utf-8", "surrogatepass"), ffi.new("size_t *")
        ids = np.empty(len(data) + _ROOM, np.int32)
        _check(lib.es2s_model_tokenize(self._model, data, len(data), _ints(ids), len(ids), n))
        if n[0] > len(ids):
            ids = np.empty(n[0], np.int32)
            _check(lib.es2s_model_tokenize(self._model, data, len(data), _ints(ids), len(ids), n))
        found: list[int] = ids[: n[0]].tolist()
        return found

    def detokenize(self, token_ids: npt.ArrayLike) -> str:
        """The text of token ids, by the model's own tokenizer."""
        ids, n = np.ascontiguousarray(token_ids, np.int32), ffi.new("size_t *")
        text = ffi.new("char[]", 16 * len(ids) + _ROOM)
        arguments = (self._model, _ints(ids), len(ids))
        _check(lib.es2s_model_detokenize(*arguments, text, len(text), n))
        if n[0] > len(text):
            text = ffi.new("char[]", n[0])
            _check(lib.es2s_model_detokenize(*arguments, text, len(text), n))
        return bytes(ffi.buffer(text, n[0])).decode()

    def session(
        self,
        max_batch: int,
        max_beams: int,
        max_source_len: int,
        max_target_len: int,
        *,
        keep_cross_attention: bool = False,
        max_draft_tokens: int = 0,
    ) -> "DecoderSession":
        """Room for so many sources, beams of each, tokens of a source and new tokens, and tokens of a draft.

        And for the weights of cross-attention, if `DecoderSession.cross_attention` is to give them.
        """
        _check_process(self._pid)
        params = ffi.new("es2s_session_params *")
        lib.es2s_session_params_init(params)
        params.max_batch, params.max_beams = max_batch, max_beams
        params.max_source_len, params.max_target_len = max_source_len, max_target_len
        params.keep_cross_attention = keep_cross_attention
        params.max_draft_tokens = max_draft_tokens
        out = ffi.new("es2s_session **")
        _check(lib.es2s_session_create(self._model, params, out))
        session = _owned(out[0], lib.es2s_session_free, self._pid, self._model)
        return DecoderSession(session, self._model, self.dims)


class DecoderSession:
    """KV cache and scratch of a decoder; one thread at a time. `DecoderModel.session` makes it."""

    def __init__(self, session: Any, model: Any, dims: Dims) -> None:
        self._session = session
        self._model = model
        self._dims = dims
        self._pid = os.getpid()
        self._n_sources = 0
        self._source_lens: dict[int, int] = {}
        self._rows_per_source = 1

    @property
    def size_bytes(self) -> int:
        """Memory that the session holds."""
        return int(lib.es2s_session_memory(self._session))

    @property
    def n_steps(self) -> int:
        """Decoder steps of the last `generate`; with prompt lookup fewer than tokens."""
        return int(lib.es2s_session_n_steps(self._session))

    def set_source(self, row: int, cross_kv: Floats, source_ids: npt.ArrayLike | None = None) -> None:
        """Copies an encoder's output float32 [n_layers, 2, n_heads, source_len, d_head] into a row.

        The rules `encoder_*` of generate need its tokens, too: int source_ids [source_len].
        """
        dims = self._dims
        expected = (dims.n_layers, 2, dims.n_heads, *cross_kv.shape[3:4], dims.d_head)
        if cross_kv.shape != expected:
            raise ValueError(f"cross_kv: expected [n_layers, 2, n_heads, source_len, d_head], {expected}, "
                             f"found {cross_kv.shape}")  # fmt: skip
        cross_kv = np.ascontiguousarray(cross_kv, np.float32)
        _check(lib.es2s_session_set_source(self._session, row, _floats(cross_kv), cross_kv.shape[3]))
        self._n_sources = max(self._n_sources, row + 1)
        self._source_lens[row] = cross_kv.shape[3]
        if source_ids is not None:
            ids = np.ascontiguousarray(source_ids, np.int32)
            _check(lib.es2s_session_set_source_ids(self._session, row, _ints(ids), len(ids)))

    def encode(
        self,
        row: int,
        token_ids: npt.ArrayLike,
        *,
        keep_ids: bool = False,
        deadline_ms: int | None = None,
        cancellation: Cancellation | None = None,
    ) -> Floats | None:
        """Reads a source, int token_ids [n], into a row by the model's own encoder.

        `keep_ids` if rules `encoder_*` are to see them. Returns the mean of the last hidden states, float32
        [d_model]; None, and the row has no source, if it was cancelled or late.
        """
        _check_process(self._pid)
        ids = np.ascontiguousarray(token_ids, np.int32)
        flag = ffi.NULL if cancellation is None else cancellation.flag
        ms = -1 if deadline_ms is None else max(deadline_ms, 0)
        mean = np.empty(self._dims.d_model, np.float32)
        status = lib.es2s_session_encode(self._session, row, _ints(ids), len(ids), ms, flag, _floats(mean))
        if status == lib.ES2S_CANCELLED:
            return None
        _check(status)
        self._n_sources = max(self._n_sources, row + 1)
        self._source_lens[row] = len(ids)
        if keep_ids:
            _check(lib.es2s_session_set_source_ids(self._session, row, _ints(ids), len(ids)))
        return mean

    def source(self, row: int) -> Floats:
        """The source of a row, as `set_source` takes it."""
        dims = self._dims
        shape = (dims.n_layers, 2, dims.n_heads, self._source_lens.get(row, 0), dims.d_head)
        cross_kv = np.empty(shape, np.float32)
        _check(lib.es2s_session_get_source(self._session, row, _floats(cross_kv)))
        return cross_kv

    def clear(self) -> None:
        """Forgets all sources."""
        lib.es2s_session_clear(self._session)
        self._n_sources = 0

    def step(self, tokens: npt.ArrayLike) -> Floats:
        """One step of every row: int tokens [n_rows] -> logits float32 [n_rows, vocab_size]."""
        _check_process(self._pid)
        ids = np.ascontiguousarray(tokens, np.int32)
        logits = np.empty((len(ids), self._dims.vocab_size), np.float32)
        _check(lib.es2s_session_step(self._session, _ints(ids), len(ids), _floats(logits)))
        self._rows_per_source = len(ids) // self._n_sources
        return logits

    def cross_attention(self, row: int) -> Floats:
        """How a row attended to its source in the last step: float32 [n_layers, n_heads, source_len].

        Only right after `step`, and if the session keeps it.
        """
        source_len = self._source_lens.get(row // self._rows_per_source, 0)
        weights = np.empty((self._dims.n_layers, self._dims.n_heads, source_len), np.float32)
        _check(lib.es2s_session_cross_attention(self._session, row, _floats(weights)))
        return weights

    def reorder_cache(self, beam_idx: npt.ArrayLike) -> None:
        """Before the next step, row i continues row beam_idx[i]."""
        rows = np.ascontiguousarray(beam_idx, np.int32)
        _check(lib.es2s_session_reorder_cache(self._session, _ints(rows), len(rows)))

    def generate(
        self,
        params: GenerationDefaults,
        *,
        prefixes: Sequence[Sequence[int]] | None = None,
        seeds: Sequence[int] | None = None,
        deadline_ms: int | None = None,
        on_tokens: OnTokens | None = None,
        logits_processors: Sequence[LogitsProcessor | None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> list[list[Hypothesis]]:
        """Greedy search, sampling or beam search over all sources set.

        For each its `num_return_sequences` best, best first, or as many draws, which depend on its seed: one
        of `seeds` for each source, by default 0. One of `prefixes` for each source is what its sequences
        begin with after the start token.

        `logits_processors` has one for each source, called after all rules. They may use the model, but not
        this session. What a callback raises ends the search and is raised here.
        """
        _check_process(self._pid)
        n, n_sources, max_new_tokens = params.num_return_sequences, self._n_sources, params.max_new_tokens
        c_params, _kept_alive = self._generate_params(params)
        for name, values in (
            ("seeds", seeds),
            ("prefixes", prefixes),
            ("logits_processors", logits_processors),
        ):
            if values is not None and len(values) != n_sources:
                raise ValueError(f"{name}: expected one for each of {n_sources} sources, found {len(values)}")
        if seeds is not None:
            kept_seeds = ffi.new("uint64_t[]", list(seeds))
            c_params.seeds = kept_seeds
        if prefixes is not None:
            kept_prefixes = ffi.new("int32_t[]", [token for prefix in prefixes for token in prefix])
            kept_lens = ffi.new("int32_t[]", [len(prefix) for prefix in prefixes])
            c_params.prefix_ids, c_params.prefix_lens = kept_prefixes, kept_lens
        if deadline_ms is not None:
            c_params.deadline_ms = max(deadline_ms, 0)
        if cancellation is not None:
            c_params.cancel = cancellation.flag
        callbacks = _Callbacks(on_tokens, logits_processors)
        handle = ffi.new_handle(callbacks)
        c_params.user = handle
        if on_tokens is not None:
            c_params.on_tokens = lib.es2s_python_on_tokens
        if logits_processors is not None:
            c_params.logits_processor = lib.es2s_python_logits_processor
        tokens = np.empty((n_sources, n, max_new_tokens), np.int32)
        logprobs = np.empty((n_sources, n, max_new_tokens), np.float32)
        lens, reasons = np.empty((2, n_sources, n), np.int32)
        scores = np.empty((n_sources, n), np.float32)
        outputs = (_ints(tokens), _ints(lens), _floats(scores), _floats(logprobs), _ints(reasons))
        status = lib.es2s_session_generate(self._session, c_params, *outputs)
        if callbacks.error is not None:
            raise callbacks.error
        _check(status)
        return [
            [
                Hypothesis(
                    tuple(tokens[i, j, : lens[i, j]].tolist()),
                    float(scores[i, j]),
                    tuple(logprobs[i, j, : lens[i, j]].tolist()),
                    _FINISH_REASONS[reasons[i, j]],
                )
                for j in range(n)
            ]
            for i in range(n_sources)
        ]

    def _generate_params(self, params: GenerationDefaults) -> tuple[Any, dict[str, Any]]:
        """`es2s_generate_params *` and the arrays that it points to."""
        c_params = ffi.new("es2s_generate_params *")
        lib.es2s_generate_params_init(self._model, c_params)
        for name in ("num_beams", "num_return_sequences", "max_new_tokens", "min_new_tokens",
                     "no_repeat_ngram_size", "repetition_penalty", "length_penalty",
                     "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "do_sample", "temperature",
                     "top_k", "top_p", "min_p", "typical_p", "num_beam_groups",
                     "diversity_penalty", "renormalize_logits", "prompt_lookup_num_tokens"):  # fmt: skip
            setattr(c_params, name, getattr(params, name))
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            token = getattr(params, name)
            setattr(c_params, name, -1 if token is None else token)
        c_params.early_stopping = _EARLY_STOPPING[params.early_stopping]
        start, factor = params.exponential_decay_length_penalty
        c_params.exponential_decay_start, c_params.exponential_decay_factor = start, factor

        bad_words, biases = params.bad_words_ids, params.sequence_bias
        arrays = {
            "suppress_tokens": params.suppress_tokens,
            "begin_suppress_tokens": params.begin_suppress_tokens,
            "bad_words_ids": [token for word in bad_words for token in word],
            "bad_words_lens": [len(word) for word in bad_words],
            "sequence_bias_ids": [token for word, _ in biases for token in word],
            "sequence_bias_lens": [len(word) for word, _ in biases],
        }
        kept_alive = {name: ffi.new("int32_t[]", values) for name, values in arrays.items()}
        kept_alive["sequence_bias"] = ffi.new("float[]", [bias for _, bias in biases])
        for name, array in kept_alive.items():
            setattr(c_params, name, array)
        c_params.n_suppress_tokens = len(params.suppress_tokens)
        c_params.n_begin_suppress_tokens = len(params.begin_suppress_tokens)
        c_params.n_bad_words, c_params.n_sequence_bias = len(bad_words), len(biases)
        return c_params, kept_alive

    def close(self) -> None:
        """Frees the memory now; the session can do nothing any more."""
        if self._session != ffi.NULL:
            ffi.release(self._session)
            self._session = ffi.NULL

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Callbacks:
    """What `user` of the callbacks points to. C cannot raise: exceptions wait here for the search to end."""

    def __init__(
        self, on_tokens: OnTokens | None, logits_processors: Sequence[LogitsProcessor | None] | None
    ) -> None:
        self.on_tokens = on_tokens
        self.logits_processors = logits_processors or ()
        self.error: BaseException | None = None


@ffi.def_extern(name="es2s_python_on_tokens", error=1)  # type: ignore[untyped-decorator]  # cffi's edge
def _on_tokens(user: Any, row: int, tokens: Any, n: int) -> int:
    callbacks: _Callbacks = ffi.from_handle(user)
    assert callbacks.on_tokens is not None
    try:
        callbacks.on_tokens(row, ffi.unpack(tokens, n))
    except BaseException as error:  # KeyboardInterrupt too: it is raised when the search has returned
        callbacks.error = error
        return 1
    return 0


@ffi.def_extern(name="es2s_python_logits_processor", error=1)  # type: ignore[untyped-decorator]  # as above
def _process_logits(user: Any, row: int, tokens: Any, n: int, scores: Any, vocab_size: int) -> int:
    callbacks: _Callbacks = ffi.from_handle(user)
    processor = callbacks.logits_processors[row]
    if processor is None:
        return 0
    try:
        core = np.frombuffer(ffi.buffer(scores, 4 * vocab_size), np.float32)
        history = np.frombuffer(ffi.buffer(tokens, 4 * n), np.int32)
        ours = core.reshape(1, -1).copy()  # copies: a processor may keep what it gets
        changed = processor(history.reshape(1, -1).copy(), ours)
        result = ours if changed is None else np.asarray(changed, np.float32)
        if result.shape != ours.shape:
            raise ValueError(f"logits_processor: expected scores [1, {vocab_size}], found {result.shape}")
        core[:] = result[0]
    except BaseException as error:
        callbacks.error = error
        return 1
    return 0


def _owned(pointer: Any, free: Callable[[Any], None], pid: int, keeps: object) -> Any:
    """`pointer`, freed with its last reference, but in process `pid` only; keeps `keeps` until then."""

    def destroy(pointer: Any, _keeps: object = keeps, getpid: Callable[[], int] = os.getpid) -> None:
        if getpid() == pid:
            free(pointer)

    return ffi.gc(pointer, destroy)


def _check_process(pid: int) -> None:
    if os.getpid() != pid:
        raise RuntimeError(
            "the model was loaded before this process was forked: load it in this process, or use spawn"
        )


def _ints(array: npt.NDArray[np.int32]) -> Any:
    return ffi.from_buffer("int32_t[]", array)


def _floats(array: Floats) -> Any:
    return ffi.from_buffer("float[]", array)


def _check(status: int) -> None:
    if status == lib.ES2S_OK:
        return
    message = ffi.string(lib.es2s_last_error()).decode()
    if status == lib.ES2S_OUT_OF_MEMORY:
        raise MemoryError(message)
    if status in (lib.ES2S_INVALID_ARGUMENT, lib.ES2S_CAPACITY, lib.ES2S_UNSUPPORTED_CPU):
        raise ValueError(message)
    if status == lib.ES2S_UNSUPPORTED_VERSION:
        raise UnsupportedVersionError(WEIGHTS, "weights that the decoder can load", message)
    if status == lib.ES2S_BAD_FORMAT:
        raise BundleError(WEIGHTS, "weights that the decoder can load", message)
    raise CoreError(status, message)
