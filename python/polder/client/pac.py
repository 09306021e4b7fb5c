"""Proxy auto-configuration: which names a browser sends to which proxies.

A protected name never goes DIRECT: when no proxy answers, the browser shows an error instead of asking the flooded site in the
open. The file holds no secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

_TEMPLATE = """// Which sites are read through the overlay. Everything else is none of its business.
var exact = %(exact)s;
var suffixes = %(suffixes)s;
function FindProxyForURL(url, host) {
  host = host.toLowerCase().replace(/\\.$/, "");
  var ours = Object.prototype.hasOwnProperty.call(exact, host);
  for (var i = 0; i < suffixes.length && !ours; i++) ours = host.slice(-suffixes[i].length) === suffixes[i];
  return ours ? %(proxies)s : "DIRECT";
}
"""


def pac_file(hosts: Iterable[str], proxies: Iterable[str]) -> str:
    """The file for ``hosts`` (names, or ``*.suffix``) and ``proxies`` (``PROXY ip:port``, ``HTTPS host:port``), best first."""
    names = [host.lower() for host in hosts]
    return _TEMPLATE % {
        "exact": json.dumps({name: 1 for name in names if not name.startswith("*.")}, sort_keys=True),
        "suffixes": json.dumps(sorted(name[1:] for name in names if name.startswith("*."))),
        "proxies": json.dumps("; ".join(proxies)),
    }
