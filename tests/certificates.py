"""Certificates for servers and clients, made by the ``openssl`` program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Certificates", "make_certificates"]


@dataclass(frozen=True)
class Certificates:
    """Paths of files in PEM.

    Attributes:
        authority: Signed the server's and the client's.
        stranger: Another authority, which signed nothing.
        server: For ``localhost``, and no other name or address.
        server_key: Its key.
        client: For the user ``certified``.
        client_key: Its key.
    """

    authority: str
    stranger: str
    server: str
    server_key: str
    client: str
    client_key: str


def make_certificates(folder: Path) -> Certificates:
    """Make them in a folder, with keys that only the owner may read."""
    authority = _authority(folder, "authority")
    stranger = _authority(folder, "stranger")
    server = _signed(folder, "server", "localhost", "subjectAltName=DNS:localhost")
    client = _signed(folder, "client", "certified", "extendedKeyUsage=clientAuth")
    return Certificates(authority, stranger, *server, *client)


_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def _authority(folder: Path, name: str) -> str:
    certificate = str(folder / f"{name}.pem")
    subject = ["-subj", f"/CN=fastdb tests {name}", "-days", "30"]
    key = ["-keyout", str(folder / f"{name}.key")]
    _openssl("req", "-x509", *_KEY, *key, "-out", certificate, *subject)
    return certificate


def _signed(folder: Path, name: str, subject: str, extension: str) -> tuple[str, str]:
    certificate, key = str(folder / f"{name}.pem"), folder / f"{name}.key"
    request, extensions = str(folder / f"{name}.csr"), folder / f"{name}.ext"
    extensions.write_text(f"{extension}\nbasicConstraints=CA:FALSE\n")
    _openssl("req", *_KEY, "-keyout", str(key), "-out", request, "-subj", f"/CN={subject}")
    by = ["-CA", str(folder / "authority.pem"), "-CAkey", str(folder / "authority.key")]
    by += ["-CAcreateserial", "-days", "30", "-extfile", str(extensions)]
    _openssl("x509", "-req", "-in", request, *by, "-out", certificate)
    key.chmod(0o600)
    return certificate, str(key)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
