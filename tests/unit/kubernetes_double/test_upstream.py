"""The proxy's connection to an API server that accepts only clients with a certificate, as real ones do."""

from __future__ import annotations

import base64
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kubernetes import client, config

from tests.api_proxy import Loop, Proxy, Upstream

pytestmark = pytest.mark.full


def certificate(name: str, issuer: tuple[x509.Certificate, Any] | None = None) -> tuple[x509.Certificate, Any]:
    """A certificate for this machine, with its key; its own issuer unless one is given."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string(f"CN={name}")
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    return made, key


def pem(part: Any) -> bytes:
    if isinstance(part, x509.Certificate):
        return part.public_bytes(serialization.Encoding.PEM)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return bytes(part.private_bytes(serialization.Encoding.PEM, form, plain))


@pytest.mark.parametrize("trusted", [True, False])
def test_certificates_of_both_sides_are_held_to(tmp_path: Path, trusted: bool) -> None:
    root = certificate("root")
    server, user, stranger = certificate("server", root), certificate("admin", root), certificate("stranger")
    for name, parts in {"root": root[:1], "server": server}.items():
        (tmp_path / name).write_bytes(b"".join(map(pem, parts)))
    guarded = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "root"))
    guarded.load_cert_chain(tmp_path / "server")
    guarded.verify_mode = ssl.CERT_REQUIRED

    async def who(request: web.Request) -> web.Response:
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        return web.json_response({"subject": subject, "authorization": request.headers.get("Authorization")})

    async def serve() -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_get("/{path:.*}", who)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=guarded)
        await site.start()
        return runner, runner.addresses[0][1]

    def data(part: Any) -> str:
        return base64.b64encode(pem(part)).decode()

    loop = Loop()
    runner, port = loop.run(serve())
    authority = root[0] if trusted else stranger[0]
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": data(authority)}
    person = {"client-certificate-data": data(user[0]), "client-key-data": data(user[1])}
    told = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": person}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    settings = client.Configuration()
    config.load_kube_config_from_dict(told, client_configuration=settings)
    proxy = Proxy(loop, Upstream.of(settings), guarded=True).start()
    try:
        asked = urllib3.request("GET", f"{proxy.url}/version", headers={"Authorization": f"Bearer {proxy.token}"})
        assert trusted and asked.json() == {"subject": [[["commonName", "admin"]]], "authorization": None}
    except urllib3.exceptions.HTTPError:
        assert not trusted
    finally:
        proxy.close()
        loop.run(runner.cleanup())
        loop.close()
