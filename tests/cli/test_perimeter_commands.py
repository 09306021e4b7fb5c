"""``protect``, ``doctor`` and ``filter`` with a real overlay, origin and kernel, in namespaces of their own."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from polder.lab import enclosure
from polder.perimeter import from_json, to_json
from tests.perimeter.craft import KEY, plan
from tests.support.overlay import Overlay, polder, until

pytestmark = pytest.mark.lab

HERE = "198.18.7.1"
"""An address of this machine that others would reach."""
SEEN: dict[str, Any] = {}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


def serve(address: str) -> str:
    """A web server at ``address``; returns its port."""
    server = http.server.ThreadingHTTPServer((address, 0), _Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return str(server.server_port)


def story(root: Path) -> None:
    """Protect an exposed and a hidden origin, let the doctor look, apply a filter and take it away."""
    subprocess.run(["ip", "address", "add", f"{HERE}/32", "dev", "lo"], check=True)
    overlay = Overlay(root)
    try:
        overlay.found()
        node = overlay.state("n1")
        join = ["join", overlay.url, "--pin", overlay.pin, "--token-file", "-", "--listen", f"{HERE}:7443"]
        polder(node, *join, stdin=overlay.token("node", "n1"))
        overlay.run_node("n1")
        _protect(overlay)
        _filter(overlay)
    finally:
        overlay.close()


def _protect(overlay: Overlay) -> None:
    bare, hidden = overlay.enrol_site("bare", "bare.test"), overlay.enrol_site("hidden", "hidden.test")
    open_port, inner_port = serve("0.0.0.0"), serve("127.0.0.1")
    url = f"http://127.0.0.1:{open_port}"
    SEEN["dead"] = polder(bare, "protect", "http://127.0.0.1:9", "--allow", "anyone", status=1)
    SEEN["foreign"] = polder(bare, "protect", url, "--host", "evil.test", status=2)
    SEEN["written_early"] = (bare / "site/bare/site.toml").exists()
    SEEN["bare"] = polder(bare, "protect", url, "--allow", "group:staff")
    SEEN["port"] = int(open_port)
    SEEN["twice"] = polder(bare, "protect", url, status=2)
    SEEN["hidden"] = polder(hidden, "protect", f"http://127.0.0.1:{inner_port}", "--allow", "anyone")
    SEEN["doctor_bare"] = ask(bare, "doctor")[1]
    overlay.run("site-hidden", "site", "run", "hidden")
    until(lambda: polder(hidden, "site", "status", "hidden")["serving"] > 0, "a servlet serves")
    SEEN["doctor_hidden"] = ask(hidden, "doctor")[1]


def _filter(overlay: Overlay) -> None:
    state = overlay.state("site-bare")
    SEEN["no_plan"] = polder(state, "filter", "plan", "bare", status=1)
    wanted = plan(site="bare", pairs=tuple(type(p)(p.source, p.key, 4_000_000_000) for p in plan().pairs[:1]))
    (state / "site/bare/filter.json").write_bytes(to_json(wanted))
    SEEN["plan"] = polder(state, "filter", "plan")
    SEEN["other"] = polder(state, "filter", "plan", "x", "--plan", str(state / "site/bare/filter.json"), status=2)
    SEEN["piped"] = polder(overlay.state("n1"), "filter", "plan", "bare", "--plan", "-", stdin=to_json(wanted).decode())
    target = state / "rules"
    forms = {}
    for form in ("nftables", "iptables", "ip6tables", "exabgp", "plan"):
        command = [sys.executable, "-m", "polder.cli.main", "filter", "export", "bare", "--format", form, "--state", str(state)]
        subprocess.run([*command, "--output", str(target)], check=True, capture_output=True)
        if form == "plan":
            SEEN["plan_again"] = from_json(target.read_bytes()) == wanted
        forms[form] = (oct(target.stat().st_mode & 0o777), f"{KEY:#010x}" in target.read_text())
    SEEN["export"] = forms
    SEEN["applied"] = polder(state, "filter", "apply", "bare", "--rollback-after", "300ms")
    until(lambda: not _in_force(state), "the rollback by the watchdog")
    polder(state, "filter", "apply", "bare", "--rollback-after", "60s")
    SEEN["confirmed"] = polder(state, "filter", "confirm", "bare")
    SEEN["status"] = polder(state, "filter", "status", "bare")
    SEEN["confirmed_twice"] = polder(state, "filter", "confirm", "bare", status=2)
    polder(state, "filter", "apply", "bare", "--rollback-after", "60s")
    SEEN["rolled_back"] = polder(state, "filter", "rollback", "bare")
    SEEN["still"] = _in_force(state)
    polder(state, "filter", "remove", "bare", "--yes")
    SEEN["removed"] = _in_force(state)


def _in_force(state: Path) -> bool:
    return bool(ask(state, "filter", "status", "bare")[1]["in_force"])


def ask(state: Path, *command: str) -> tuple[int, dict[str, Any]]:
    """Run a command that may have findings; its exit status and answer."""
    whole = [sys.executable, "-m", "polder.cli.main", *command, "--json", "--state", str(state)]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What the story saw."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "tests.cli.test_perimeter_commands", root]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode == 77:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def test_an_origin_that_is_dead_or_foreign_is_not_protected(seen: dict[str, Any]) -> None:
    assert "does not answer" in seen["dead"]["error"]
    assert seen["dead"]["retry_may_help"]
    assert "polder invite site bare --host evil.test" in seen["foreign"]["error"]
    assert not seen["written_early"]
    assert "--replace" in seen["twice"]["error"]


def test_an_exposed_origin_is_seen_from_here_and_from_a_node(seen: dict[str, Any]) -> None:
    bare = seen["bare"]
    assert bare["reachable_at"] == [HERE]
    assert bare["reachable_from_nodes"] == [{"address": HERE, "ports": [seen["port"]]}]
    assert any("perimeter is open" in warning for warning in bare["warnings"])
    assert bare["origin"]["status"] == 200


def test_a_hidden_origin_is_not_reached(seen: dict[str, Any]) -> None:
    hidden = seen["hidden"]
    assert (hidden["reachable_at"], hidden["reachable_from_nodes"], hidden["probed_by"]) == ([], [], 1)
    assert hidden["next"].startswith("polder site run hidden")


def test_the_doctor_finds_what_is_wrong_and_nothing_else(seen: dict[str, Any]) -> None:
    wrong = {each["check"] for each in seen["doctor_bare"]["findings"] if each["good"] is False}
    assert wrong == {"site/bare process", "site/bare direct access"}
    assert seen["doctor_hidden"]["wrong"] == 0
    good = {each["check"] for each in seen["doctor_hidden"]["findings"] if each["good"]}
    assert {"clock", "site/hidden certificate", "site/hidden key", "site/hidden origin", "site/hidden process"} <= good


def test_a_plan_is_shown_without_keys_and_exported_with_care(seen: dict[str, Any]) -> None:
    assert seen["no_plan"]["retry_may_help"]
    assert {pair["key"] for pair in seen["plan"]["pairs"]} == {"withheld"}
    assert seen["piped"]["pairs"] == seen["plan"]["pairs"]
    assert "plan of site bare" in seen["other"]["error"]
    assert seen["plan_again"]
    assert seen["export"] == {form: ["0o600", form in ("nftables", "iptables")] for form in seen["export"]}


def test_a_filter_is_undone_unless_confirmed(seen: dict[str, Any]) -> None:
    assert seen["applied"]["in_force"]
    assert seen["applied"]["rollback_in_s"] <= 0.3
    assert seen["status"]["rollback_in_s"] is None
    assert set(seen["status"]["counters"]) == {"gre", "flows", "too_big", "refused"}
    assert "confirmed or rolled back already" in seen["confirmed_twice"]["error"]
    assert (seen["still"], seen["removed"]) == (True, False)


def main() -> int:
    """The story inside."""

    def inside() -> int:
        story(Path(sys.argv[1]))
        print(json.dumps(SEEN), flush=True)
        return 0

    try:
        return enclosure.run(inside)
    except enclosure.NoNamespacesError as error:
        print(error, file=sys.stderr)
        return 77


if __name__ == "__main__":
    sys.exit(main())
