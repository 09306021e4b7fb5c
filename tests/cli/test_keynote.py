"""``polder keynote``: from keys to an explained answer, with the reference tool's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from polder.cli.main import polder


def run(*arguments: str) -> tuple[int, str]:
    """Exit status and output."""
    done = CliRunner().invoke(polder, ["keynote", *arguments], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value or 0, done.output


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two keys, a policy, and a credential from one to the other."""
    monkeypatch.chdir(tmp_path)
    for name, kind in (("alice", "rsa-hex:"), ("bob", "ed25519-base64:")):
        assert run("keygen", kind, "2048", f"{name}.pub", f"{name}.private")[0] == 0
    alice, bob = (Path(f"{name}.pub").read_text().strip() for name in ("alice", "bob"))
    Path("policy").write_text(f'Authorizer: "POLICY"\nLicensees:\n  {alice}\nConditions: app_domain == "test";\n')
    Path("unsigned").write_text(f'Authorizer:\n  {alice}\nLicensees:\n  {bob}\nConditions: @n < 5 -> "true";\nSignature:\n')
    Path("env").write_text('app_domain = "test"\nn = "3"\n')
    return tmp_path


def test_the_whole_way(place: Path) -> None:
    """Sign, put together, verify the signature, ask as the reference tool does, ask why."""
    assert Path("alice.private").stat().st_mode & 0o777 == 0o600
    status, signature = run("sign", "-v", "sig-rsa-sha256-base64:", "unsigned", "alice.private")
    assert status == 0
    Path("credential").write_text(Path("unsigned").read_text() + signature)
    assert run("sigver", "credential") == (0, "Signature verified.\nNext: ask with `polder keynote query`\n")
    asked = ["-r", "false,true", "-e", "env", "-l", "policy", "-k", "bob.pub", "credential"]
    assert run("verify", *asked)[1].splitlines()[0] == "Query result = true"
    status, text = run("query", "--explain", *asked)
    assert status == 0
    assert "by assertion 2 (true)" in text
    status, text = run("query", "--json", *asked, "-a", "n=7")
    told = json.loads(text)
    assert status == 2
    assert told["assertions"][1]["why"] == '@n < 5 is false (n is "7")'
    assert told["next"] == "ask again with --explain"


def test_what_does_not_verify(place: Path) -> None:
    """A changed credential is told, and ends with status 2; so does an old algorithm in a query that does not name it."""
    signature = run("sign", "sig-rsa-sha1-hex", "unsigned", "alice.private")[1].partition("\n")[2]
    Path("credential").write_text(Path("unsigned").read_text() + signature)
    assert "old" in run("sigver", "credential")[1]
    asked = ["-r", "false,true", "-e", "env", "-l", "policy", "-k", "bob.pub", "credential"]
    assert "Failed assertion 1 due to signature verification failure." in run("verify", *asked)[1]
    assert run("query", *asked, "--accept", "sig-rsa-sha1")[0] == run("query", *asked, "--old")[0] == 0
    Path("credential").write_text(Path("credential").read_text().replace("< 5", "< 9"))
    status, text = run("sigver", "credential")
    assert (status, "did not verify" in text) == (2, True)
    with pytest.raises(ValueError, match="holds no assertion"):
        run("sigver", "env") if Path("env").write_text("\n") else None


def test_keys_on_standard_output(place: Path) -> None:
    """A file called - is standard output; private halves leave their file only when asked to."""
    status, text = run("keygen", "ecdsa-p256-base64:", "256", "-", "-")
    assert status == 0
    assert text.count('"ecdsa-p256-base64:') == 1
    assert text.count('"private-ecdsa-p256-base64:') == 1
    status, text = run("keygen", "ed25519-hex:", "0", "x.pub", "x.private", "--json")
    assert "private-" not in text
    with pytest.raises(ValueError, match="never holds a private one"):
        run("keygen", "ed25519-hex:", "0", "x.pub", "-", "--json")
    with pytest.raises(ValueError, match="Unknown/unsupported"):
        run("keygen", "rot13-hex:", "1", "-", "-")
