"""An export of a running overlay: it holds what is needed, and no secret of any part, whatever is grepped for."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import msgspec

from polder.settings.identity import IdentityDir
from tests.e2e.conftest import NODES, World
from tests.support.overlay import POLDER, polder


def together(world: World, root: Path) -> Path:
    """A machine on which a node, a site's agent, two users and the authority run."""
    overlay = world.overlay
    root.mkdir()
    (root / "node").symlink_to(overlay.state("n1") / "node")
    (root / "authority").symlink_to(overlay.state("authority") / "authority")
    for kind, names in (("site", ["wiki"]), ("user", ["ann", "eve"])):
        (root / kind).mkdir()
        for name in names:
            (root / kind / name).symlink_to(overlay.state(f"{kind}-{name}") / kind / name)
    return root


def test_an_export_tells_what_happened_and_no_secret(world: World, tmp_path: Path) -> None:
    state = together(world, tmp_path / "state")
    subprocess.run(["curl", "-sS", "-x", f"http://{world.stranger_proxy}", "http://wiki.test/"], check=True, capture_output=True)
    told = polder(state, "incident", "export", str(tmp_path / "x.tar.gz"), "--names", str(tmp_path / "who.json"))
    assert told["parts"] == 5 and (tmp_path / "who.json").stat().st_mode & 0o077 == 0
    shown = subprocess.run(
        [*POLDER, "incident", "show", str(tmp_path / "x.tar.gz"), "--extract", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0 and "as it was made" in shown.stdout, shown.stderr
    files = {str(f.relative_to(tmp_path / "out")): f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}
    assert {"report.html", "doctor.json", "system.json"} <= files.keys()
    for part in (
        "site/wiki/status.json",
        "site/wiki/history-ten-minutes.json",
        "site/wiki/config/site.toml",
        "authority/status.json",
    ):
        assert f"parts/{part}" in files
    log = b"".join(data for name, data in files.items() if name.endswith("log.jsonl"))
    assert log and all(isinstance(json.loads(line), dict) for line in log.splitlines())
    whole = b"\n".join(files.values()) + "\n".join(files).encode()
    for what, secret in secrets_of(state):
        assert secret not in whole, what
    words = set(whole.decode("utf-8", "replace").replace('"', " ").replace("/", " ").split())
    assert not words & {"ann", "eve", *NODES}
    who = json.loads((tmp_path / "who.json").read_text())
    assert {"ann", "n1"} <= who.keys() and who["n1"].encode() in whole


def test_names_are_kept_when_asked_for_but_never_secrets(world: World, tmp_path: Path) -> None:
    state = together(world, tmp_path / "state")
    polder(state, "incident", "export", str(tmp_path / "x.tar.gz"), "--reveal")
    polder(state, "incident", "export", str(tmp_path / "x.tar.gz"), status=2)
    subprocess.run(
        [*POLDER, "incident", "show", str(tmp_path / "x.tar.gz"), "--extract", str(tmp_path / "out")], capture_output=True
    )
    whole = b"\n".join(f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file())
    assert b"n1" in whole and b"ann" in b"\n".join(str(f).encode() for f in (tmp_path / "out").rglob("*"))
    for what, secret in secrets_of(state):
        assert secret not in whole, what


def secrets_of(state: Path) -> list[tuple[str, bytes]]:
    """Everything that must never leave: private keys in any writing, beacon keys' secrets, the filter's keys."""
    found = []
    for directory in (state / "node", state / "site" / "wiki", state / "user" / "ann", state / "user" / "eve"):
        identity = IdentityDir.load(directory)
        found += [
            (f"key of {identity.id}", base64.b64encode(identity.key)[40:90]),
            ("key in hex", identity.key.hex().encode()[80:140]),
        ]
        for secret in identity.secrets:
            found += [
                ("epoch secret", form) for form in (base64.b64encode(secret.secret), secret.secret.hex().encode(), secret.secret)
            ]
    issuer = (state / "authority").resolve()
    for file in issuer.rglob("*.pem"):
        body = b"".join(line for line in file.read_bytes().splitlines() if not line.startswith(b"-----"))
        if b"PRIVATE" in file.read_bytes():
            found.append((f"{file}", body[40:90]))
    memory = state / "site" / "wiki" / "agent.mp"
    inner = msgspec.msgpack.decode(memory.read_bytes())["inner_secret"]
    found += [("inner addresses' secret", base64.b64encode(inner)), ("inner addresses' secret in hex", inner.hex().encode())]
    assert all(len(secret) >= 16 for _, secret in found) and len(found) > 8
    return found
