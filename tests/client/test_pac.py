"""The PAC file, run by a real JavaScript engine where there is one."""

import json
import shutil
import subprocess

import pytest

from polder.client.pac import pac_file

PAC = pac_file(("Wiki.Example", "*.shop.example"), ("HTTPS a.example:7443", "HTTPS b.example:7443"))
PROXIES = "HTTPS a.example:7443; HTTPS b.example:7443"


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript engine (node) on this machine")
def test_protected_names_never_go_direct_and_others_always_do() -> None:
    hosts = {
        "wiki.example": PROXIES,
        "WIKI.example.": PROXIES,
        "a.shop.example": PROXIES,
        "shop.example": "DIRECT",
        "evilwiki.example": "DIRECT",
        "wiki.example.evil.test": "DIRECT",
        "constructor": "DIRECT",
        "__proto__": "DIRECT",
    }
    script = f"{PAC}\nconsole.log(JSON.stringify({json.dumps(list(hosts))}.map(h => FindProxyForURL('https://' + h + '/', h))))"
    out = subprocess.run(["node", "-e", script], check=True, capture_output=True, text=True).stdout
    assert json.loads(out) == list(hosts.values())


def test_names_cannot_break_out_of_the_file() -> None:
    text = pac_file(('x"; alert(1); "',), ("PROXY 127.0.0.1:1",))
    assert '"x\\"; alert(1); \\""' in text
    assert "DIRECT" in text
