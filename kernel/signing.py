"""Signed images: bytes are stored only if their signature verifies against a certificate.

The four properties name the certificate and say how the data was signed; with one of
them missing an image counts as unsigned.  What a signature is made of is cursive's
business, which nova and cinder use too; here it is fed, in threads, never on the loop.
An upload is fed while it streams by; staged data is read once more, after the plugins
have had their say, and only if it is signed.

Of the certificate only its key counts, as in Glance.  Images outlive certificates, and
whoever may put one with the key manager vouches for it; its dates and its issuer are for
those to judge who run the image (nova, by its own list of trusted certificates).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from cryptography import x509
from msgspec import Struct

from kernel.errors import BadSignature, EntrepotError, NotFound
from kernel.extend import KeySource
from kernel.streams import rechunk

_PEM: Final = b"-----BEGIN"


class Signature(Struct, frozen=True, kw_only=True):
    """What an image's properties say of how it is signed."""

    value: str
    """In base64."""
    hash_method: str
    key_type: str
    certificate: str
    """Its id with the key source."""


def signature_of(properties: Mapping[str, str | None]) -> Signature | None:
    """The signature of an image with these properties; None unless all four are there."""
    value = properties.get("img_signature")
    hash_method = properties.get("img_signature_hash_method")
    key_type = properties.get("img_signature_key_type")
    certificate = properties.get("img_signature_certificate_uuid")
    if value is None or hash_method is None or key_type is None or certificate is None:
        return None
    return Signature(value=value, hash_method=hash_method, key_type=key_type, certificate=certificate)


class Check:
    """Feed it every byte in order, in threads, then ask once."""

    def __init__(self, verifier: Any) -> None:
        self._verifier = verifier

    def eat(self, chunk: bytes) -> None:
        self._verifier.update(chunk)

    def finish(self) -> None:
        """`BadSignature` if the signature is not that of the bytes."""
        try:
            self._verifier.verify()
        except Exception:
            raise BadSignature("The signature does not match the data") from None


async def check_of(signature: Signature, keys: KeySource | None) -> Check:
    """What a signature is to be checked with; `BadSignature` when it never could be."""
    if keys is None:
        raise BadSignature("The image is signed, and this site has no key manager to verify it with")
    try:
        certificate = await keys.certificate(signature.certificate)
    except NotFound:
        raise BadSignature(f"There is no certificate {signature.certificate[:64]}") from None
    except EntrepotError as error:
        raise BadSignature(f"The certificate {signature.certificate[:64]} cannot be had: {error}") from error
    return Check(await asyncio.to_thread(_verifier, signature, certificate))


def _verifier(signature: Signature, certificate: bytes) -> Any:
    try:
        from cursive import signature_utils as cursive
        from cursive.exception import SignatureVerificationError
    except ImportError:
        raise BadSignature("Signatures cannot be verified here: cursive is not installed") from None
    try:
        kind = cursive.SignatureKeyType.lookup(signature.key_type)
        hash_method = cursive.get_hash_method(signature.hash_method)
        value = cursive.get_signature(signature.value)
        key = _key(certificate)
        if not isinstance(key, kind.public_key_type):
            raise BadSignature(f"The certificate holds no key of the type {signature.key_type}")
        verifier = kind.create_verifier(value, hash_method, key)
    except SignatureVerificationError as error:
        raise BadSignature(f"The signature cannot be verified: {str(error)[:200]}") from None
    except ValueError:
        raise BadSignature("The signature is not written in base64") from None
    if verifier is None:
        raise BadSignature("The signature is empty")
    return verifier


def _key(certificate: bytes) -> object:
    load = x509.load_pem_x509_certificate if certificate.lstrip().startswith(_PEM) else x509.load_der_x509_certificate
    try:
        return load(certificate).public_key()
    except Exception:
        raise BadSignature("The certificate is not an X.509 certificate that can be read") from None


async def check_all(check: Check, source: AsyncIterator[bytes], report: Callable[[int], None]) -> None:
    """Read bytes that are already here for their signature; `BadSignature` if it is not theirs."""
    done = 0
    async for chunk in rechunk(source):
        await asyncio.to_thread(check.eat, chunk)
        done += len(chunk)
        report(done)
    await asyncio.to_thread(check.finish)
