"""Which protocols an endpoint speaks, and whether the configured one answers: `edge-s2s cloud check`.

A sentence of ours is sent, never a text of the user; requests count among those of the day.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, get_args
from urllib.parse import quote

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.client import CloudClient
from edge_s2s.hybrid.config import CloudConfig, ProtocolName
from edge_s2s.hybrid.wire import Json, get

SENTENCE = "The meeting was moved from six to seven o'clock because the train is late."
_PREFIXES: Mapping[ProtocolName, tuple[str, ...]] = {
    "openai_chat": ("/v1", "/openai/v1"),
    "open_inference": ("/v2",),
    "generate_endpoint": ("/v2",),
}
_TIMEOUT_S = 10.0


class CloudCheck(NamedTuple):
    """One line of the result."""

    name: str
    ok: bool
    detail: str


def check(config: CloudConfig) -> Iterator[CloudCheck]:
    """First the endpoint as it is configured, then what else answers at its host."""
    yield _answers(config, config.protocol)
    if config.remote_policy is not None:
        yield _remote_policy(config)
    host = config.base_url.removesuffix(config.url.path)
    for protocol in get_args(ProtocolName):
        for prefix in _PREFIXES[protocol]:
            other = replace(config, protocol=protocol, base_url=host + prefix)
            same = (other.protocol, other.base_url) == (config.protocol, config.base_url.rstrip("/"))
            if not same and (told := _told(other)) is not None:
                found = _answers(told, f"{protocol} at {told.base_url}")
                if found.ok:
                    yield found._replace(detail=f"{found.detail}; {_as_toml(told, config)}")


def _remote_policy(config: CloudConfig) -> CloudCheck:
    source = _client(config).remote_policy
    assert source is not None
    policy = source.current(time.monotonic() + _TIMEOUT_S)
    detail = "there is none" if policy is None else f"version {policy.version}, until {policy.expires}"
    if source.problem is not None:
        detail = f"{detail}; {source.problem}"
    return CloudCheck("remote policy", source.problem is None, detail)


def _answers(config: CloudConfig, name: str) -> CloudCheck:
    start = time.monotonic()
    try:
        answer = _client(config).complete(SENTENCE, max_new_tokens=64)
    except CloudError as error:
        return CloudCheck(name, False, str(error))
    return CloudCheck(name, True, f"{answer.text.strip()!r} in {time.monotonic() - start:.1f} s")


def _client(config: CloudConfig) -> CloudClient:
    return CloudClient(replace(config, max_attempts=1, timeout_s=min(config.timeout_s, _TIMEOUT_S)))


def _told(config: CloudConfig) -> CloudConfig | None:
    """The configuration with what the endpoint tells about the model; None if it knows no such model."""
    try:
        client = _client(config)
        deadline = time.monotonic() + _TIMEOUT_S
        if config.protocol == "openai_chat":
            models = get(client.get("/models", deadline), "data", list)
            names = [model.get("id") for model in models if isinstance(model, dict)]
            return config if config.model in names else None
        metadata = client.get(f"/models/{quote(config.model, safe='')}", deadline)
    except CloudError:
        return None
    if config.protocol == "generate_endpoint":
        return config
    return replace(
        config,
        input_name=_tensor(metadata, "inputs") or config.input_name,
        output_name=_tensor(metadata, "outputs") or config.output_name,
    )


def _tensor(metadata: Json, name: str) -> str | None:
    """The name of the first tensor."""
    tensors = metadata.get(name)
    first = tensors[0] if isinstance(tensors, list) and tensors else None
    tensor = first.get("name") if isinstance(first, dict) else None
    return tensor if isinstance(tensor, str) else None


def _as_toml(config: CloudConfig, before: CloudConfig) -> str:
    names = ("protocol", "base_url", "input_name", "output_name")
    changed = [name for name in names if getattr(config, name) != getattr(before, name)]
    return ", ".join(f'{name} = "{getattr(config, name)}"' for name in changed)
