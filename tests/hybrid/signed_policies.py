"""Remote policies, signed with a key of this run."""

import base64
import json

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_s2s.hybrid.remote_policy import sign_policy

FUTURE, PAST = "2100-01-01T00:00:00Z", "2020-01-01T00:00:00+02:00"


def pem_of(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


KEY = Ed25519PrivateKey.generate()


def signed(key: Ed25519PrivateKey = KEY, **values: object) -> bytes:
    document = {"version": 1, "expires": FUTURE, **values}
    return sign_policy(json.dumps(document).encode(), pem_of(key))[0]


def public(key: Ed25519PrivateKey = KEY) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()
