"""``make bench`` part ``crash-points``: SIGKILL at a thousand random moments, and what the restart finds.

The authority (its service, ledger and key files, as `polder authority serve` uses them, in a process of its own) enrols, renews,
revokes and rotates its issuer; a node (the whole of it) enrols over TLS, renews, and puts revocation lists in force. Each says what it
has acknowledged over a pipe; a kill comes at a random moment; the next process starts from the same files and is compared with what
was said. Processes are forked from one that has imported everything, so that a kill costs a fraction of a second. Writes
``bench/results/crash-points.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polder.api.authority_dir import found, load_authority
from polder.api.backup import LEDGER
from polder.api.client import fetch_revocations, renew
from polder.api.enrolment import enrol_here
from polder.api.issuers import open_offline
from polder.api.messages import EnrolRequest
from polder.api.rotation import Rotation
from polder.api.running import AuthorityShell
from polder.api.service import AuthorityService, invite
from polder.api.tls import new_key
from polder.lab import results
from polder.lab.results import Claim, Measure, Result
from polder.model import Kind, SpiffeId
from polder.model.overlay_messages import Caller
from polder.node.shell import Node
from polder.settings import AuthoritySettings, NodeSettings, StateDir
from polder.settings.identity import IdentityDir
from polder.shell.clock import chance, wall
from polder.store import Stage
from polder.trust.keys import key_from_der, key_to_der
from polder.trust.profiles import key_hash
from polder.trust.requests import make_csr
from polder.trust.tokens import Grant, token_hash

DOMAIN = "crash.test"
AUTHORITY_KILLS, NODE_KILLS = 700, 300
QUICK_AUTHORITY, QUICK_NODE = 12, 4
PATIENCE = 120.0
"""Seconds that a process has for its first word."""

Say = Callable[..., None]


@dataclass
class Child:
    """A forked process and the lines that it says."""

    pid: int
    pipe: int
    tail: bytes = b""

    @classmethod
    def fork(cls, work: Callable[[Say], None]) -> Child:
        """Run ``work`` in a child; it says JSON lines."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(read)
                work(lambda **facts: os.write(write, json.dumps(facts).encode() + b"\n") and None)
                status = 0
            except BaseException as error:  # the parent must hear of everything
                os.write(write, json.dumps({"what": "error", "why": f"{type(error).__name__}: {error}"}).encode() + b"\n")
            finally:
                os._exit(status)
        os.close(write)
        return cls(pid, read)

    def first(self) -> dict[str, Any]:
        """The first line."""
        while b"\n" not in self.tail:
            if not (more := os.read(self.pipe, 65536)):
                raise RuntimeError("the process ended without a word")
            self.tail += more
        line, _, self.tail = self.tail.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        if said.get("what") == "error":
            raise RuntimeError(said["why"])
        return said

    def kill(self) -> Iterator[dict[str, Any]]:
        """End it, and yield all that it said before."""
        os.kill(self.pid, signal.SIGKILL)
        while more := os.read(self.pipe, 65536):
            self.tail += more
        os.close(self.pipe)
        os.waitpid(self.pid, 0)
        for line in self.tail.split(b"\n")[:-1]:  # an unfinished line was not said
            yield json.loads(line)


