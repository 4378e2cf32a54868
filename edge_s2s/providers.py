"""ONNX Runtime's execution providers by short names.

    load(bundle, providers=["openvino"])
    load(bundle, providers=[("qnn", {"htp_performance_mode": "burst"})])

Plugins are packages of their own, which an extra of edge_s2s installs; the others are part of some builds of
ONNX Runtime. `devices` finds what they find on this machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

ProviderRequest: TypeAlias = str | tuple[str, Mapping[str, str]]
"""A name, or a name and the options that ONNX Runtime's documentation lists for this provider."""


@dataclass(frozen=True)
class Provider:
    """A provider that runs static encoders."""

    name: str
    ep_name: str
    """ONNX Runtime's name"""
    encoder_kinds: tuple[str, ...]
    """Kinds of static encoders that it can run, the best first"""
    plugin: str | None = None
    """The module that brings it; None: some builds of ONNX Runtime have it"""
    package: str | None = None
    """The distribution of this module"""
    has_contexts: bool = False
    """Whether what it has compiled can be stored (ONNX Runtime's EPContext)"""


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("qnn", "QNNExecutionProvider", ("qnn-static",), "onnxruntime_qnn", "onnxruntime-qnn", True),
        Provider(
            "openvino",
            "OpenVINOExecutionProvider",
            ("static", "qnn-static"),
            "onnxruntime_ep_openvino",
            "onnxruntime-ep-openvino",
            True,
        ),
        Provider("coreml", "CoreMLExecutionProvider", ("static", "qnn-static")),
        Provider("nnapi", "NnapiExecutionProvider", ("static", "qnn-static")),
        Provider("xnnpack", "XnnpackExecutionProvider", ("static", "qnn-static")),
    )
}


def accelerator(providers: Sequence[ProviderRequest] | None) -> tuple[Provider, Mapping[str, str]] | None:
    """The provider of `PROVIDERS` that is asked for and its options; None if ONNX Runtime's own names are."""
    requests = [request if isinstance(request, tuple) else (request, {}) for request in providers or ()]
    if not any(name in PROVIDERS or options for name, options in requests):
        return None
    if len(requests) != 1:
        names = ", ".join(name for name, _ in requests)
        raise ValueError(f"providers: expected one, found {names}; fallback='cpu' lets the CPU help out")
    [(name, options)] = requests
    if name not in PROVIDERS:
        raise ValueError(f"providers: options are for {', '.join(PROVIDERS)}, not for {name}")
    return PROVIDERS[name], options
