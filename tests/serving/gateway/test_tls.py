"""HTTPS, and a certificate that is renewed while the server runs."""

from __future__ import annotations

import datetime
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from glm_crush.errors import ConfigError
from glm_crush.serving.gateway.tls import Certificate
from tests.abuse.processes import server_process
from tests.serving.gateway.conftest import ADMIN, Serve

pytestmark = pytest.mark.requirement("S6")


def write_certificate(folder: Path, name: str = "localhost") -> dict[str, Path]:
    """A self-signed certificate, under the settings' names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
    paths["tls_cert"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths["tls_key"].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def served_name(url: str) -> str:
    """The common name of the certificate that the server shows now."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as secure:
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    [name] = x509.load_der_x509_certificate(shown).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def test_https_with_the_certificate_of_the_settings(serve: Serve, tmp_path: Path) -> None:
    paths = write_certificate(tmp_path)
    url = serve(**paths).url
    assert url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(paths["tls_cert"]))
    reply = httpx2.get(f"{url.replace('127.0.0.1', 'localhost')}/v1/models", headers=ADMIN, verify=trusting)
    assert reply.status_code == 200


def test_whoever_speaks_plainly_to_it_or_nothing_at_all_is_cut_off(serve: Serve, tmp_path: Path) -> None:
    url = serve(**write_certificate(tmp_path), header_timeout_seconds=0.3).url
    with pytest.raises(httpx2.TransportError):
        httpx2.get(url.replace("https", "http"))
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as silent:
        silent.settimeout(20)
        assert silent.recv(1) == b""
    assert served_name(url) == "localhost"


def test_a_hangup_renews_the_certificate_and_a_broken_one_leaves_the_old_in_force(tmp_path: Path) -> None:
    paths = write_certificate(tmp_path, "first")
    with server_process(**{name: str(path) for name, path in paths.items()}) as server:
        assert served_name(server.url) == "first"
        write_certificate(tmp_path, "second")
        server.process.send_signal(signal.SIGHUP)
        while served_name(server.url) != "second":
            pass
        paths["tls_key"].write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        assert [served_name(server.url) for _ in range(20)] == ["second"] * 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tls_key": None}, "go together"),
        ({"tls_cert": Path("/nonexistent.pem")}, "cannot serve HTTPS"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused_at_the_start(
    serve: Serve, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        serve(**{**write_certificate(tmp_path), **change})


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    mine, other = write_certificate(tmp_path), write_certificate(tmp_path / "other")
    with pytest.raises(ConfigError):
        Certificate(mine["tls_cert"], other["tls_key"])
