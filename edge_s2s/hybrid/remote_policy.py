"""A signed policy of an operator, from a file or URL that the user names: what must not be done any more.

{"version": 3, "expires": "2027-06-01T00:00:00Z", "cloud_enabled": true, "canary_percent": 10,
 "rollout_id": "teacher-2", "blocked_bundles": ["<digest>"], "min_runtime": "0.1.0"}

All but `version` and `expires` may be left out; what a later edge_s2s knows is skipped. It only forbids: what
may leave the device, the user's own `Policy` says. It lies in a DSSE envelope (secure-systems-lab/dsse, 1.0),
signed with Ed25519.
When it has expired, its canary ends; what it forbade for everybody stays forbidden.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge_s2s.manifest import RUNTIME_VERSION

PAYLOAD_TYPE = "application/vnd.edge-s2s.policy+json"
_CANARY_STEPS = 10_000
_VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class RemotePolicy:
    """What is forbidden; wrong values are a ValueError that names the key."""

    version: int
    expires: str
    """RFC 3339, with a time zone"""
    cloud_enabled: bool = True
    canary_percent: float = 100.0
    """Share of the devices that may use the cloud"""
    rollout_id: str = ""
    """Another one chooses other devices"""
    blocked_bundles: Sequence[str] = ()
    """Digests as `edge-s2s info` prints them"""
    min_runtime: str = "0.0.0"
    """Older edge_s2s must not use the cloud"""

    def __post_init__(self) -> None:
        for name, fits in {
            "version": type(self.version) is int and self.version >= 0,
            "expires": isinstance(self.expires, str) and _unix_time(self.expires) is not None,
            "cloud_enabled": isinstance(self.cloud_enabled, bool),
            "canary_percent": type(self.canary_percent) in (int, float) and 0 <= self.canary_percent <= 100,
            "rollout_id": isinstance(self.rollout_id, str),
            "blocked_bundles": isinstance(self.blocked_bundles, list | tuple)
            and all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in self.blocked_bundles),
            "min_runtime": isinstance(self.min_runtime, str) and bool(_VERSION.fullmatch(self.min_runtime)),
        }.items():
            if not fits:
                raise ValueError(f"remote policy: {name}: did not expect {getattr(self, name)!r}")
        object.__setattr__(self, "blocked_bundles", tuple(self.blocked_bundles))

    def forbids_cloud(self, install_id: bytes, now: float, runtime: str = RUNTIME_VERSION) -> str | None:
        """Why this device must not use the cloud, if so; `now` is Unix time."""
        if not self.cloud_enabled:
            return "the remote policy switches the cloud off"
        if _numbers(runtime) < _numbers(self.min_runtime):
            return f"the remote policy asks for edge_s2s {self.min_runtime} or later"
        expires = _unix_time(self.expires)
        assert expires is not None
        if now < expires and not self._has_canary(install_id):
            return (
                f"the remote policy allows the cloud to {self.canary_percent} % of devices, not to this one"
            )
        return None

    def _has_canary(self, install_id: bytes) -> bool:
        """The same for every percentage and day: who is among 10 % is among 20 %."""
        digest = hmac.digest(install_id, self.rollout_id.encode(), hashlib.sha256)
        return int.from_bytes(digest, "big") % _CANARY_STEPS < self.canary_percent * _CANARY_STEPS / 100


def sign_policy(policy: bytes, private_key: bytes) -> tuple[bytes, str]:
    """The envelope of a policy (JSON), signed with an Ed25519 key (PEM), and its public key in base64."""
    parse_policy(policy)
    key = load_pem_private_key(private_key, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("expected a private key of Ed25519; openssl genpkey -algorithm ed25519 makes one")
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    signature = base64.b64encode(key.sign(_signed_bytes(policy))).decode()
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(policy).decode(),
        "signatures": [{"sig": signature}],
    }
    return json.dumps(envelope).encode() + b"\n", public


def is_public_key(text: str) -> bool:
    """Whether it is base64 of an Ed25519 public key."""
    try:
        _public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def verified_payload(envelope: bytes, keys: Collection[str]) -> bytes:
    """The payload of a DSSE envelope; ValueError if none of `keys` has signed it."""
    try:
        document = json.loads(envelope)
        payload = base64.b64decode(document["payload"], validate=True)
        is_policy = document["payloadType"] == PAYLOAD_TYPE
        signatures = [base64.b64decode(entry["sig"], validate=True) for entry in document["signatures"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"remote policy: expected a DSSE envelope, found none: {error!r}") from error
    if not is_policy:
        raise ValueError(f"remote policy: expected the type {PAYLOAD_TYPE}")
    for key in keys:
        for signature in signatures[:16]:
            try:
                _public_key(key).verify(signature, _signed_bytes(payload))
            except InvalidSignature:
                continue
            return payload
    raise ValueError("remote policy: expected a signature by one of remote_policy_keys, found none")


def parse_policy(payload: bytes) -> RemotePolicy:
    """Reads the JSON; ValueError for what is no policy."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"remote policy: {error}") from error
    if not isinstance(document, dict) or not {"version", "expires"} <= document.keys():
        raise ValueError("remote policy: expected a JSON object with version and expires")
    return RemotePolicy(**{k: v for k, v in document.items() if k in RemotePolicy.__dataclass_fields__})


def _signed_bytes(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _public_key(text: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))


def _unix_time(text: str) -> float | None:
    try:
        time_ = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if time_.tzinfo is None else time_.timestamp()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
