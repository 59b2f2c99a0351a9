"""RSA keys, made for the tests, in the forms in which people have them."""

from __future__ import annotations

import datetime as dt
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

USERNAME = "etl@acme.com"


@cache
def rsa_key(number=0, bits=2048):
    """Return a key, the same for the same *number*."""
    return rsa.generate_private_key(65537, bits)


def pem_of(key, form=PrivateFormat.PKCS8, encryption=None):
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode()


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def certificate(key):
    """Return a certificate that the key has signed itself, as PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "etl")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=3650))
    )
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def body_of(pem):
    """Return the secret characters of a PEM, without line ends."""
    return "".join(pem.split("-----")[2].split())


def quoted(secret, text, length=12):
    """Return the parts of *secret* that *text* quotes: of a PEM those that are secret."""
    whole = body_of(secret) if "-----" in secret else "".join(secret.split())
    parts = (whole[start : start + length] for start in range(len(whole) - length + 1))
    return [part for part in parts if part in text]
