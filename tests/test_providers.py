"""Accelerators by name: found, or an error that says what is missing."""

import importlib.util
import json
import subprocess
import sys

import onnxruntime as ort
import pytest

from accelerators import skip_without_hardware
from edge_s2s import ProviderError
from edge_s2s.devices import find_device
from edge_s2s.providers import PROVIDERS, accelerator

PLUGINS = [provider for provider in PROVIDERS.values() if provider.plugin]
BUILT_IN = [provider for provider in PROVIDERS.values() if not provider.plugin]


@pytest.mark.parametrize("request_", ["qnn", ("qnn", {"htp_performance_mode": "burst"})])
def test_a_name_may_come_with_options(request_):
    provider, options = accelerator([request_])
    assert provider.ep_name == "QNNExecutionProvider"
    assert dict(options) == ({} if request_ == "qnn" else {"htp_performance_mode": "burst"})


@pytest.mark.parametrize("providers", [None, [], ["CPUExecutionProvider"], ["QNNExecutionProvider"]])
def test_onnx_runtimes_own_names_are_left_to_it(providers):
    assert accelerator(providers) is None


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        (["qnn", "openvino"], "expected one, found qnn, openvino; fallback='cpu'"),
        (["qnn", "CPUExecutionProvider"], "expected one, found qnn, CPUExecutionProvider"),
        ([("CPUExecutionProvider", {"a": "b"})], "options are for qnn, .*, not for CPUExecutionProvider"),
    ],
)
def test_what_cannot_be_meant_is_a_value_error(providers, message: str):
    with pytest.raises(ValueError, match=message):
        accelerator(providers)


@pytest.mark.parametrize("provider", PLUGINS, ids=lambda provider: provider.name)
def test_a_plugin_that_is_not_installed_is_an_error_with_the_pip_command(provider, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr("edge_s2s.devices._registered", {})
    with pytest.raises(ProviderError, match=rf"pip install 'edge_s2s\[{provider.name}\]'"):
        find_device(provider, {})


@pytest.mark.parametrize("provider", BUILT_IN, ids=lambda provider: provider.name)
def test_a_provider_that_this_build_lacks_is_an_error_that_says_which_has_it(provider):
    if provider.ep_name in ort.get_available_providers():
        assert find_device(provider, {}).provider is provider
    else:
        with pytest.raises(ProviderError, match=f"expected an ONNX Runtime with {provider.ep_name}.*have it"):
            find_device(provider, {})


@pytest.mark.parametrize("provider", PLUGINS, ids=lambda provider: provider.name)
def test_a_plugin_finds_its_device_and_misses_another(provider):
    skip_without_hardware(provider.name)
    pytest.importorskip(provider.plugin)
    device = find_device(provider, {})
    assert device.kind in ("NPU", "GPU", "CPU")
    assert device.version[0].isdigit()
    assert ("emulates" in device.description) == (provider.name == "qnn" and device.kind == "CPU")
    missing = next(kind for kind in ("NPU", "GPU") if kind != device.kind)
    with pytest.raises(ProviderError, match=f"expected {missing}, found .*{device.kind}"):
        find_device(provider, {"device": missing})
    with pytest.raises(ValueError, match="device to be one of NPU, GPU, CPU, found TPU"):
        find_device(provider, {"device": "TPU"})


def test_no_plugin_is_imported_before_it_is_asked_for():
    code = "import edge_s2s, sys, json; edge_s2s.load(); print(json.dumps([*sys.modules]))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {provider.plugin for provider in PLUGINS} & set(modules)
