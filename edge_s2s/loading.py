"""Open a bundle: its files, its tokenizers, its decoder, and what runs its encoder where.

What runs on ONNX Runtime is imported when a bundle asks for it, because the import costs as much as a model.
"""

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from edge_s2s.bundle import Bundle, open_bundle
from edge_s2s.decoder import DecoderModel, available_memory, release_memory
from edge_s2s.errors import BundleError, ProviderError
from edge_s2s.job import Parts, SourceEncoder
from edge_s2s.manifest import Encoder as EncoderFile
from edge_s2s.manifest import EncoderKind
from edge_s2s.memory import check_memory
from edge_s2s.model import Seq2SeqModel
from edge_s2s.providers import ProviderRequest, accelerator
from edge_s2s.threads import MAX_THREADS, default_num_threads
from edge_s2s.tokenizer import open_tokenizers
from edge_s2s.weights import FILE as WEIGHTS


def default_bundle_path(*, must_exist: bool = False) -> Path:
    """Where the bundle lies that ships with the package; `must_exist` raises if the build left it out."""
    path = Path(__file__).parent / "bundles" / "default.es2s"
    if must_exist and not path.exists():
        hint = "this edge_s2s was built without it: name a bundle, which edge-s2s-export convert makes"
        raise BundleError("default bundle", str(path), "no such file", hint=hint)
    return path


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    num_threads: int | None = None,
    providers: Sequence[ProviderRequest] | None = None,
    fallback: Literal["cpu"] | None = None,
    context_cache: str | os.PathLike[str] | None = None,
    isa: str | None = None,
    pin_threads: bool = False,
    encoder: EncoderKind | None = None,
) -> Seq2SeqModel:
    """Opens a bundle, a directory or an .es2s; without `path`, the one that ships with the package.

    `num_threads` work on one call; None is `EDGE_S2S_NUM_THREADS`, or else the performance cores, 4 at most.
    `pin_threads` keeps the C core's to the fast cores, where Linux tells them from slow ones. `isa` forces
    the C core's kernel set. `encoder` chooses between "onnx" and "native", the C core, where a bundle has
    both. Whatever is wrong with the bundle is a BundleError; its files must not change while the
    model is open. Where less memory is left than it needs, InsufficientMemoryError says how much (Linux).

    `providers` says who runs the encoder: one accelerator's name, such as "qnn" or ("qnn", {options}), of a
    bundle with static encoders (`providers` and `static_encoder` have the rest); or ONNX Runtime's execution
    providers by its own names, by default the CPU's. What does not run as asked is a ProviderError, or with
    `fallback="cpu"` what an accelerator does not run runs on the CPU, and the `stats` of results say why. An
    accelerator's compiled graphs are kept in the folder `context_cache`, by default beside the bundle.
    """
    n_threads = default_num_threads() if num_threads is None else operator.index(num_threads)
    if not 1 <= n_threads <= MAX_THREADS:
        raise ValueError(f"num_threads: expected a number in 1..{MAX_THREADS}, found {n_threads}")
    left = available_memory()  # before the bundle: once it is open, nothing else is opened for it
    with open_bundle(default_bundle_path(must_exist=True) if path is None else path) as bundle:
        has_accelerator = accelerator(providers) is not None
        check_memory(bundle, None if has_accelerator else _cpu_encoder(bundle, encoder, providers), left)
        tokenizer, target_tokenizer = open_tokenizers(bundle.manifest, bundle.read)
        release_memory()  # of parsing them: a tenth of what the default model takes
        chosen = _open_encoder(
            bundle,
            encoder,
            providers,
            num_threads=n_threads,
            fallback=fallback,
            contexts=None if context_cache is None else Path(context_cache),
        )
        weights = bundle.read(WEIGHTS)  # verified, as all that a bundle hands out
        decoder = DecoderModel(
            weights,
            encoder=chosen.native,
            num_threads=n_threads,
            isa=isa,
            pin_threads=pin_threads,
            verify=False,
            is_mapped=True,
        )
        parts = Parts(tokenizer, target_tokenizer, chosen.encoder, decoder, chosen.fallback)
        return Seq2SeqModel(parts, bundle.manifest, bundle.digest)


class _Encoder(NamedTuple):
    """What encodes: ONNX Runtime's encoder, or the file of the native one."""

    encoder: SourceEncoder | None
    native: memoryview | None
    fallback: str


def _open_encoder(
    bundle: Bundle,
    kind: EncoderKind | None,
    providers: Sequence[ProviderRequest] | None,
    *,
    num_threads: int,
    fallback: Literal["cpu"] | None,
    contexts: Path | None,
) -> _Encoder:
    reason = ""
    asked = accelerator(providers)
    if fallback is not None and (fallback != "cpu" or asked is None):
        raise ValueError(f"fallback: expected 'cpu' and an accelerator in providers, found {fallback!r}")
    if asked is not None:
        if kind is not None:
            raise ValueError("encoder: expected none with an accelerator, which runs static ones")
        from edge_s2s.static_encoder import StaticEncoder

        try:
            static = StaticEncoder(bundle, *asked, num_threads=num_threads, contexts=contexts)
            return _Encoder(static, None, reason)
        except ProviderError as error:
            if fallback is None:
                raise
            reason, providers = str(error), None
    names = _names(providers)
    chosen = _cpu_encoder(bundle, kind, providers)
    if chosen.kind == "native":
        if names:
            raise ValueError("providers: expected none with the native encoder, which is not ONNX Runtime's")
        return _Encoder(None, bundle.read(chosen.file), reason)
    from edge_s2s.encoder import Encoder

    return _Encoder(Encoder(bundle, num_threads=num_threads, providers=names), None, reason)


def _cpu_encoder(
    bundle: Bundle, kind: EncoderKind | None, providers: Sequence[ProviderRequest] | None
) -> EncoderFile:
    return bundle.manifest.encoder(kind or ("onnx" if _names(providers) else None))


def _names(providers: Sequence[ProviderRequest] | None) -> list[str]:
    """Of ONNX Runtime's execution providers."""
    return [name for name in providers or () if isinstance(name, str)]