@dataclass
class Word:
    """All that was acknowledged."""

    enrolled: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Token's hash → key's hash, serial."""
    revoked: set[str] = field(default_factory=set)
    retired: set[str] = field(default_factory=set)
    signer: str = ""
    epoch: int = 0
    acknowledgements: int = 0

    def hear(self, said: dict[str, Any]) -> None:
        """One acknowledgement."""
        if said["what"] == "error":
            raise RuntimeError(said["why"])
        self.acknowledgements += 1
        self.epoch = max(self.epoch, said.get("epoch", 0))
        match said["what"]:
            case "enrolled":
                self.enrolled[said["token"]] = (said["key"], said["serial"])
            case "revoked":
                self.revoked.add(said["who"])
            case "signs":
                self.signer = said["issuer"]
            case "retired":
                self.retired.add(said["issuer"])

    def check(self, found: dict[str, Any]) -> list[str]:
        """What a restart lacks."""
        wrong = [f"token {token[:8]} lost" for token, held in self.enrolled.items() if found["tokens"].get(token) != list(held)]
        wrong += [f"{who} is believed again" for who in self.revoked - set(found["revoked"])]
        wrong += [f"issuer {one[:8]} is believed again" for one in self.retired if one not in found["keys"]]
        if self.epoch > found["epoch"]:
            wrong.append(f"epoch {found['epoch']} after {self.epoch}")
        if not found["whole"] or found["signers"] != 1:
            wrong.append(f"the ledger is damaged, or {found['signers']} issuers sign")
        return wrong


def state_of(state: StateDir) -> tuple[Any, dict[str, Any]]:
    """Restart: load everything as `polder authority serve` does, and say what is there."""
    authority = load_authority(state, {})
    ledger, now = authority.ledger, wall()
    epoch, rows = ledger.revoked(now)
    with contextlib.closing(sqlite3.connect(state.authority / LEDGER)) as db:
        used = db.execute(
            "SELECT t.hash, c.key_hash, t.serial FROM tokens t JOIN certificates c ON c.serial = t.serial"
        ).fetchall()
        whole = db.execute("PRAGMA quick_check").fetchone() == ("ok",) and not db.execute("PRAGMA foreign_key_check").fetchall()
    found_here = {
        "what": "state",
        "tokens": {token.hex(): [key.hex(), serial] for token, key, serial in used},
        "revoked": [row.uri for row in rows if row.uri],
        "keys": [row.key_hash.hex() for row in rows if row.key_hash],
        "epoch": epoch,
        "whole": whole,
        "signers": sum(row.stage is Stage.CURRENT for row in ledger.issuers.rows()),
        "signer": authority.issuers.signer.key_hash.hex(),
    }
    return authority, found_here


def authority_work(state: StateDir, say: Say) -> None:
    """Start, say what is there, and work until killed."""
    authority, here = state_of(state)
    say(**here)
    rng = chance()
    ledger, rotation = authority.ledger, Rotation(authority.ledger, wall)
    service = AuthorityService(ledger, authority.issuers, authority.roots, authority.settings, wall, rng)
    root, _ = open_offline(state.offline)
    while True:
        step = rng.random()
        if step < 0.4:
            kind = rng.choice([Kind.USER, Kind.NODE])
            name, key = f"{kind}-{rng.getrandbits(48):x}", new_key()
            made = invite(ledger, Grant(kind, name), DOMAIN, wall(), 3600, rng)
            enrolled = service.enrol(EnrolRequest(made.token, make_csr(key).decode(), None))
            serial = next(entry for entry in (_serial(ledger, made.token, key),))
            hashed = token_hash(made.token).hex()
            say(what="enrolled", token=hashed, key=key_hash(key.public_key()).hex(), serial=serial, who=enrolled.uri)
        elif step < 0.7:
            known = [entry for entry, gone in ledger.identities() if not gone]
            if known:
                entry = rng.choice(known)
                epoch, _ = ledger.revoke(entry.id, "", wall())
                say(what="revoked", who=str(entry.id), epoch=epoch)
        else:
            _rotate(service, authority, rotation, root, say, rng)


def _serial(ledger: Any, token: str, key: Any) -> str:
    """What a repeated request is told: the same certificate."""
    hashed = key_hash(key.public_key())

    def never(_: Any) -> Any:
        raise AssertionError("a used token issued anew")

    issued = ledger.enrol(token_hash(token), hashed, None, wall(), never, never)
    return str(issued.serial)


def _rotate(service: AuthorityService, authority: Any, rotation: Rotation, root: Any, say: Say, rng: random.Random) -> None:
    """The next step of a rotation, or now and then back."""
    phase = rotation.status().phase
    if phase != "none" and rng.random() < 0.2:
        rotation.abort(authority.directory)
    elif phase == "none":
        rotation.prepare(authority.directory, root, authority.password, new_key, rng)
    elif phase == "prepared":
        rotation.announce(0.0)
    elif phase == "announced":
        rotation.switch_if_due()
    else:
        old = next(row.key_hash for row in authority.ledger.issuers.rows() if row.stage is Stage.OLD)
        if rotation.finish(authority.directory, force=True):
            say(what="retired", issuer=old.hex(), epoch=authority.ledger.epoch())
    service.use(authority.load_issuers())
    say(what="signs", issuer=service.issuers.signer.key_hash.hex(), epoch=authority.ledger.epoch())


def kill_authority(root: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """``kills`` deaths of the authority; one row."""
    state = StateDir(root)
    settings = AuthoritySettings(trust_domain=DOMAIN, listen="127.0.0.1:0", url="https://127.0.0.1:1")
    found(state, settings, wall(), chance(), new_key)
    word, lost = Word(), list[str]()
    for _ in range(kills):
        child = Child.fork(lambda say: authority_work(state, say))
        if rng.random() < 0.15:  # while it starts
            time.sleep(rng.uniform(0.0, 0.05))
            for said in child.kill():
                lost += word.check(said) if said["what"] == "state" else word.hear(said) or []
            continue
        lost += word.check(child.first())
        time.sleep(rng.uniform(0.0, 0.4))
        for said in child.kill():
            word.hear(said)
    last = Child.fork(lambda say: say(**state_of(state)[1]))
    lost += word.check(last.first())
    list(last.kill())
    counts = {"enrolled": len(word.enrolled), "revoked": len(word.revoked), "issuers_retired": len(word.retired)}
    return {
        "part": "authority",
        "kills": kills,
        "acknowledged": word.acknowledgements,
        "lost": len(lost),
        **counts,
        "what": lost[:5],
    }


def serve_authority(state: StateDir, say: Say) -> None:
    """A served authority whose list grows all the time."""

    async def serve() -> None:
        authority = load_authority(state, {})
        shell = await AuthorityShell.start(authority, state)
        say(what="served", url=f"https://{shell.address}", pin=authority.pin)
        ledger, rng = authority.ledger, chance()
        while True:
            epoch = await shell._server.work(ledger.epoch)
            await shell._server.work(lambda epoch=epoch: ledger.raise_epoch(epoch, "a change"))
            await asyncio.sleep(rng.uniform(0.01, 0.1))

    asyncio.run(serve())


def node_work(state: StateDir, url: str, pin: str, token: str, say: Say) -> None:
    """Enrol if need be, run the node, renew, put lists in force; until killed."""

    async def live() -> None:
        if not (state.node / "identity.toml").exists():
            identity, _ = await enrol_here(state, url, pin, token, "127.0.0.1:9", kinds=frozenset({Kind.NODE}))
            say(what="enrolled", who=str(identity.id), key=key_hash(key_from_der(identity.key).public_key()).hex())
        identity = IdentityDir.load(state.node)
        node = Node(state.node, NodeSettings(listen=("127.0.0.1:0",), advertise="127.0.0.1:9"))
        node.roles.remember(node._memory.records, wall())
        listed = node.roles.directory.revocations()
        mine = key_hash(key_from_der(identity.key).public_key()).hex()
        say(what="state", who=str(identity.id), key=mine, epoch=listed.epoch if listed else 0, serial=_leaf(identity))
        authority = Caller(Kind.ADMIN, "authority")
        await node.start()
        while True:
            signed = await fetch_revocations(identity, state.node)
            heeded = node.heed(signed, authority)
            say(what="heeded", epoch=heeded.epoch)
            if chance().random() < 0.5:
                identity, _ = await renew(identity)
                identity.save_renewed(state.node)
                say(what="renewed", serial=_leaf(identity))

    asyncio.run(live())


def _leaf(identity: IdentityDir) -> int:
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(identity.chain[0])
    assert key_to_der(key_from_der(identity.key)) == identity.key
    return int(certificate.not_valid_after_utc.timestamp())


def kill_node(root: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """``kills`` deaths of a node, a fresh one after every tenth; one row."""
    state = StateDir(root / "authority")
    settings = AuthoritySettings(
        trust_domain=DOMAIN, listen="127.0.0.1:0", url="https://127.0.0.1:1", rate_per_source=10_000, node_life=86_400
    )
    found(state, settings, wall(), chance(), new_key)
    server = Child.fork(lambda say: serve_authority(state, say))
    served = server.first()
    lost: list[str] = []
    acknowledged = lives = 0
    try:
        for number in range(kills):
            if number % 10 == 0:
                lives += 1
                place, who, key, epoch, end = StateDir(root / f"node-{lives}"), f"n{lives}", "", 0, 0
                authority = load_authority(state, {})
                token = invite(authority.ledger, Grant(Kind.NODE, who), DOMAIN, wall(), 3600, chance()).token
                authority.ledger.close()
            child = Child.fork(lambda say: node_work(place, served["url"], served["pin"], token, say))  # noqa: B023 - runs now
            if rng.random() < 0.6:
                said = child.first()
                while said["what"] == "enrolled":
                    acknowledged, key, said = acknowledged + 1, said["key"], child.first()
                lost += _judge(said, who, key, epoch, end)
                key = said["key"]
                time.sleep(rng.uniform(0.0, 0.6))
            else:
                time.sleep(rng.uniform(0.0, 0.6))  # in the midst of enrolment or start
            for said in child.kill():
                if said["what"] in ("state", "error"):
                    lost += _judge(said, who, key, epoch, end)
                acknowledged += said["what"] != "error"
                key = said.get("key", key)
                epoch, end = max(epoch, said.get("epoch", 0)), max(end, said.get("serial", 0))
    finally:
        list(server.kill())
    return {"part": "node", "kills": kills, "acknowledged": acknowledged, "lost": len(lost), "nodes": lives, "what": lost[:5]}


def _judge(said: dict[str, Any], who: str, key: str, epoch: int, end: int) -> list[str]:
    """What a node that starts again lacks."""
    if said["what"] == "error":
        return [said["why"]]
    wrong = [f"{said['who']} instead of {who}"] if SpiffeId.parse(said["who"]).name != who else []
    wrong += ["the key is another one"] if key and said["key"] != key else []
    wrong += [f"list of epoch {said['epoch']} after {epoch} was acknowledged"] if said["epoch"] < epoch else []
    return wrong + (["an older certificate"] if said["serial"] < end else [])


CLAIMS = (
    Claim("crash-points.kills", "random moments at which a process was killed", ">= 1000", Measure("kills", {}, "sum")),
    Claim(
        "crash-points.lost",
        "acknowledged facts that a restart lacked, or states that were not whole",
        "== 0",
        Measure("lost", {}, "sum"),
    ),
    Claim(
        "crash-points.acknowledged",
        "facts acknowledged before a kill and compared after it",
        ">= 1000",
        Measure("acknowledged", {}, "sum"),
    ),
)


def run(authority_kills: int, node_kills: int, seed: int) -> Result:
    """Both parts."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="polder-crash-") as directory:
        rows = []
        for part, kills, name in ((kill_authority, authority_kills, "a"), (kill_node, node_kills, "n")):
            began = time.monotonic()
            row = part(Path(directory) / name, kills, rng)
            rows.append(row | {"seconds": round(time.monotonic() - began, 1)})
            print(json.dumps(rows[-1]), flush=True)
    parameters = {"authority_kills": authority_kills, "node_kills": node_kills, "seed": seed}
    return Result("crash-points", parameters, rows, CLAIMS, "SIGKILL of the authority and of a node at random moments")


def main() -> int:
    """Run and write; exit status 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    counts = (QUICK_AUTHORITY, QUICK_NODE) if arguments.quick else (AUTHORITY_KILLS, NODE_KILLS)
    result = run(*counts, arguments.seed)
    if arguments.quick:
        return int(any(row["lost"] for row in result.rows))
    results.write(result)
    return int(not all(claim["holds"] for claim in result.record()["claims"]))


if __name__ == "__main__":
    sys.exit(main())
