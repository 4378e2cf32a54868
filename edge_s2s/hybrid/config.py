"""What the user decides about a cloud endpoint, read from TOML. Secrets are named here, never held.

[cloud]
base_url = "https://models.example.org/v1"
model = "teacher"
api_key_env = "MODELS_API_KEY"
"""

import ipaddress
import os
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args
from urllib.parse import SplitResult, urlsplit

from edge_s2s.hybrid.pins import is_pin
from edge_s2s.hybrid.remote_policy import is_public_key

ProtocolName: TypeAlias = Literal["openai_chat", "open_inference", "generate_endpoint"]
_LISTS = ("model_aliases", "pins", "remote_policy_keys")

SWITCH = "EDGE_S2S_CLOUD"
"""Environment variable: `off` forbids every request"""


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where counters of the day are kept, and the file that switches the cloud off."""
    home = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "edge_s2s"


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """An endpoint and its limits; wrong values are a ValueError that names the key."""

    base_url: str
    """Up to what the protocol adds, as OpenAI's clients have it: `https://host/v1`, `https://host/v2`"""
    model: str
    protocol: ProtocolName = "openai_chat"
    """`edge-s2s cloud check` finds out which ones an endpoint speaks; nothing is guessed in use."""
    api_key_env: str | None = None
    """Environment variable with the key"""
    api_key_file: str | None = None
    """File with the key, readable for its owner alone"""
    instruction: str = "Summarize the text of the user in a few sentences. Answer with the summary alone."
    """System message of `openai_chat`; the other protocols send the text alone"""
    model_aliases: Sequence[str] = ()
    """Other names under which the endpoint may report the model"""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """`openai_chat`: what newer models of OpenAI itself want is `max_completion_tokens`"""
    input_name: str = "text"
    """`open_inference`: the tensor with the text"""
    output_name: str = "text"
    """`open_inference`: the tensor with the answer"""
    ca_file: str | None = None
    """Certificates to trust instead of the system's"""
    pins: Sequence[str] = ()
    """Keys that the endpoint may have, beside what its certificate must be: base64 of the SHA-256 of their
    SubjectPublicKeyInfo. Name two, the second for the day when the first is changed"""
    allow_plain_http: bool = False
    """Without TLS only this machine may be asked, unless this is set, for a server in one's own network"""
    streams: bool = True
    """Whether streams may be asked for. One that does not say how it finished is refused, as it may be cut"""
    timeout_s: float = 30.0
    """For a whole call, from the look-up of the name to the last byte, retries included"""
    max_attempts: int = 2
    max_response_bytes: int = 1 << 20
    max_tokens_per_request: int = 4096
    """Longest answer that may be asked for"""
    max_requests_per_minute: int = 10
    """As many at once, then one each six seconds; retries count"""
    max_requests_per_day: int = 200
    """Days are those of UTC"""
    max_tokens_per_day: int = 200_000
    """Of texts and answers together"""
    remote_policy: str | None = None
    """File or URL of an operator's signed policy; `remote_policy.py` says what it can forbid"""
    remote_policy_keys: Sequence[str] = ()
    """Ed25519 public keys, base64, one of which has signed it"""
    remote_policy_refresh_s: float = 3600.0
    """How often a URL is asked"""
    state_dir: str | None = None
    """Folder of the counters; `cloud.disabled` in it forbids every request. None is `default_state_dir()`"""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in _LISTS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("max_attempts", "max_response_bytes", "max_tokens_per_request"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a number from 1 on, found {getattr(self, name)}")
        for name in ("max_requests_per_minute", "max_requests_per_day", "max_tokens_per_day"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a number from 0 on, found {getattr(self, name)}")
        if not 0 < self.timeout_s <= 3600:
            raise ValueError(f"timeout_s: expected 0 to 3600 seconds, found {self.timeout_s}")
        if not self.model:
            raise ValueError("model: expected a name, found an empty one")
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("api_key_env and api_key_file: give one of them")
        _check_url("base_url", self.url, self.allow_plain_http)
        for pin in self.pins:
            if not is_pin(pin):
                raise ValueError(f"pins: expected base64 of a SHA-256, found {pin!r}")
        if self.pins and self.url.scheme != "https":
            raise ValueError("pins: expected https in base_url, which has keys to compare")
        self._check_remote_policy()

    def _check_remote_policy(self) -> None:
        if bool(self.remote_policy) != bool(self.remote_policy_keys):
            raise ValueError("remote_policy and remote_policy_keys: give both or none")
        if self.remote_policy is not None and "://" in self.remote_policy:
            _check_url("remote_policy", urlsplit(self.remote_policy), self.allow_plain_http)
        for key in self.remote_policy_keys:
            if not is_public_key(key):
                raise ValueError(f"remote_policy_keys: expected base64 of 32 bytes, found {key!r}")
        if self.remote_policy_refresh_s < 0:
            raise ValueError(
                f"remote_policy_refresh_s: expected seconds from 0 on, found {self.remote_policy_refresh_s}"
            )

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """Reads the table `[cloud]` of a file."""
        return cls(**read_table(Path(path), "cloud", [field.name for field in fields(cls)]))

    @property
    def url(self) -> SplitResult:
        """`base_url` in its parts."""
        return urlsplit(self.base_url)

    @property
    def state_path(self) -> Path:
        """The folder of the counters."""
        return default_state_dir() if self.state_dir is None else Path(self.state_dir)

    def read_api_key(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The key from the environment or its file; ValueError, which does not show it, if it is none."""
        if self.api_key_env is not None:
            where, key = self.api_key_env, environ.get(self.api_key_env, "")
        elif self.api_key_file is not None:
            where, file = self.api_key_file, Path(self.api_key_file).expanduser()
            if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ValueError(f"{where}: others may read this key; chmod 600 it")
            key = file.read_text(encoding="utf-8").strip()
        else:
            return None
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(f"{where}: expected a key of visible ASCII characters, found none")
        return key


def read_table(path: Path, table: str, names: Sequence[str]) -> dict[str, Any]:
    """A table of a TOML file; unknown keys are a ValueError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    values = document.get(table, {})
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a table [{table}]")
    if unknown := values.keys() - set(names):
        raise ValueError(f'{path}: [{table}] has no key "{min(unknown)}"; it has {", ".join(sorted(names))}')
    if table == "cloud" and (missing := {"base_url", "model"} - values.keys()):
        raise ValueError(f'{path}: [cloud] lacks the key "{min(missing)}"')
    return values


def _check_types(config: CloudConfig) -> None:
    numbers = dict.fromkeys(("timeout_s", "remote_policy_refresh_s"), (int, float))
    for field in fields(config):
        value = getattr(config, field.name)
        default = field.default
        if field.name == "protocol":
            fits = value in get_args(ProtocolName)
        elif field.name == "max_tokens_field":
            fits = value in ("max_tokens", "max_completion_tokens")
        elif field.name in _LISTS:
            fits = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        elif isinstance(default, bool):
            fits = isinstance(value, bool)
        elif isinstance(default, int | float):
            fits = isinstance(value, numbers.get(field.name, int)) and not isinstance(value, bool)
        else:
            fits = isinstance(value, str) or (value is None and default is None)
        if not fits:
            raise ValueError(f"{field.name}: did not expect {value!r}; its type is {field.type}")


def _check_url(name: str, url: SplitResult, allow_plain_http: bool) -> None:
    shown = f"{url.scheme}://{url.hostname}"
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{name}: expected https://host/path, found {shown}")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError(f"{name}: expected no credentials, query or fragment; use api_key_env for a key")
    try:
        _ = url.port
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if url.scheme == "http" and not allow_plain_http and not _is_loopback(url.hostname):
        raise ValueError(f"{name}: {shown} is not encrypted; use https, or set allow_plain_http")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
