"""The peers' chains: HAProxy and nginx and stunnel in TCP mode, squid with TLS parents, HAProxy with CONNECT over HTTP/2.

Hop n accepts mutual TLS 1.3 with the certificate ``noden`` and connects to hop n + 1, checking its name; the last dials the origin in
plain TCP, and the origin's own TLS runs inside, end to end. Shorter chains enter further down. Like Polder's forwarder, an *entry* on the
user's machine takes plain connections and speaks TLS to the first hop; it is no hop.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from bench.chains import pki
from bench.fetch import Path
from polder.lab.attacks import socket_record
from polder.lab.processes import Process, ProcessError, Processes, wait_until_listening

Writer = Callable[["Chain", int, int, int], str]
"""(chain, own number, own port, next port) → configuration; number 0 is an entry, next port the origin's for the last hop."""


@dataclass
class Chain:
    """One peer's running chain of ``hops``. ``origin``: port of the site's TLS on loopback."""

    label: str
    hops: int
    origin: int
    directory: FilePath
    first_port: int
    nodes: list[Process] = field(default_factory=list)
    entries: dict[int, int] = field(default_factory=dict)
    connects: bool = False

    @property
    def keys(self) -> FilePath:
        """Where the certificates are."""
        return self.directory / "pki"

    def path(self, length: int, server: str) -> Path:
        """The way through the last ``length`` hops."""
        target = f"{server}:{self.origin}" if self.connects else None
        return Path(f"{self.label}/{length}", f"127.0.0.1:{self.entries[length]}", target)

    def name_after(self, number: int) -> str:
        """Whom hop ``number`` checks."""
        return f"node{number + 1}.test"


@dataclass(frozen=True)
class Kind:
    """How a peer is run: the program, its arguments around the configuration file, its configuration."""

    program: str
    arguments: tuple[str, ...]
    write: Writer
    connects: bool = False
    last: str | None = None
    """The kind of the last hop, if this one cannot dial."""


def haproxy_tcp(chain: Chain, number: int, port: int, following: int) -> str:
    """TCP mode."""
    k, me = chain.keys, f"node{number}"
    tls_in = f" ssl crt {k}/{me}.pem ca-file {k}/ca.pem verify required ssl-min-ver TLSv1.3" if number else ""
    check = f"verify required verifyhost {_next(chain, number, following)} ssl-min-ver TLSv1.3"
    tls_out = "" if following == chain.origin else f" ssl crt {k}/{me}.pem ca-file {k}/ca.pem {check}"
    return f"""{_HAPROXY.format(mode="tcp")}
frontend f
  bind 127.0.0.1:{port}{tls_in}
  default_backend b
backend b
  server n 127.0.0.1:{following}{tls_out}
"""


def haproxy_h2(chain: Chain, number: int, port: int, following: int) -> str:
    """HTTP mode; CONNECT as HTTP/2 streams on connections that stay."""
    k, me = chain.keys, f"node{number}"
    alpn = "h2,http/1.1"
    tls_in = f" ssl crt {k}/{me}.pem ca-file {k}/ca.pem verify required ssl-min-ver TLSv1.3 alpn {alpn}" if number else ""
    to_last = following == chain.first_port + chain.hops
    check = f"verify required verifyhost {_next(chain, number, following)} ssl-min-ver TLSv1.3"
    # HAProxy 2.6 fails to resume squid 5.7's sessions and then waits a second: the last hop gets full handshakes.
    alpn_out = "no-ssl-reuse " if to_last else "alpn h2 "
    return f"""{_HAPROXY.format(mode="http")}
  timeout tunnel 600s
frontend f
  bind 127.0.0.1:{port}{tls_in}
  default_backend b
backend b
  http-reuse always
  server n 127.0.0.1:{following} ssl {alpn_out}crt {k}/{me}.pem ca-file {k}/ca.pem {check}
"""


