"""No probe of a user or stranger tells nodes apart: the words of their answers are the same. (Times: ``bench.masking``.)"""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.masking_probes import INSIDE, User, open_tunnel, strangers
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from polder.lab.engines import Pki
from polder.lab.telling import distinct
from polder.model import Kind
from polder.shell.clock import wall
from tests.e2e.conftest import NODES, SITES, World


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user of another overlay."""
    folder = tmp_path_factory.mktemp("foreign")
    material = Pki("foreign.test", wall(), 1).member(Kind.USER, "eve")
    chain = [x509.load_der_x509_certificate(each).public_bytes(Encoding.PEM) for each in material.chain]
    (folder / "chain.pem").write_bytes(b"".join(chain))
    key = load_der_private_key(material.key, None)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return User(folder)


def address(world: World, node: str) -> tuple[str, int]:
    """Where a node listens."""
    host, _, port = world.overlay.nodes[node].hello["address"].rpartition(":")
    return host, int(port)


def test_no_probe_tells_nodes_apart(world: World, foreign: User) -> None:
    ann = User(Path(world.overlay.state("user-ann")) / "user" / "ann")
    for name, probe in INSIDE.items():
        answers = {node: [probe(address(world, node), ann) for _ in range(2)] for node in NODES}
        assert distinct(answers) == 1, f"{name}: {answers}"
    for name, stranger in strangers(foreign).items():
        answers = {node: [stranger.knock(address(world, node)) for _ in range(2)] for node in NODES}
        assert distinct(answers) == 1, f"{name}: {answers}"


@pytest.mark.parametrize("site", SITES.values())
def test_tunnels_and_their_refusals_read_the_same_at_every_node(world: World, site: str) -> None:
    for who, port in (("ann", 80), ("ann", 81), ("eve", 80)):
        user = User(Path(world.overlay.state(f"user-{who}")) / "user" / who)
        heads = {node: [open_tunnel(address(world, node), user.context(), f"{site}.test", port).answer] for node in NODES}
        assert distinct(heads) == 1, heads


def test_a_planted_difference_is_seen(world: World) -> None:
    ann = User(Path(world.overlay.state("user-ann")) / "user" / "ann")
    answers = {node: [INSIDE["no proxy request"](address(world, node), ann)] for node in NODES}
    answers["n2"] = [answers["n2"][0].replace("\r\n\r\n", "\r\nvia: 1.1 n2\r\n\r\n", 1)]
    assert distinct(answers) == 2
