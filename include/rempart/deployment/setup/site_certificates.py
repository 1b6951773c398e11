"""Make the certificates of a site's inner ports: a private authority for each site, whose key never leaves memory.

A SeaweedFS server is one process that talks to itself, over gRPC and HTTP, through ports that everybody on the machine
can reach. One certificate serves it as server and as client; nobody else has one from its authority.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rempart import private_files

FILES = ("ca.pem", "site.pem", "site.key")
"""The authority's certificate, the site's, and the site's key: the names of their files."""
LIFETIME = timedelta(days=3650)
RENEWED = timedelta(days=365)
"""A certificate that ends within this time is replaced when its site starts."""
GRPC = ("volume", "master", "filer", "s3")
"""SeaweedFS's gRPC services, each of which requires a client certificate."""


@dataclass(frozen=True)
class Certificates:
    """PEM texts: the authority, the site's certificate, its private key."""

    authority: str
    certificate: str
    key: str

    def files(self) -> dict[str, str]:
        """Return contents by file name."""
        return dict(zip(FILES, (self.authority, self.certificate, self.key), strict=True))


def common_name(site: str) -> str:
    """Return the one name that a site's gRPC services accept."""
    return f"rempart-site-{site}"


def make(site: str, now: datetime) -> Certificates:
    """Make a site's certificates. The authority's key is gone when this function returns.

    Valid from one day before `now`, because clocks differ, for ten years.
    """
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {common_name(site)}")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name(site))])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    ) | {"decipher_only": False}
    authority = (
        _builder(issuer, issuer, authority_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        _builder(subject, issuer, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **usage), critical=True
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificates(_pem(authority), _pem(certificate), private.decode())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def usable(site: str, pems: Mapping[str, str], now: datetime) -> bool:
    """Return whether these files are one site's certificates, belong together, and last for another year."""
    try:
        authority, certificate = (x509.load_pem_x509_certificate(pems[name].encode()) for name in FILES[:2])
        key = serialization.load_pem_private_key(pems[FILES[2]].encode(), None)
        certificate.verify_directly_issued_by(authority)
    except (KeyError, ValueError, TypeError, InvalidSignature):
        return False
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ends = min(authority.not_valid_after_utc, certificate.not_valid_after_utc)
    return (
        [name.value for name in names] == [common_name(site)]
        and key.public_key() == certificate.public_key()
        and now + RENEWED < ends
    )


def usable_or_new(site: str, pems: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Return contents by file name: those in `pems` if usable, else new ones."""
    if usable(site, pems, now):
        return {name: pems[name] for name in FILES}
    return make(site, now).files()


def read(folder: Path, prefix: str = "") -> dict[str, str]:
    """Return the existing files, by name."""
    return {name: file.read_text(encoding="utf-8") for name in FILES if (file := folder / f"{prefix}{name}").is_file()}


def ensure(folder: Path, site: str, now: datetime) -> bool:
    """Write a site's certificates unless usable ones exist. Return whether it wrote.

    Never while the site runs: it would read the new files one by one, and refuse itself.
    """
    existing = read(folder)
    wanted = usable_or_new(site, existing, now)
    if wanted == existing:
        return False
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in wanted.items():
        private_files.write(folder / name, text)
    return True


def settings(site: str, folder: Path) -> dict[str, str | bool]:
    """Return settings that make every inner port require the site's certificate; files are in `folder`."""
    authority, certificate, key = (str(folder / name) for name in FILES)
    pair: dict[str, str | bool] = {"cert": certificate, "key": key}
    options: dict[str, str | bool] = {"grpc.ca": authority, "https.client.enabled": True}
    for section in (
        *(f"grpc.{server}" for server in (*GRPC, "client")),
        "https.client",
        "https.master",
        "https.volume",
        "https.filer",
    ):
        options |= {f"{section}.{key}": value for key, value in pair.items()}
        if section.startswith("https."):
            options[f"{section}.ca"] = authority
        elif section != "grpc.client":
            options[f"{section}.allowed_commonNames"] = common_name(site)
    return options


def variables(settings: Mapping[str, str | bool]) -> dict[str, str]:
    """Return the same settings as environment variables of SeaweedFS."""
    return {
        f"WEED_{name.upper().replace('.', '_')}": value if isinstance(value, str) else str(value).lower()
        for name, value in settings.items()
    }


def toml(settings: Mapping[str, str | bool]) -> str:
    """Return the same settings as sections of security.toml."""
    sections: dict[str, list[str]] = {}
    for name, value in settings.items():
        section, _, last = name.rpartition(".")
        written = f'"{value}"' if isinstance(value, str) else str(value).lower()
        sections.setdefault(section, []).append(f"{last} = {written}\n")
    return "".join(f"[{section}]\n{''.join(lines)}" for section, lines in sections.items())
