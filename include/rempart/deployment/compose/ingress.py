"""Publish the containers' pages: by TLS with a certificate given to `rempart stack init`, or on this machine only."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rempart.deployment.compose.egress_proxy import digest
from rempart.errors import StackError

FILE = "gate.pem"
"""File with chain and key, as haproxy reads them."""
LOOPBACK = "127.0.0.1"
_GIVE = "rempart stack init --certificate FILE --key FILE"


@dataclass(frozen=True)
class CertificatePair:
    """A certificate with its chain, and its key: files in PEM."""

    certificate: Path
    key: Path


def read(pair: CertificatePair | None, kept: Path) -> str:
    """Return chain and key in PEM: of the pair, else of an earlier `rempart stack init`, else empty."""
    if pair is None:
        return kept.read_text(encoding="utf-8") if kept.is_file() else ""
    try:
        return "".join(file.read_text(encoding="utf-8").rstrip() + "\n" for file in (pair.certificate, pair.key))
    except (OSError, ValueError) as cause:
        raise StackError(
            f"read the certificate {pair.certificate} and its key {pair.key}: {type(cause).__name__}",
            "Pass two PEM files that you may read: the certificate with its chain, and its key.",
        ) from cause


def check(pem: str, wanted: Mapping[str, str], now: datetime) -> None:
    """Check that pages may be published as `.env` requests. Raises StackError, which never quotes the key."""
    host, listen = wanted["REMPART_HOST"], wanted["REMPART_LISTEN"]
    if not pem:
        if listen != LOOPBACK:
            raise StackError(
                f"REMPART_LISTEN is {listen}, so passwords would cross the network unencrypted",
                f"Add a certificate ({_GIVE}), or set REMPART_LISTEN={LOOPBACK} in .env.",
            )
        return
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        certificate = x509.load_pem_x509_certificates(pem.encode())[0]
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError) as cause:
        raise StackError(
            "read the certificate and its key: a file is not PEM, or the key is encrypted",
            f"{_GIVE}: pass a certificate with its chain, and a key without passphrase.",
        ) from cause
    public = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*public) != key.public_key().public_bytes(*public):
        raise StackError(
            "check the certificate: the key belongs to another certificate",
            f"{_GIVE}: pass two files of the same order, with your own certificate before its chain.",
        )
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise StackError(
            f"check the certificate: it is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, and today is {now:%Y-%m-%d}",
            f"Renew it, then {_GIVE}.",
        )
    if not _covers(names := _names(certificate), host):
        raise StackError(
            f"check the certificate: it is for {', '.join(names) or 'no host'}, but REMPART_HOST is {host}",
            "Set REMPART_HOST in .env to the host name of this machine in browsers; the certificate must cover "
            "that name.",
        )


def _names(certificate: object) -> list[str]:
    from cryptography import x509

    assert isinstance(certificate, x509.Certificate)  # noqa: S101 # cryptography is imported where it is used
    try:
        alternative_names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in alternative_names.get_values_for_type(x509.IPAddress)]
    return [*alternative_names.get_values_for_type(x509.DNSName), *addresses]


def _covers(names: list[str], host: str) -> bool:
    """Return whether a certificate name covers a host: it is equal, or has `*.` for one label (RFC 6125)."""
    try:
        return str(ipaddress.ip_address(host)) in names
    except ValueError:
        wanted = host.lower()
        return any(name.lower() in (wanted, f"*.{wanted.partition('.')[2]}") for name in names)


def settings(pem: str) -> dict[str, str]:
    """Return `.env` lines: the pages' protocol, and the valid certificate."""
    scheme = "https" if pem else "http"
    return {"REMPART_SCHEME": scheme, "REMPART_CERTIFICATE": digest(pem) if pem else "none"}
