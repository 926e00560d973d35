"""People who sign their images: keys, certificates, signatures."""

from __future__ import annotations

import base64
import datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA-224": hashes.SHA224(),
    "SHA-256": hashes.SHA256(),
    "SHA-384": hashes.SHA384(),
    "SHA-512": hashes.SHA512(),
}
KINDS = ("RSA-PSS", "DSA", "ECC_SECP384R1", "ECC_SECP521R1")


@cache
def _key(kind: str) -> Any:
    match kind:
        case "RSA-PSS":
            return rsa.generate_private_key(65537, 2048)
        case "DSA":
            return dsa.generate_private_key(2048)
        case "ECC_SECP384R1":
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return ec.generate_private_key(ec.SECP521R1())


class Signer:
    """Somebody with a key of this kind, and a certificate of it."""

    def __init__(self, kind: str = "ECC_SECP384R1") -> None:
        self.kind = kind
        self.id = str(uuid4())
        self._private = _key(kind)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
        now = datetime.datetime(2026, 1, 1)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(self._private.public_key())
        builder = builder.serial_number(7).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=36500))
        self._certificate = builder.sign(self._private, hashes.SHA256())

    def certificate(self, encoding: Encoding = Encoding.PEM) -> bytes:
        return self._certificate.public_bytes(encoding)

    def publish(self, directory: Path, ending: str = ".pem") -> None:
        """Put the certificate where the service looks for it."""
        directory.mkdir(exist_ok=True)
        encoding = Encoding.DER if ending == ".der" else Encoding.PEM
        (directory / f"{self.id}{ending}").write_bytes(self.certificate(encoding))

    def signed(self, data: bytes, hash_method: str = "SHA-256") -> dict[str, str]:
        """The properties of an image of these bytes."""
        algorithm = HASHES[hash_method]
        match self.kind:
            case "RSA-PSS":
                pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.MAX_LENGTH)
                signature = self._private.sign(data, pss, algorithm)
            case "DSA":
                signature = self._private.sign(data, algorithm)
            case _:
                signature = self._private.sign(data, ec.ECDSA(algorithm))
        return {
            "img_signature": base64.b64encode(signature).decode(),
            "img_signature_hash_method": hash_method,
            "img_signature_key_type": self.kind,
            "img_signature_certificate_uuid": self.id,
        }
