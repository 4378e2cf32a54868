"""The keys that an endpoint may have, for users who do not want to trust every certificate authority."""

import base64
import binascii
import hashlib
from collections.abc import Collection

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_s2s.errors import CloudError


def pin_of(certificate: bytes) -> str:
    """The pin of a certificate (DER): base64 of the SHA-256 of its SubjectPublicKeyInfo (RFC 7469, 2.4)."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode("ascii")


def is_pin(text: str) -> bool:
    """Whether it is base64 of 32 bytes."""
    try:
        return len(base64.b64decode(text, validate=True)) == hashlib.sha256().digest_size
    except (binascii.Error, ValueError):
        return False


def check_pin(certificate: bytes | None, pins: Collection[str]) -> None:
    """CloudError `tls` if the endpoint's certificate has another key than the pins allow."""
    try:
        found = "no certificate" if certificate is None else pin_of(certificate)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CloudError("tls", f"the key of the endpoint cannot be read: {error}") from error
    if found not in pins:
        raise CloudError("tls", f"the key of the endpoint is not one of pins: {found}")
