"""The protected site of the laboratory: a real nginx with a page of pictures, over plain HTTP and over TLS."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from polder.lab.pictures import picture
from polder.lab.processes import Process, ProcessError, Processes, wait_until_listening

HTTP_PORT, HTTPS_PORT = 80, 443

_CONF = """\
daemon off;
{user}
pid {root}/nginx.pid;
worker_processes 1;
error_log {root}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  client_body_temp_path {root}/tmp-body; proxy_temp_path {root}/tmp-proxy; fastcgi_temp_path {root}/tmp-fastcgi;
  uwsgi_temp_path {root}/tmp-uwsgi; scgi_temp_path {root}/tmp-scgi;
  types {{ text/html html; image/png png; application/octet-stream bin; }}
  sendfile on; tcp_nopush on; keepalive_timeout 65; keepalive_requests 100000;
  server {{
    {listen}
    server_name {names};
    ssl_certificate {root}/chain.pem; ssl_certificate_key {root}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets off;
    root {root}/www;
  }}
}}
"""


@dataclass(frozen=True)
class Page:
    """What one page load fetches: ``paths`` with their sizes in bytes."""

    paths: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def total(self) -> int:
        """Bytes of bodies."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Origin:
    """A running nginx. ``ca`` is the certificate that its TLS name is checked against."""

    process: Process
    root: Path
    ca: Path
    page: Page


def write_page(www: Path, pictures: int = 10, picture_bytes: int = 14_000) -> Page:
    """Write ``index.html`` and its pictures, about 150 KB by default, and ``N.bin`` files of 1, 10 and 100 KB."""
    www.mkdir(parents=True, exist_ok=True)
    names = [f"picture{n}.png" for n in range(1, pictures + 1)]
    for number, name in enumerate(names, 1):
        (www / name).write_bytes(picture(number, picture_bytes))
    tags = "\n".join(f'  <img src="/{name}" alt="Picture {n}" width="180">' for n, name in enumerate(names, 1))
    style = "body { font: 17px/1.5 Georgia, serif; margin: 2rem auto; max-width: 62rem; color: #1f2933 } img { margin: 4px }"
    text = "<p>Land that neighbours keep dry together. This page and its pictures come from one small server.</p>"
    html = f"<!doctype html><meta charset=utf-8><title>Polder</title><style>{style}</style>\n<h1>The polder</h1>\n{text}\n"
    (www / "index.html").write_text(html + tags + "\n")
    for kilobytes in (1, 10, 100):
        (www / f"{kilobytes}k.bin").write_bytes(bytes(index * 7 % 251 for index in range(kilobytes * 1000)))
    paths = ("/", *(f"/{name}" for name in names))
    files = ("index.html", *names)
    return Page(paths, tuple((www / name).stat().st_size for name in files))


def write_certificates(root: Path, names: Sequence[str], now: datetime.datetime) -> Path:
    """A throw-away CA and a server certificate for ``names``; returns the CA's file. The CA's key is not kept."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Laboratory CA")])
    authority = _certificate(ca_name, ca_name, ca_key.public_key(), now).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    leaf = _certificate(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), ca_name, key.public_key(), now
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    pem = serialization.Encoding.PEM
    ca = root / "ca.pem"
    ca.write_bytes(authority.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (root / "chain.pem").write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (root / "key.pem").touch(0o600)
    (root / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return ca


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + 30 * day)


def _configure(root: Path, names: Sequence[str], listen: Sequence[tuple[str, int, bool]], connections: int) -> list[str]:
    """Write the configuration; the arguments that make nginx use it."""
    lines = [f"listen {address}:{port}{' ssl' if tls else ''};" for address, port, tls in listen]
    # Workers would become `nobody`, who cannot read the run's directory; inside, root is nobody special.
    conf = root / "nginx.conf"
    text = _CONF.format(root=root, user="user root;", listen=" ".join(lines), names=" ".join(names), connections=connections)
    conf.write_text(text)
    return ["-p", str(root), "-c", str(conf)]


async def start(
    processes: Processes,
    host: str | None,
    root: Path,
    names: Sequence[str],
    listen: Sequence[tuple[str, int, bool]],
    name: str = "nginx",
    connections: int = 4096,
) -> Origin:
    """Start nginx on ``host`` below ``root``; ``listen`` is (address, port, TLS). Raises ``ProcessError``.

    ``connections``: how many it serves at once.
    """
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")
    if not binary:
        raise ProcessError("nginx is not installed: apt-get install nginx-light (or your system's package)")
    root = root.resolve()  # noqa: ASYNC240 - one look at the file system, before anything runs
    page = write_page(root / "www")
    ca = write_certificates(root, names, datetime.datetime.now(datetime.UTC))
    process = await processes.start(host, name, [binary, *_configure(root, names, listen, connections)])
    for _, port, _ in listen:
        await wait_until_listening(host or "this host", port, process)
    return Origin(process, root, ca, page)