def nginx(chain: Chain, number: int, port: int, following: int) -> str:
    """The stream module."""
    k, me = chain.keys, f"node{number}"
    module = FilePath("/usr/lib/nginx/modules/ngx_stream_module.so")
    load = f"load_module {module};" if module.exists() else ""
    tls_in = f"""ssl_certificate {k}/{me}.crt; ssl_certificate_key {k}/{me}.key; ssl_protocols TLSv1.3;
    ssl_client_certificate {k}/ca.pem; ssl_verify_client on;"""
    name = _next(chain, number, following)
    tls_out = f"""proxy_ssl on; proxy_ssl_certificate {k}/{me}.crt; proxy_ssl_certificate_key {k}/{me}.key;
    proxy_ssl_trusted_certificate {k}/ca.pem; proxy_ssl_verify on; proxy_ssl_verify_depth 2; proxy_ssl_name {name};
    proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on;"""
    return f"""{load} daemon off; user root; worker_processes 1;
pid {chain.directory}/{me}-{port}.pid; error_log {chain.directory}/{me}-{port}.err error;
events {{ worker_connections 8000; }}
stream {{
  server {{
    listen 127.0.0.1:{port}{" ssl" if number else ""} backlog=4096;
    {tls_in if number else ""}
    tcp_nodelay on; proxy_buffer_size 16k;
    proxy_pass 127.0.0.1:{following};
    {"" if following == chain.origin else tls_out}
  }}
}}
"""


def squid(chain: Chain, number: int, port: int, following: int) -> str:
    """CONNECT through TLS parents; the last hop dials."""
    k, me = chain.keys, f"node{number}"
    tls_in = f"tls-cert={k}/{me}.crt tls-key={k}/{me}.key tls-clientca={k}/ca.pem tls-cafile={k}/ca.pem tls-min-version=1.3"
    listen = f"https_port 127.0.0.1:{port} {tls_in}" if number else f"http_port 127.0.0.1:{port}"
    tls_out = f"tls tls-cert={k}/{me}.crt tls-key={k}/{me}.key tls-cafile={k}/ca.pem tls-min-version=1.3"
    parent = f"""cache_peer 127.0.0.1 parent {following} 0 no-query no-digest no-netdb-exchange default name=next \
{tls_out} ssldomain={_next(chain, number, following)}
never_direct allow all"""
    hosts = chain.directory / "hosts"
    return f"""{listen}
http_access allow all
{"always_direct allow all" if following == chain.origin else parent}
hosts_file {hosts}
cache deny all
cache_mem 8 MB
access_log none
cache_log {chain.directory}/{me}-{port}.cache
cache_store_log none
pid_filename none
visible_hostname {me}.test
unique_hostname {me}-{port}.test
via off
forwarded_for delete
shutdown_lifetime 0 seconds
cache_effective_user proxy
coredump_dir /tmp
max_filedescriptors 16384
pinger_enable off
half_closed_clients off
"""


def stunnel(chain: Chain, number: int, port: int, following: int) -> str:
    """A server and a client service in one process, joined on loopback; an entry is a client alone."""
    k, me, inner = chain.keys, f"node{number}", port + 500
    head = "foreground = yes\npid =\ndebug = 3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\nsslVersionMin = TLSv1.3\n"
    keys = f"cert = {k}/{me}.crt\nkey = {k}/{me}.key\nCAfile = {k}/ca.pem\nverifyChain = yes\nTIMEOUTclose = 0\n"
    last = following == chain.origin
    serve = f"[in]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{following if last else inner}\nrequireCert = yes\n{keys}"
    dial = f"""[out]
client = yes
accept = 127.0.0.1:{inner if number else port}
connect = 127.0.0.1:{following}
checkHost = {_next(chain, number, following)}
{keys}"""
    return head + (serve if number else "") + ("" if last else dial)


_HAPROXY = """global
  nbthread 1
  maxconn 8000
defaults
  mode {mode}
  timeout connect 5s
  timeout client 600s
  timeout server 600s"""


