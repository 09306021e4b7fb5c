"""What identity costs: issuing, verifying, enrolling and renewing over TLS. Prints one JSON object.

Run: ``python bench/identity.py [--count 200]``. One process holds authority and clients, so that the rates are of both together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from polder.api import client
from polder.api.authority_dir import found, load_authority
from polder.api.running import AuthorityShell
from polder.api.service import invite
from polder.api.tls import new_key
from polder.model import Kind, PathMode, SiteRecord, SpiffeId
from polder.settings import AuthoritySettings, StateDir
from polder.settings.identity import IdentityDir
from polder.shell.clock import chance, wall
from polder.trust import ChainVerifier, Profile, make_issuer, make_root, sign
from polder.trust.tokens import Grant

DOMAIN = "bench.test"


def micros(work: Callable[[], object], count: int) -> float:
    """Median microseconds of one call."""
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return round(statistics.median(times) * 1e6, 1)


def in_memory(count: int) -> dict[str, float]:
    """Costs without network and disk."""
    rng, now = random.Random(1), wall()
    root_key = new_key()
    root = make_root(root_key, DOMAIN, now, rng)
    issuer = make_issuer(root_key, root, new_key(), now, rng)
    key = new_key()
    profile = Profile(SpiffeId(DOMAIN, Kind.SITE, "wiki"), hosts=("wiki.example",))
    chain = issuer.issue(profile, key.public_key(), now, 86_400, rng)
    record = SiteRecord("wiki", 1, ("wiki.example",), (80, 443), (), (), PathMode.RING, int(now) + 60)
    signed = sign(record, key, chain)
    roots = (root.public_bytes(Encoding.DER),)
    warm = ChainVerifier(roots, DOMAIN)
    return {
        "issue_us": micros(lambda: issuer.issue(profile, key.public_key(), now, 86_400, rng), count),
        "sign_statement_us": micros(lambda: sign(record, key, chain), count),
        "verify_statement_new_chain_us": micros(lambda: ChainVerifier(roots, DOMAIN)(signed, now), count),
        "verify_statement_known_chain_us": micros(lambda: warm(signed, now), count),
        "leaf_bytes": len(chain[0]),
        "chain_bytes": sum(map(len, chain)),
        "signed_site_record_bytes": len(signed.payload) + len(signed.signature) + sum(map(len, chain)),
    }


async def over_tls(root: Path, count: int) -> dict[str, float]:
    """Enrolments and renewals against a real authority on loopback, eight at a time, everything synced to disk."""
    state, rng = StateDir(root), chance()
    settings = AuthoritySettings(trust_domain=DOMAIN, listen="127.0.0.1:0", url="https://127.0.0.1:1", rate_per_source=10_000)
    found(state, settings, wall(), rng, new_key)
    authority = load_authority(state, {})
    shell = await AuthorityShell.start(authority, state)
    url, gate = f"https://{shell.address}", asyncio.Semaphore(8)
    tokens = [invite(authority.ledger, Grant(Kind.NODE, f"n{n}"), DOMAIN, wall(), 600, rng).token for n in range(count)]

    async def enrol(n: int, key: ec.EllipticCurvePrivateKey) -> IdentityDir:
        async with gate:
            return await client.enrol(url, authority.pin, tokens[n], key, f"127.0.0.1:{n + 1}")

    async def renew(identity: IdentityDir) -> None:
        async with gate:
            await client.renew(identity)

    begin = time.perf_counter()
    identities = await asyncio.gather(*(enrol(n, new_key()) for n in range(count)))
    middle = time.perf_counter()
    await asyncio.gather(*map(renew, identities))
    end = time.perf_counter()
    await shell.close()
    return {"enrolments_per_s": round(count / (middle - begin), 1), "renewals_per_s": round(count / (end - middle), 1)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as directory:
        result = in_memory(count) | asyncio.run(over_tls(Path(directory) / "state", count))
    print(json.dumps(result | {"count": count}))


if __name__ == "__main__":
    main()
