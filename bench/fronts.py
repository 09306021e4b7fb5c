"""One access point, and the proxies that could stand in its place: TLS 1.3 with a client's certificate in, plain HTTP to the origin.

Polder's node plays access point and servlet at once and takes absolute-form requests, squid does so as a forward proxy; nginx and
HAProxy are reverse proxies with connections to the origin that stay. Each works on one core. ``drive`` asks them, with the
laboratory's load generator.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from bench import cpu
from bench.chains import pki
from bench.chains.peers import find
from polder.lab.attacks import socket_record
from polder.lab.engines import Pki, launch
from polder.lab.processes import Process, ProcessError, Processes, wait_until_listening
from polder.model import Kind
from polder.snapshot.schema import EngineConfig, IdentityMaterial, Limits, RingRoute, ServletEntry, Site, Snapshot

DOMAIN = "bench.test"
SITE = "wiki.test"
TICK = os.sysconf("SC_CLK_TCK")
PAGE = resource.getpagesize()
MANY = 1 << 20
SILENT_S = 300
"""Every front lets a connection be silent for so long, before its first request too: ten thousand are not made in ten seconds."""
LIMITS = Limits(
    tunnels_per_identity=MANY,
    tunnel_rate_per_identity=MANY,
    connections_per_source=MANY,
    handshake_rate_per_source=MANY,
    connections=MANY,
    streams_per_client=MANY,
    connections_per_identity=MANY,
    frame_rate_per_identity=100 * MANY,
    stalled_per_identity=MANY,
    header_timeout_ms=SILENT_S * 1000,
    handshake_rate_per_identity=MANY,
)
"""One client does everything: what limits a user is not what is measured."""


@dataclass(frozen=True)
class Front:
    """Something that takes requests. ``name`` is what its certificate must bear; ``absolute``: it is asked as a proxy is."""

    label: str
    process: Process
    port: int
    name: str
    root: bytes
    client: IdentityMaterial
    absolute: bool
    authority: str = SITE
    versions: tuple[int, ...] = (1, 2)

    @property
    def peer(self) -> bool:
        """Whether Polder is compared with it."""
        return self.label != "polder"

    def pids(self) -> list[int]:
        """Its processes: a front is a session of its own."""
        return session(self.process.process.pid)


@dataclass(frozen=True)
class Load:
    """What is asked: HTTP ``version``, ``kilobytes`` per answer, on how many connections; ``rate`` per second, 0: closed loop."""

    version: int = 1
    kilobytes: int = 1
    connections: int = 8
    streams: int = 1
    rate: int = 0
    seconds: float = 3.0
    warm_s: float = 0.7


def session(leader: int) -> list[int]:
    """The processes of a session."""
    return cpu.sessions([leader])[leader]


def pin(pids: Iterable[int], core: int) -> None:
    """Keep every thread of the processes on a core; where there is one core only, nothing is done."""
    if core >= (os.cpu_count() or 1):
        return
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), {core})


async def start(processes: Processes, origin: int, first_port: int) -> list[Front]:
    """Polder, nginx, HAProxy and squid in front of the plain origin on loopback port ``origin``."""
    folder = processes.directory / "fronts"
    pki.write(folder / "pki", 1)
    folder.chmod(0o777)  # squid becomes a user of its own and writes its log here
    (folder / "hosts").write_text(f"127.0.0.1 {SITE}\n")
    fronts = [await polder(processes, origin)]
    for number, (label, write) in enumerate(_PEERS.items()):
        port = first_port + number
        conf = folder / f"{label}.conf"
        conf.write_text(write(folder, port, origin))
        program, *options = _PROGRAMS[label]
        process = await processes.start(None, f"front-{label}", [find(program), *options, str(conf)])
        await wait_until_listening("this host", port, process)
        root, client = _identity(folder / "pki")
        front = Front(label, process, port, "node1.test", root, client, absolute=False)
        if label == "squid":
            front = replace(front, absolute=True, authority=f"{SITE}:{origin}", versions=(1,))
        fronts.append(front)
    return fronts


async def polder(processes: Processes, origin: int) -> Front:
    """A node that lets users in and delivers."""
    members = Pki(DOMAIN, time.time(), 3)  # noqa: TID251 - the shell of a program
    base = Snapshot(0, DOMAIN, (members.root,), members.member(Kind.NODE, "front", 1), limits=LIMITS)
    node = await launch(processes, None, "front-polder", EngineConfig(role="node", listen=("127.0.0.1:0",)), base)
    site = Site("wiki", (SITE,), (80,), ("anyone",), (), "ring", ring=(RingRoute(0, None),))
    servlet = ServletEntry("wiki", {"tcp": {"address": "127.0.0.1", "bind": None, "ports": [(80, origin)]}})
    await node.apply(sites=(site,), servlets=(servlet,))
    port = int(node.address.rpartition(":")[2])
    user = members.member(Kind.USER, "ann")
    return Front("polder", node.process, port, f"front.node.{DOMAIN}", members.root, user, absolute=True)


def _identity(folder: Path) -> tuple[bytes, IdentityMaterial]:
    """The peers' root, and their client's certificate and key, in DER."""
    root, leaf = (x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in ("ca.pem", "node0.crt"))
    key = load_pem_private_key((folder / "node0.key").read_bytes(), None)
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return root.public_bytes(Encoding.DER), IdentityMaterial((leaf.public_bytes(Encoding.DER),), private)


async def drive(processes: Processes, front: Front, load: Load, core: int | None = None) -> dict[str, Any]:
    """Ask a front; requests per second, CPU of the front per request, latencies, memory. Raises ``ProcessError`` on any failure."""
    config = {
        "target": socket_record("127.0.0.1", front.port),
        "name": front.name,
        "roots": [front.root],
        "chain": list(front.client.chain),
        "key": front.client.key,
        "http2": load.version == 2,
        "absolute": front.absolute,
        "authority": front.authority,
        "path": f"/{load.kilobytes}k.bin",
        "size": load.kilobytes * 1000,
        "connections": load.connections,
        "streams": load.streams if load.version == 2 else 1,
        "rate": load.rate,
        "warm_ms": int(load.warm_s * 1000),
        "milliseconds": int(load.seconds * 1000),
        "pids": front.pids(),
    }
    argv = [sys.executable, "-m", "polder.lab.tool", "load"]
    if core is not None:
        argv = [sys.executable, "-m", "bench.on_core", str(core), *argv]
    patience = 60 + load.seconds + load.warm_s + load.connections / 50
    output = await processes.run(None, f"load-{front.label}", argv, patience, msgspec.msgpack.encode(config))
    return judged(json.loads(output), front.label, load)


def judged(report: dict[str, Any], label: str, load: Load) -> dict[str, Any]:
    """A report of the generator in the units of a row; raises ``ProcessError`` when anything failed."""
    if report["failed"] or not report["requests"]:
        raise ProcessError(f"{label}, {load}: {report['failed']} failed, {report['requests']} answered: {report['error']}")
    before, after = report["resident_pages"]
    return {
        "requests_per_s": report["requests"] / report["seconds"],
        "cpu_us_per_request": report["cpu_ticks"] / TICK * 1e6 / report["requests"],
        "p50_ms": report["p50_us"] / 1000,
        "p99_ms": report["p99_us"] / 1000,
        "kib_per_connection": (after - before) * PAGE / 1024 / load.connections,
        "connections_per_s": load.connections / report["connected_s"],
    }


def _nginx(folder: Path, port: int, origin: int) -> str:
    return f"""daemon off; user root; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err error;
