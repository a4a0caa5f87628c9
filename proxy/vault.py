"""Reasoning sealed for callers that keep no state with us.

A caller that asks for ``reasoning.encrypted_content`` gets the raw reasoning back as a blob that
only this deployment's key opens, and sends it along with the next turn.
"""

import base64
import binascii
import hashlib
import os
import zlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_PREFIX = "dragoman1."
_NONCE_BYTES = 12
_MOST_BYTES = 64 * 1024 * 1024


class Vault:
    """Seals texts with AES-256-GCM: what is opened is what was sealed, or it is not opened."""

    def __init__(self, secret: str | None = None) -> None:
        """Derive the key of a secret; without one, blobs outlive no restart."""
        seed = os.urandom(32) if secret is None else secret.encode()
        self._cipher = AESGCM(hashlib.sha256(b"dragoman reasoning key" + seed).digest())

    def seal(self, text: str) -> str:
        """A blob that ``open`` turns into the text again."""
        nonce = os.urandom(_NONCE_BYTES)
        packed = zlib.compress(text.encode("utf-8", "surrogatepass"))
        sealed = nonce + self._cipher.encrypt(nonce, packed, _PREFIX.encode())
        return _PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, blob: str) -> str | None:
        """The text in a blob, ``None`` if another issuer or key made it, or it was changed."""
        if not blob.startswith(_PREFIX):
            return None
        payload = blob[len(_PREFIX) :]
        try:
            sealed = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
            packed = self._cipher.decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _PREFIX.encode()
            )
        except (binascii.Error, ValueError, InvalidTag):
            return None
        return zlib.decompressobj().decompress(packed, _MOST_BYTES).decode("utf-8", "surrogatepass")