def bare(chain: Chain, number: int, port: int, following: int) -> str:
    """The laboratory's bare relay: what a hop costs at the least, with our own libraries."""
    config = {
        "listen": socket_record("127.0.0.1", port),
        "to": socket_record("127.0.0.1", following),
        "chain": str(chain.keys / f"node{number}.crt"),
        "key": str(chain.keys / f"node{number}.key"),
        "root": str(chain.keys / "ca.pem"),
        "tls_in": number > 0,
        "next": None if following == chain.origin else _next(chain, number, following),
    }
    return json.dumps(config)


BARE = "bare relay"
"""Not a peer: the laboratory's own, which can do nothing but relay."""

KINDS: dict[str, Kind] = {
    "haproxy": Kind("haproxy", ("-db", "-f"), haproxy_tcp),
    "haproxy-h2": Kind("haproxy", ("-db", "-f"), haproxy_h2, connects=True, last="squid"),
    "nginx": Kind("nginx", ("-c",), nginx),
    "squid": Kind("squid", ("-N", "-n", "hop{port}", "-f"), squid, connects=True),
    "stunnel": Kind("stunnel4", (), stunnel),
    BARE: Kind(sys.executable, ("-m", "polder.lab.tool", "relay"), bare),
}


def _next(chain: Chain, number: int, following: int) -> str:
    """The name that hop ``number`` checks: entries (0) may lead to any hop."""
    return chain.name_after(number) if number else f"node{following - chain.first_port}.test"


def missing() -> list[str]:
    """Programs that are not installed."""
    return sorted({kind.program for kind in KINDS.values() if _where(kind.program) is None})


def find(program: str) -> str:
    """Where a program is; raises ``ProcessError`` when it is not installed."""
    if (path := _where(program)) is None:
        raise ProcessError(f"{program} is not installed: scripts/bench-packages installs the peers, as root")
    return path


def _where(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


async def start(
    processes: Processes, label: str, hops: int, lengths: tuple[int, ...], ports: tuple[int, int], server: str
) -> Chain:
    """A chain of ``KINDS[label]``: hops at ``ports[0]`` + 1 …, entries for ``lengths`` above them; ``ports[1]``: the origin's."""
    kind = KINDS[label]
    chain = Chain(label, hops, ports[1], processes.directory / label, ports[0], connects=kind.connects)
    pki.write(chain.keys, hops)
    chain.directory.chmod(0o777)  # squid becomes a user of its own and writes its log here
    (chain.directory / "hosts").write_text(f"127.0.0.1 {server}\n")
    for number in range(hops, 0, -1):
        last = number == hops
        which = KINDS[kind.last] if last and kind.last else kind
        port, following = ports[0] + number, ports[1] if last else ports[0] + number + 1
        chain.nodes.insert(0, await _launch(processes, chain, which, number, (port, following)))
    for index, length in enumerate(lengths):
        chain.entries[length] = await add_entry(processes, chain, length, index)
    return chain


async def add_entry(processes: Processes, chain: Chain, length: int, index: int) -> int:
    """Start entry number ``index`` of a chain, into its last ``length`` hops; returns its port."""
    kind = KINDS[chain.label]
    # Alone, the last hop of another kind is the whole chain: its entry must be of that kind too.
    which = KINDS[kind.last] if length == 1 and kind.last else kind
    port = chain.first_port + 100 + index
    await _launch(processes, chain, which, 0, (port, chain.first_port + chain.hops - length + 1))
    return port


async def _launch(processes: Processes, chain: Chain, kind: Kind, number: int, ports: tuple[int, int]) -> Process:
    program = find(kind.program)
    port, following = ports
    conf = chain.directory / f"{'node' if number else 'entry'}{number}-{port}.conf"
    conf.write_text(kind.write(chain, number, port, following))
    name = f"{chain.label}-{number}-{port}"
    arguments = [argument.format(port=port) for argument in kind.arguments]
    process = await processes.start(None, name, [program, *arguments, str(conf)])
    await wait_until_listening("this host", port, process)
    return process
