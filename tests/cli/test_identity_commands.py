"""The commands of identity as people run them: installed command, real authority, exit statuses, nothing secret in the open."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import polder
from tests.support.overlay import POLDER, Process, environment, free_port


class Founded:
    """A served authority and a directory for machines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = root / "authority"
        made = polder(self.authority, "init", "--trust-domain", "o.test", "--listen", f"127.0.0.1:{free_port()}")
        self.url, self.pin = made["url"], made["pin"]
        self.process = Process(("authority", "serve"), self.authority, root / "authority.log").start()

    def token(self, *arguments: str) -> str:
        return str(polder(self.authority, "invite", *arguments)["token"])


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Founded]:
    made = Founded(tmp_path_factory.mktemp("overlay"))
    yield made
    made.process.stop()


def run(state: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*POLDER, *arguments], input=stdin, capture_output=True, text=True, env=environment(state), check=False)


def test_invite_prints_the_token_alone_and_the_command_beside_it(founded: Founded) -> None:
    done = run(founded.authority, "invite", "node", "n1", "--ttl", "10m")
    assert done.returncode == 0
    assert done.stdout.startswith("polder-token-")
    assert done.stdout.count("\n") == 1
    assert f"polder join {founded.url} --pin {founded.pin} --token-file -" in done.stderr
    assert done.stdout.strip() not in done.stderr


def test_the_whole_way_of_a_user(founded: Founded, tmp_path: Path) -> None:
    node, ann = tmp_path / "node", tmp_path / "ann"
    join = ("join", founded.url, "--pin", founded.pin, "--token-file", "-", "--listen", "127.0.0.1:7443")
    assert polder(node, *join, stdin=founded.token("node"))["identity"].startswith("spiffe://o.test/node/node-")
    assert (node / "node/node.toml").read_text().count('listen = ["127.0.0.1:7443"]') == 1
    far = ("join", founded.url, "--pin", founded.pin, "--token-file", "-", "--advertise", "192.0.2.7:7443")
    told = run(tmp_path / "far", *far, stdin=founded.token("node", "far")).stdout
    assert "let DNS know far.node.o.test" in told  # it does not speak from where it says it listens
    enroll = ("enroll", founded.url, "--pin", founded.pin, "--token-file")
    token = founded.token("site", "wiki", "--host", "Wiki.Example")
    polder(tmp_path / "site", *enroll, "-", stdin=token)
    (tmp_path / "token").write_text(founded.token("user", "ann", "--group", "staff") + "\n")
    said = polder(ann, *enroll, str(tmp_path / "token"))
    assert (said["identity"], said["groups"]) == ("spiffe://o.test/user/ann", ["staff"])
    made = polder(ann, "client", "profile", "--for", "ann", "--out", str(tmp_path / "profile"))
    assert set(made["files"]) == {"ann.p12", "overlay-root.pem", "polder.pac", "start-chromium.sh", "README.txt", "README.html"}
    pac = (tmp_path / "profile/polder.pac").read_text()
    assert '"wiki.example"' in pac
    assert "HTTPS 127.0.0.1:7443" in pac
    assert (tmp_path / "profile/ann.p12").stat().st_mode & 0o077 == 0
    for file in (tmp_path / "profile").iterdir():
        assert made["password"].encode() not in file.read_bytes()
    opened = run_openssl("pkcs12", "-in", str(tmp_path / "profile/ann.p12"), "-passin", f"pass:{made['password']}", "-nokeys")
    assert opened.count("BEGIN CERTIFICATE") == 2
    listed = polder(founded.authority, "authority", "list")["identities"]
    assert {"spiffe://o.test/user/ann", "spiffe://o.test/site/wiki"} <= {row["identity"] for row in listed}


