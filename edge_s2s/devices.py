"""The devices of ONNX Runtime's execution providers on this machine, and where the providers come from.

Nothing of a plugin is imported before somebody asks for it. A plugin is registered once in a process and
stays: ONNX Runtime cannot let go of one while sessions of it are open.
"""

import importlib
import importlib.metadata
import importlib.util
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from edge_s2s.errors import ProviderError
from edge_s2s.onnx_runtime import ort
from edge_s2s.providers import Provider

DEVICE = "device"
"""The option of our own: NPU, GPU or CPU, where a plugin finds several; by default the first of these."""
_DEVICES = ("NPU", "GPU", "CPU")


@dataclass(frozen=True)
class Device:
    """A provider on this machine, ready for sessions."""

    provider: Provider
    version: str
    """Of the plugin, or of ONNX Runtime"""
    kind: str
    """NPU, GPU or CPU; "" if ONNX Runtime does not tell"""
    description: str
    options: Mapping[str, str]
    handle: ort.OrtEpDevice | None
    """None: added by its name, as it is part of ONNX Runtime"""

    def add_to(self, session_options: ort.SessionOptions) -> None:
        """Makes sessions with these options run on this device."""
        if self.handle is None:
            session_options.add_provider(self.provider.ep_name, dict(self.options))
        else:
            session_options.add_provider_for_devices([self.handle], dict(self.options))


def find_device(provider: Provider, options: Mapping[str, str]) -> Device:
    """The device of a provider that `options` mean; ProviderError says what is missing, and what to do."""
    rest = {name: value for name, value in options.items() if name != DEVICE}
    wanted = options.get(DEVICE)
    if wanted is not None and wanted not in _DEVICES:
        raise ValueError(f"providers: expected {DEVICE} to be one of {', '.join(_DEVICES)}, found {wanted}")
    if provider.plugin is None:
        if wanted is not None:
            raise ValueError(f"providers: {provider.name} has no option {DEVICE}")
        if provider.ep_name not in ort.get_available_providers():
            raise ProviderError(
                f"{provider.name}: expected an ONNX Runtime with {provider.ep_name}, found one without; "
                f"{_BUILDS[provider.name]}"
            )
        return Device(provider, ort.__version__, "", "", rest, None)
    version = _register(provider)
    found = [device for device in ort.get_ep_devices() if device.ep_name == provider.ep_name]
    kinds = {device.device.type.name: device for device in reversed(found)}
    kind = next((kind for kind in _DEVICES if kind in kinds and wanted in (None, kind)), None)
    if kind is None:
        expected = wanted or "any device"
        raise ProviderError(
            f"{provider.name}: expected {expected}, found {', '.join(kinds) or 'none'}; "
            f"is there hardware for {provider.package} {version}, and its driver?"
        )
    handle = kinds[kind]
    if provider.name == "qnn":  # which has no default of its own outside Windows
        rest = {"backend_path": importlib.import_module("onnxruntime_qnn").get_qnn_htp_path(), **rest}
    facts = {**handle.ep_metadata, **handle.device.metadata}
    name = facts.get("FULL_DEVICE_NAME") or f"{handle.device.vendor} {kind}"
    if provider.name == "qnn" and kind == "CPU":
        name += ", which emulates Qualcomm's HTP"
    return Device(provider, version, kind, name, rest, handle)


_BUILDS = {
    "coreml": "those for macOS have it",
    "nnapi": "those for Android have it",
    "xnnpack": "those for Android and iOS, and some that are built from source, have it",
}
_registering = threading.Lock()
_registered: dict[str, str] = {}


def _register(provider: Provider) -> str:
    """Loads the plugin unless it is; its version."""
    assert provider.plugin is not None
    assert provider.package is not None
    with _registering:
        if provider.ep_name not in _registered:
            if importlib.util.find_spec(provider.plugin) is None:
                raise ProviderError(
                    f"{provider.name}: expected the package {provider.package}, found none; "
                    f"pip install 'edge_s2s[{provider.name}]'"
                )
            try:
                path = importlib.import_module(provider.plugin).get_library_path()
                ort.register_execution_provider_library(provider.ep_name, path)
            except Exception as error:  # the plugin's own import may fail in any way
                raise ProviderError(
                    f"{provider.name}: expected a plugin that ONNX Runtime {ort.__version__} loads, "
                    f"found {str(error)[:300]}"
                ) from error
            _registered[provider.ep_name] = importlib.metadata.version(provider.package)
        return _registered[provider.ep_name]
