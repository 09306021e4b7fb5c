"""The exports that only their own programs can read, and what must never stand in a text."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.perimeter import flowspec, iptables, nftables

from .craft import EDGE4, KEY, NOW, OLD_KEY, SERVLET4, plan

_NEIGHBOR = """\
neighbor 127.0.0.1 {{
    router-id 127.0.0.2; local-address 127.0.0.1; local-as 65000; peer-as 65001;
    family {{ ipv4 flow; ipv6 flow; }}
{block}}}
"""


@pytest.mark.skipif(shutil.which("exabgp") is None, reason="needs exabgp")
def test_exabgp_takes_the_rules_and_announces_each(tmp_path: Path) -> None:
    text = flowspec.render(plan(), NOW)
    file = tmp_path / "exabgp.conf"
    file.write_text(_NEIGHBOR.format(block=text))
    environment = {**os.environ, "exabgp.log.level": "DEBUG", "exabgp.api.cli": "false"}
    done = subprocess.run(["exabgp", "--test", str(file)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in (done.stdout + done.stderr).lower()
    damaged = file.with_name("damaged.conf")
    damaged.write_text(file.read_text().replace("protocol gre", "protocol nonsense"))
    assert subprocess.run(["exabgp", "--test", str(damaged)], capture_output=True, check=False, env=environment).returncode != 0


def test_flowspec_holds_no_key_and_says_so() -> None:
    text = flowspec.render(plan(), NOW)
    assert "cannot see GRE keys" in text
    for key in (KEY, OLD_KEY):
        assert str(key) not in text
        assert f"{key:x}" not in text
    assert f"source {SERVLET4}/32; destination {EDGE4}/32; protocol gre; fragment not-a-fragment;" in text
    rest = re.findall(r"destination (\S+); } then { discard; }", text)
    assert sorted(rest) == sorted(str(each) for family in (4, 6) for each in plan().protected(family))


def test_expired_pairs_are_rendered_nowhere() -> None:
    late = NOW + 4000
    texts = [nftables.render(plan(), late), flowspec.render(plan(), late), *(iptables.render(plan(), late, f) for f in (4, 6))]
    assert not [text for text in texts if SERVLET4 in text or f"{KEY:08x}" in text]


def test_a_pair_that_never_ends_is_written_with_the_longest_timeout_that_nft_takes() -> None:
    text = nftables.render(plan(), NOW - 10 * 365 * 24 * 3600)
    assert f"timeout {nftables.MAX_LIFE_S}s" in text


@given(st.lists(st.from_regex(r"[a-z0-9._-]{1,63}", fullmatch=True), min_size=2, max_size=2, unique=True))
def test_names_of_tables_and_chains_are_valid_and_never_shared(sites: list[str]) -> None:
    tables = [nftables.table(site) for site in sites]
    assert len(set(tables)) == 2
    chains = [chain for site in sites for chain in iptables.chains(site)]
    assert len(set(chains)) == 4
    assert all(re.fullmatch(r"[a-z0-9_]+", table) for table in tables)
    assert all(len(chain) <= 28 for chain in chains)


@pytest.mark.parametrize("name", ["", "a b", 'x"; drop', "interface-with-a-long-name"])
def test_an_interface_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="network interface"):
        nftables.render(plan(), NOW, trusted=(name,))
