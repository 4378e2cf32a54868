"""A signed policy: what it forbids to whom, and that nobody but its signer can say so."""

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_s2s.hybrid.remote_policy import (
    PAYLOAD_TYPE,
    RemotePolicy,
    is_public_key,
    parse_policy,
    sign_policy,
    verified_payload,
)
from hybrid.signed_policies import FUTURE, KEY, PAST, pem_of, public, signed

NOW = 1_790_000_000.0
DEVICE = bytes(32)


# ------------------------------------------------- envelope ------------------------------------------------


def test_what_was_signed_is_read_with_one_of_the_keys():
    other = Ed25519PrivateKey.generate()
    payload = verified_payload(signed(cloud_enabled=False), [public(other), public()])
    assert parse_policy(payload).cloud_enabled is False


def test_the_signature_is_dsses():
    """The bytes that are signed, written out as DSSE's protocol has them."""
    envelope = json.loads(signed())
    payload = base64.b64decode(envelope["payload"])
    said = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    KEY.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), said)


@pytest.mark.parametrize("key", [Ed25519PrivateKey.generate()])
def test_another_key_is_no_signature(key: Ed25519PrivateKey):
    with pytest.raises(ValueError, match="expected a signature by one of remote_policy_keys"):
        verified_payload(signed(key), [public()])


def test_every_changed_byte_is_noticed():
    """Each byte of the envelope, in turn: refused, or it says the same (base64's and JSON's slack)."""
    envelope = signed(blocked_bundles=["ab" * 32])
    payload = base64.b64decode(json.loads(envelope)["payload"])
    n_refused = 0
    for i in range(len(envelope)):
        changed = bytearray(envelope)
        changed[i] ^= 1
        try:
            assert verified_payload(bytes(changed), [public()]) == payload
        except ValueError:
            n_refused += 1
    assert n_refused > len(envelope) * 0.95


@pytest.mark.parametrize(
    "envelope",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b"[" * 10_000,
        b'{"payload": 1, "payloadType": 2, "signatures": 3}',
        b'{"payload": "e30=", "payloadType": "x", "signatures": []}',
        b'{"payload": "e30=", "payloadType": "' + PAYLOAD_TYPE.encode() + b'", "signatures": []}',
        b'{"payload": "e30=", "payloadType": "' + PAYLOAD_TYPE.encode() + b'", "signatures": [{"sig": ""}]}',
    ],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(envelope: bytes):
    with pytest.raises(ValueError, match="remote policy: "):
        verified_payload(envelope, [public()])


def test_only_policies_and_keys_of_the_right_kind_are_signed(tmp_path: Path):
    with pytest.raises(ValueError, match="canary_percent"):
        signed(canary_percent=101)
    with pytest.raises(ValueError, match="Ed25519"):
        sign_policy(b'{"version": 1, "expires": "2100-01-01T00:00:00Z"}',
                    pem_of(ec.generate_private_key(ec.SECP256R1())))  # fmt: skip
    assert not is_public_key("abc")
    assert is_public_key(public())


# ------------------------------------------------- contents ------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"version": -1}, "version"),
        ({"version": True}, "version"),
        ({"expires": "tomorrow"}, "expires"),
        ({"expires": "2100-01-01T00:00:00"}, "expires"),  # of which time zone?
        ({"cloud_enabled": "no"}, "cloud_enabled"),
        ({"cloud_enabled": 0}, "cloud_enabled"),
        ({"canary_percent": -1}, "canary_percent"),
        ({"canary_percent": float("nan")}, "canary_percent"),
        ({"canary_percent": True}, "canary_percent"),
        ({"blocked_bundles": "ab" * 32}, "blocked_bundles"),
        ({"blocked_bundles": ["AB"]}, "blocked_bundles"),
        ({"min_runtime": "1.0"}, "min_runtime"),
        ({"rollout_id": 3}, "rollout_id"),
    ],
)
def test_wrong_values_are_refused_by_their_name(values: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=f"remote policy: {sentence}: did not expect"):
        RemotePolicy(**{"version": 1, "expires": FUTURE, **values})  # type: ignore[arg-type]


def test_keys_of_a_later_version_are_skipped_and_missing_ones_refused():
    assert parse_policy(b'{"version": 2, "expires": "2100-01-01T00:00:00Z", "new": 1}').version == 2
    for payload in (b"{}", b'{"version": 2}', b"[]", b"x"):
        with pytest.raises(ValueError, match="remote policy"):
            parse_policy(payload)


@pytest.mark.parametrize("expires", [FUTURE, PAST])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, None),
        ({"cloud_enabled": False}, "switches the cloud off"),
        ({"min_runtime": "0.3.1"}, "asks for edge_s2s 0.3.1 or later"),
        ({"min_runtime": "0.3.0"}, None),
        ({"min_runtime": "0.10.0"}, "0.10.0"),  # compared as numbers
    ],
)
def test_what_is_forbidden_for_everybody_stays_so_after_its_end(
    values: dict[str, object], reason: str | None, expires: str
):
    policy = RemotePolicy(version=1, expires=expires, **values)  # type: ignore[arg-type]
    found = policy.forbids_cloud(DEVICE, NOW, runtime="0.3.0")
    assert found is None if reason is None else reason in str(found)


def test_a_canary_ends_with_the_policy():
    for expires, allowed in ((FUTURE, False), (PAST, True)):
        policy = RemotePolicy(version=1, expires=expires, canary_percent=0)
        assert (policy.forbids_cloud(DEVICE, NOW) is None) is allowed


def test_a_canary_is_a_share_of_the_devices_that_only_grows_and_depends_on_the_rollout():
    devices = [i.to_bytes(32, "big") for i in range(4000)]

    def allowed(percent: float, rollout: str) -> set[bytes]:
        policy = RemotePolicy(version=1, expires=FUTURE, canary_percent=percent, rollout_id=rollout)
        return {device for device in devices if policy.forbids_cloud(device, NOW) is None}

    ten, twenty, other = allowed(10, "a"), allowed(20, "a"), allowed(10, "b")
    # Four standard deviations of a binomial: 4 * sqrt(4000 * 0.1 * 0.9) = 76.
    assert abs(len(ten) - 400) < 76
    assert ten < twenty
    assert abs(len(ten & other) - 40) < 25
    assert allowed(0, "a") == set()
    assert allowed(100, "a") == set(devices)


def test_a_key_of_openssl_signs(tmp_path: Path):
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "k.pem"], cwd=tmp_path, check=True)
    policy = b'{"version": 1, "expires": "2100-01-01T00:00:00Z"}'
    envelope, key = sign_policy(policy, (tmp_path / "k.pem").read_bytes())
    assert verified_payload(envelope, [key]) == policy