def run_openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_refusals_have_their_status_and_reason(founded: Founded, tmp_path: Path) -> None:
    enroll = ("enroll", founded.url, "--pin", founded.pin, "--token-file", "-")
    token = founded.token("user", "bob")
    polder(tmp_path / "a", *enroll, stdin=token)
    assert polder(tmp_path / "b", *enroll, stdin=token, status=2)["verdict"] == "already-used"
    other_pin = ("enroll", founded.url, "--pin", "sha256:" + "0" * 64, "--token-file", "-")
    assert polder(tmp_path / "b", *other_pin, stdin=token, status=2)["verdict"] == "foreign-identity"
    nobody = ("enroll", f"https://127.0.0.1:{free_port()}", "--pin", founded.pin, "--token-file", "-")
    assert polder(tmp_path / "b", *nobody, stdin=token, status=1)["retry_may_help"] is True
    assert "no token there" in polder(tmp_path / "b", *enroll, stdin="\n", status=2)["error"]
    assert "say where others dial" in polder(tmp_path / "b", "join", *enroll[1:], stdin=token, status=2)["error"]
    assert "at least one host" in polder(founded.authority, "invite", "site", "x", status=2)["error"]
    assert "no authority here" in polder(tmp_path / "b", "invite", "user", "x", status=2)["error"]
    assert "no user is enrolled" in polder(tmp_path / "c", "client", "profile", "--out", str(tmp_path / "o"), status=2)["error"]
    assert run(tmp_path / "b", *enroll, "--nonsense").returncode == 2


def test_revoke_and_reinstate(founded: Founded, tmp_path: Path) -> None:
    enroll = ("enroll", founded.url, "--pin", founded.pin, "--token-file", "-")
    polder(tmp_path / "a", *enroll, stdin=founded.token("user", "eve"))
    silent = polder(founded.authority, "authority", "list")["identities"]
    nodes = {row["identity"].rpartition("/")[2] for row in silent if "/node/" in row["identity"]}
    # Nodes that enrolled and do not run cannot answer: that is a finding, and the revocation stands.
    status = 3 if nodes else 0
    before = polder(founded.authority, "revoke", "user", "eve", "--reason", "left", status=status)
    assert before["keys"] == 1 and set(before["silent"]) == nodes and before["acknowledged"] == []
    assert polder(founded.authority, "revoke", "user", "eve", status=status)["epoch"] == before["epoch"]
    assert polder(founded.authority, "invite", "user", "eve", status=2)["verdict"] == "revoked"
    token = str(polder(founded.authority, "invite", "user", "eve", "--reinstate")["token"])
    assert polder(tmp_path / "b", *enroll, stdin=token)["identity"] == "spiffe://o.test/user/eve"
    assert polder(founded.authority, "revoke", "user", "nobody", status=2)["verdict"] == "unknown"


def test_init_may_enrol_the_first_node(tmp_path: Path) -> None:
    made = polder(tmp_path, "init", "--trust-domain", "p.test", "--name", "n0", "--node-listen", "127.0.0.1:7999")
    assert made["node"] == "spiffe://p.test/node/n0"
    assert "127.0.0.1:7999" in (tmp_path / "node/identity.toml").read_text()
    assert polder(tmp_path, "init", "--trust-domain", "p.test", status=2)["verdict"] == "denied"


def test_secrets_are_in_no_argument_and_no_log(founded: Founded, tmp_path: Path) -> None:
    token = founded.token("user", "carol")
    enroll = ("enroll", founded.url, "--pin", founded.pin, "--token-file", "-")
    done = run(tmp_path, *enroll, stdin=token)
    assert done.returncode == 0
    log = founded.process.log.read_text()
    assert "spiffe://o.test/user/carol" in log
    for text in (done.stdout, done.stderr, log):
        assert token not in text
    records = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "room", "text"} <= set(record) for record in records)


def test_a_killed_authority_comes_back_with_everything(tmp_path: Path) -> None:
    founded = Founded(tmp_path)
    token = founded.token("user", "dave")
    enroll = ("enroll", founded.url, "--pin", founded.pin, "--token-file", "-")
    polder(tmp_path / "a", *enroll, stdin=token)
    os.kill(founded.process.process.pid, signal.SIGKILL)
    founded.process.stop()
    again = Process(("authority", "serve"), founded.authority, tmp_path / "again.log").start()
    assert again.hello["pin"] == founded.pin
    assert polder(tmp_path / "b", *enroll, stdin=token, status=2)["verdict"] == "already-used"
    again.stop()
    assert again.process.returncode == 0


def test_the_served_certificate_is_tls_1_3_and_the_authoritys(founded: Founded) -> None:
    host, _, port = founded.url.removeprefix("https://").partition(":")
    pem = ssl.get_server_certificate((host, int(port)))
    text = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName"], input=pem, capture_output=True, text=True, check=True
    )
    assert "URI:spiffe://o.test/admin/authority" in text.stdout