events {{ worker_connections 19000; }}
http {{ access_log off; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout {SILENT_S};
  client_header_timeout {SILENT_S};
  client_body_temp_path {folder}/cb; proxy_temp_path {folder}/pt; fastcgi_temp_path {folder}/ft; uwsgi_temp_path {folder}/ut;
  scgi_temp_path {folder}/st;
  upstream o {{ server 127.0.0.1:{origin}; keepalive 128; keepalive_requests 100000000; }}
  ssl_protocols TLSv1.3; ssl_certificate {folder}/pki/node1.crt; ssl_certificate_key {folder}/pki/node1.key;
  ssl_client_certificate {folder}/pki/ca.pem; ssl_verify_client on;
  server {{ listen 127.0.0.1:{port} ssl http2 backlog=4096;
    location / {{ proxy_pass http://o; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""


def _haproxy(folder: Path, port: int, origin: int) -> str:
    return f"""global
  nbthread 1
  maxconn 9800
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client {SILENT_S}s
  timeout server 60s
frontend tls
  bind 127.0.0.1:{port} ssl crt {folder}/pki/node1.pem ca-file {folder}/pki/ca.pem verify required ssl-min-ver TLSv1.3 \
alpn h2,http/1.1 backlog 4096
  default_backend b
backend b
  server o 127.0.0.1:{origin}
"""


def _squid(folder: Path, port: int, _: int) -> str:
    k = folder / "pki"
    return f"""https_port 127.0.0.1:{port} tls-cert={k}/node1.crt tls-key={k}/node1.key tls-clientca={k}/ca.pem \
tls-cafile={k}/ca.pem tls-min-version=1.3
always_direct allow all
http_access allow all
hosts_file {folder}/hosts
cache deny all
cache_mem 8 MB
access_log none
cache_log {folder}/squid.cache
cache_store_log none
pid_filename none
visible_hostname front.test
shutdown_lifetime 0 seconds
cache_effective_user proxy
coredump_dir /tmp
max_filedescriptors 16384
pinger_enable off
"""


_PEERS = {"nginx": _nginx, "haproxy": _haproxy, "squid": _squid}
_PROGRAMS: dict[str, Sequence[str]] = {
    "nginx": ("nginx", "-c"),
    "haproxy": ("haproxy", "-db", "-f"),
    "squid": ("squid", "-N", "-n", "front", "-f"),
}
