"""A profile for a browser without a forwarder: key and certificate to import, a narrow root, a PAC file, and how to use them."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from polder.client.pac import pac_file
from polder.model import Refused, Verdict
from polder.settings.identity import IdentityDir
from polder.trust.keys import key_from_der, to_pkcs12
from polder.trust.profiles import read_identity

_README = """Reading {sites} through the overlay {domain}, as {user}

This directory is a key: whoever has {user}.p12 and its password is {user}. Keep it private; delete it when it is imported.

What is in it
  {user}.p12         your certificate and key (the password was shown once, when this was made)
  overlay-root.pem   lets the browser accept the overlay's nodes as its proxies; it cannot vouch for any other site
  polder.pac         sends {sites} to the overlay and nothing else

Firefox
  1. Settings, Privacy & Security, Certificates, View Certificates.
     Your Certificates, Import: {user}.p12. Authorities, Import: overlay-root.pem, tick "identify websites".
  2. Settings, Network Settings, Automatic proxy configuration URL: the path of polder.pac after file://
     (such as file:///home/you/polder/polder.pac).

Chromium, Chrome, Edge on Linux
  1. Settings, Privacy and security, Security, Manage certificates.
     Your certificates, Import: {user}.p12. Custom, Trusted certificates, Import: overlay-root.pem.
  2. Start it with   sh start-chromium.sh

Safari, and Chromium or Edge on macOS and Windows
  1. Open {user}.p12 and overlay-root.pem; macOS puts them into the key chain (set the root to "Always trust" for SSL), Windows
     into the certificate store (the root under Trusted Root Certification Authorities). If the key chain rejects the .p12, make
     the profile again with --compatible.
  2. System settings, network, proxies: automatic configuration. These systems want the PAC file at an http(s) URL: put
     polder.pac on any web server that you reach without the overlay. It holds no secret.

When the browser asks which certificate to use, choose {user} ({domain}); it is asked once for each access point.
The certificate ends on {end}. The forwarder (`polder browse`) renews by itself; a browser does not: make a new
profile before then.
"""

_START = """#!/bin/sh
# Starts Chromium with the overlay's PAC file; a file:// URL would be ignored.
exec "${{BROWSER:-chromium}}" --proxy-pac-url='data:application/x-ns-proxy-autoconfig;base64,{pac}' "$@"
"""


@dataclass(frozen=True)
class Profile:
    """Files by name, and which of them are secret (mode 0600)."""

    files: dict[str, bytes]
    secret: frozenset[str]
    not_after: int


def access_points(identity: IdentityDir, given: Iterable[str]) -> tuple[str, ...]:
    """``host:port`` of the proxies: those given, else all members that the authority named."""
    points = tuple(given) or tuple(member.address for member in identity.members)
    if not points:
        raise Refused(Verdict.UNKNOWN, "no access point is known yet: enrol a node, renew, or give --access-point", retry=True)
    return points


def make_profile(
    identity: IdentityDir, points: tuple[str, ...], hosts: tuple[str, ...], password: str, *, compatible: bool = False
) -> Profile:
    """The files for ``identity``; raises ``Refused`` when no site is named."""
    if not hosts:
        raise Refused(Verdict.UNKNOWN, "no protected site is known yet: name one with --host, or wait until one has enrolled")
    if not identity.browser_root:
        raise Refused(Verdict.UNKNOWN, "this identity came without a root for browsers: enrol again with --replace")
    user, domain = identity.id.name, identity.id.trust_domain
    end = read_identity(x509.load_der_x509_certificate(identity.chain[0])).not_after
    pac = pac_file(hosts, (f"HTTPS {point}" for point in points)).encode()
    label = f"{user} ({domain})"
    sites = ", ".join(hosts)
    when = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = _README.format(user=user, domain=domain, sites=sites, end=when)
    files = {
        f"{user}.p12": to_pkcs12(label, key_from_der(identity.key), identity.chain, password, compatible=compatible),
        "overlay-root.pem": identity.browser_root.encode(),
        "polder.pac": pac,
        "start-chromium.sh": _START.format(pac=base64.b64encode(pac).decode()).encode(),
        "README.txt": text.encode(),
        "README.html": _page(label, text).encode(),
    }
    return Profile(files, frozenset({f"{user}.p12"}), end)


def _page(title: str, text: str) -> str:
    style = "body{max-width:50em;margin:3em auto;padding:0 1em;font:1em/1.5 sans-serif}pre{white-space:pre-wrap;font:inherit}"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
    return f"{head}<h1>{html.escape(title)}</h1><pre>{html.escape(text)}</pre></html>\n"
