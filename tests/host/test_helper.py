"""The host helper through its socket, in namespaces of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.engine.gre import GrePeer
from polder.host import Host, HostError, HostHelper, LocalHost, Tunnel, TunnelPeer, filters
from polder.host.filters import FilterKeeper
from polder.host.helper import Helper, Rights
from polder.host.messages import (
    Failed,
    FilterApply,
    FilterConfirm,
    FilterRollback,
    FilterStatus,
    Probe,
    Remove,
    Request,
    decode_reply,
    decode_request,
    encode,
)
from polder.lab import enclosure
from polder.perimeter import Pair, Place, Plan
from polder.shell.clock import wall
from polder.shell.gre import GreDevice
from polder.shell.sockets import Inherited

pytestmark = pytest.mark.lab

BASE = Plan("wiki", 1, ("198.19.1.2", "2001:db8:19:1::2"), pairs=(Pair("198.18.5.7", 7, 4_000_000_000),))
OTHER = BASE.admit(Pair("198.18.5.8", 8, 4_000_000_000))
Case = Callable[[Path], Awaitable[None]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Callable[[Path], None]:
    """Run an asynchronous test in namespaces of its own, in a process of its own."""
    CASES[function.__name__] = function

    def test(tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.host.test_helper", function.__name__, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 77:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr

    test.__name__ = function.__name__
    test.__doc__ = function.__doc__
    return test


@contextlib.asynccontextmanager
async def helper(directory: Path, **knobs: object) -> AsyncIterator[Helper]:
    """A helper on a thread; its end must not hang."""
    one = Helper(directory / "sock", {}, wall, directory=directory / "filter", **knobs)  # type: ignore[arg-type]
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        yield one
    finally:
        one.stop()
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()


def pairs_in_force() -> set[str]:
    """Sources that the kernel's table admits; empty without a table."""
    done = subprocess.run(["nft", "-j", "list", "table", "inet", "polder_wiki"], capture_output=True, text=True, check=False)
    if done.returncode:
        return set()
    sets = [entry["set"] for entry in json.loads(done.stdout)["nftables"] if "set" in entry]
    elements = next(each.get("elem", []) for each in sets if each["name"] == "pairs4")
    return {element["elem"]["val"]["concat"][0] for element in elements}


def need_a_second_user() -> None:
    """Leave as skipped where the user namespace knows one user only."""
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    if not any(first <= 65534 < first + count for first, _, count in ranges):
        print("needs a second user: run as root", file=sys.stderr)
        sys.exit(77)


def public() -> Path:
    """A directory that other users may enter: the enclosure's own /run, which nobody else sees."""
    directory = Path("/run/helper")
    directory.mkdir(mode=0o755)
    return directory


async def until(what: Callable[[], bool]) -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@case
async def test_an_unconfirmed_filter_goes_back_by_itself(directory: Path) -> None:
    async with helper(directory), HostHelper(directory / "sock") as host:
        await host.filter_apply(BASE, rollback_after=0.2)
        await until(lambda: pairs_in_force() == set())
        await host.filter_apply(BASE)
        state = await host.filter_apply(OTHER, rollback_after=0.2)
        assert state.in_force
        assert state.rollback_in is not None
        await until(lambda: pairs_in_force() == {"198.18.5.7"})
        assert (await host.filter_state("wiki")).rollback_in is None
        with pytest.raises(HostError, match="confirmed or rolled back already"):
            await host.filter_confirm("wiki")


@case
async def test_a_confirmed_filter_stays_also_when_the_agent_and_the_helper_leave(directory: Path) -> None:
    async with helper(directory), HostHelper(directory / "sock") as host:
        await host.filter_apply(BASE, rollback_after=60)
        await host.filter_confirm("wiki")
    assert pairs_in_force() == {"198.18.5.7"}


@case
async def test_a_helper_that_ends_takes_unconfirmed_filters_back(directory: Path) -> None:
    async with helper(directory), HostHelper(directory / "sock") as host:
        await host.filter_apply(BASE)
        await host.filter_apply(OTHER, rollback_after=600)
        assert pairs_in_force() == {"198.18.5.7", "198.18.5.8"}
    assert pairs_in_force() == {"198.18.5.7"}


@case
async def test_the_command_serves_who_it_was_told_to_and_ends_when_asked(directory: Path) -> None:
    need_a_second_user()
    directory = public()
    command = [sys.executable, "-m", "polder.cli.main", "host-helper", "--socket", str(directory / "sock"), "--json"]
    options = ["--allow-uid", "65534:wiki", "--run-dir", str(directory / "filter")]
    process = await asyncio.create_subprocess_exec(*command, *options, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert 65534 in json.loads(await process.stdout.readline())["uids"]
    (directory / "plan").write_bytes(encode(FilterApply(BASE)))
    (directory / "foreign").write_bytes(encode(FilterStatus("bank")))
    script = "import os,socket,sys; d=[open(n,'rb').read() for n in sys.argv[2:]]; os.setuid(65534); "
    script += "s=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]); "
    script += "[(s.send(m), sys.stdout.buffer.write(s.recv(65536))) for m in d]"
    arguments = [str(directory / name) for name in ("sock", "plan", "foreign")]
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, *arguments, stdout=asyncio.subprocess.PIPE)
    said, _ = await agent.communicate()
    assert b"filter_state" in said
    assert b"may not change the filter of bank" in said
    assert pairs_in_force() == {"198.18.5.7"}
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert not (directory / "sock").exists()


@case
async def test_rollback_means_the_last_confirmed_filter(directory: Path) -> None:
    async with helper(directory), HostHelper(directory / "sock") as host:
        await host.filter_apply(BASE)
        await host.filter_apply(OTHER, rollback_after=60)
        await host.filter_apply(OTHER.admit(Pair("198.18.5.9", 9, 4_000_000_000)), rollback_after=60)
        assert pairs_in_force() == {"198.18.5.7", "198.18.5.8", "198.18.5.9"}
        await host.filter_rollback("wiki")
        assert pairs_in_force() == {"198.18.5.7"}


@case
async def test_a_filter_that_the_kernel_refuses_leaves_no_trace(directory: Path) -> None:
    owner = subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert owner.stdin is not None
    owner.stdin.write("add table inet polder_wiki { flags owner; }\n")
    owner.stdin.flush()
    await until(
        lambda: "polder_wiki" in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    )
    async with helper(directory), HostHelper(directory / "sock") as host:
        with pytest.raises(HostError, match="not permitted"):
            await host.filter_apply(BASE, rollback_after=0.0)
        owner.stdin.close()
        owner.wait()
        assert (await host.filter_state("wiki")).rollback_in is None
        await host.filter_apply(BASE)
        with pytest.raises(HostError, match="network interface"):
            await host.filter_apply(OTHER, trusted=("no such thing!",))
    assert pairs_in_force() == {"198.18.5.7"}


@case
async def test_a_table_of_another_layout_is_replaced_whole(directory: Path) -> None:
    old = "table inet polder_wiki { set pairs4 { type ipv4_addr; }; chain arrive { type filter hook input priority 0; }; }"
    subprocess.run(["nft", "-f", "-"], input=old, text=True, check=True)
    async with helper(directory), HostHelper(directory / "sock") as host:
        await host.filter_apply(OTHER)
    assert pairs_in_force() == {"198.18.5.7", "198.18.5.8"}


@case
async def test_a_helper_that_died_is_followed_by_one_that_rolls_back(directory: Path) -> None:
    FilterKeeper(directory / "filter").apply(BASE, 0.0, Place.ROUTER, (), 0.0)
    assert pairs_in_force() == {"198.18.5.7"}
    async with helper(directory):
        await until(lambda: pairs_in_force() == set())


@case
async def test_the_watchdog_rolls_back_without_a_helper_and_ends(directory: Path) -> None:
    host = LocalHost(wall, directory / "filter")
    await host.filter_apply(BASE, rollback_after=0.2)
    watchdog = await asyncio.create_subprocess_exec(sys.executable, "-m", "polder.host.watchdog", str(directory / "filter"))
    assert await asyncio.wait_for(watchdog.wait(), 20) == 0
    assert pairs_in_force() == set()


@case
async def test_a_tunnel_comes_with_its_descriptors_changes_and_vanishes_with_them(directory: Path) -> None:
    peer = TunnelPeer("127.0.0.2", 5, ("fd00:1::/64", "198.18.9.0/24"))
    wish = Tunnel("pldwiki", ("fd00:1::1/128", "198.18.9.1/32"), ("127.0.0.1", "::1"), (peer,), mode="tun")
    async with helper(directory), HostHelper(directory / "sock") as host:
        up, descriptors = await host.tunnel(wish)
        assert (up.mode, list(descriptors)) == ("tun", ["tun", "raw4", "raw6"])
        assert routes() == {"fd00:1::/64", "198.18.9.0/24"}
        moved = Tunnel(wish.name, wish.addresses, wish.local, (TunnelPeer("127.0.0.2", 5, ("fd00:2::/64",)),), mode="tun")
        again, none = await host.tunnel(moved)
        assert (again.mode, none) == ("tun", {})
        assert routes() == {"fd00:2::/64"}
        for descriptor in descriptors.values():
            os.close(descriptor)
        assert "pldwiki" not in {name for _, name in socket.if_nameindex()}
        _, descriptors = await host.tunnel(wish)
        await host.remove_tunnel("pldwiki")
        assert "pldwiki" not in {name for _, name in socket.if_nameindex()}


@case
async def test_a_tunnel_passes_to_the_next_process_and_never_goes_away(directory: Path) -> None:
    def there() -> bool:
        return "pldwiki" in {name for _, name in socket.if_nameindex()}

    def device() -> GreDevice:
        return GreDevice(directory / "sock", "pldwiki", ("127.0.0.1",), 1400)

    peer = GrePeer("127.0.0.2", 5, (5,), ("fd00:1::2/128",))
    async with helper(directory):
        old, new = device(), device()
        assert (old.descriptors(), old.memory()) == ([], {}), "nothing stands yet"
        await old.set(("fd00:1::1/128",), (peer,))
        number = socket.if_nametoindex("pldwiki")
        new.resume(Inherited((name, os.dup(fd)) for name, fd in old.descriptors()), old.memory())
        assert new.stands
        old.release()
        await old.close()
        assert there() and socket.if_nametoindex("pldwiki") == number, "the same device, not one made anew"
        assert routes() == {"fd00:1::2"}
        other = GrePeer("127.0.0.3", 6, (6,), ("fd00:1::3/128",))
        await new.set(("fd00:1::1/128",), (other,))
        assert routes() == {"fd00:1::3"}
        assert socket.if_nametoindex("pldwiki") == number
        # Without a word of what is set, what was handed over is let go, and the device is made anew.
        fresh = device()
        fresh.resume(Inherited((name, os.dup(fd)) for name, fd in new.descriptors()), {})
        assert not fresh.stands
        await new.close()
        await until(lambda: not there())


def routes() -> set[str]:
    """Networks that are routed into the device."""
    text = "".join(
        subprocess.run(
            ["ip", family, "route", "show", "dev", "pldwiki", "proto", "static"], capture_output=True, text=True
        ).stdout
        for family in ("-4", "-6")
    )
    return {line.split()[0] for line in text.splitlines()}


@case
async def test_strangers_and_nonsense_are_refused_and_do_no_harm(directory: Path) -> None:
    need_a_second_user()
    directory = public()
    log: list[str] = []
    async with helper(directory, log=log.append):
        for wrong in (b"x", b"\xff" * 100, encode(Probe()) + b"x", b"\x81\xa4type\xa6tunnel"):
            raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            raw.connect(str(directory / "sock"))
            raw.send(wrong)
            reply = decode_reply(await asyncio.to_thread(raw.recv, 65536))
            assert isinstance(reply, Failed)
            assert "malformed" in reply.why
            raw.close()
        script = "import os,socket,sys; os.setuid(65534); s=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        script += "s.connect(sys.argv[1]); print(s.recv(65536))"
        stranger = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(directory / "sock"), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await stranger.communicate()
        assert b"--allow-uid 65534" in said
        async with HostHelper(directory / "sock") as host:
            assert set((await host.abilities()).missing) == {"ip", "nft", "tun", "kernel_gre"}
    assert any("65534" in line for line in log)


@case
async def test_a_helper_that_protects_one_network_shuts_no_other(directory: Path) -> None:
    async with helper(directory, protect=("198.19.0.0/16", "2001:db8:19::/48")), HostHelper(directory / "sock") as host:
        await host.filter_apply(BASE)
        with pytest.raises(HostError, match=r"does not shut 0\.0\.0\.0/0"):
            await host.filter_apply(Plan("wiki", 2, ("198.19.1.2",), networks=("0.0.0.0/0",)))


def test_an_agent_may_change_its_own_site_and_route_into_inner_networks_only() -> None:
    rights = Rights(frozenset({"wiki"}))
    for own in (
        FilterApply(BASE),
        FilterConfirm("wiki"),
        FilterRollback("wiki"),
        FilterStatus("wiki"),
        Remove("pldx", "wiki"),
        Probe(),
    ):
        rights.check(own)
    foreign = Plan("bank", 1, ("198.19.1.2",))
    for other in (FilterApply(foreign), FilterConfirm("bank"), FilterRollback("bank"), FilterStatus("bank"), Remove(site="bank")):
        with pytest.raises(HostError, match="may not change the filter of bank"):
            rights.check(other)
        Rights().check(other)
    rights.check(Tunnel("pldx", ("fd00::1/128",), peers=(TunnelPeer("192.0.2.1", 5, ("fd00:1::/48", "100.64.0.0/16")),)))
    for network in ("0.0.0.0/0", "::/0", "fd00::/8", "192.0.2.0/24", "198.18.0.0/15", "2001:db8::/64", "127.0.0.1/32"):
        with pytest.raises(HostError, match="no network for the inside"):
            rights.check(Tunnel("pldx", (), peers=(TunnelPeer("192.0.2.1", 5, (network,)),)))
        with pytest.raises(HostError, match="no network for the inside"):
            rights.check(Tunnel("pldx", (network,)))


@case
async def test_the_kernels_own_device_is_asked_for_in_words_that_ip_understands(directory: Path) -> None:
    host: Host = LocalHost(wall, directory / "filter")
    can = (await host.abilities()).missing["kernel_gre"]
    wish = Tunnel("pldk", ("fd00:1::1/128",), ("127.0.0.1",), (TunnelPeer("127.0.0.2", 5, ("fd00:1::/64",)),), mode="kernel")
    if can is None:
        up, descriptors = await host.tunnel(wish)
        assert (up.mode, descriptors) == ("kernel", {})
        await host.remove_tunnel("pldk")
    else:
        with pytest.raises(HostError, match="Unknown device type"):
            await host.tunnel(wish)


def _crash_at(step: int, directory: Path, plan: Plan, rollback_after: float | None) -> bool:
    """Apply ``plan`` in a child that dies before its ``step``-th side effect; whether it died."""
    child = os.fork()
    if child == 0:
        left = [step]

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return real(*arguments, **options)

            return call

        filters.run = dying(filters.run)  # type: ignore[assignment]
        for name in ("open", "fsync"):
            setattr(os, name, dying(getattr(os, name)))
        for name in ("replace", "unlink"):
            setattr(Path, name, dying(getattr(Path, name)))
        FilterKeeper(directory).apply(plan, wall(), Place.ROUTER, (), rollback_after)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@case
async def test_a_crash_at_any_step_leaves_a_way_back_to_the_confirmed_filter(directory: Path) -> None:
    keeper = FilterKeeper(directory)
    confirmed, fresh = {"198.18.5.7"}, {"198.18.5.7", "198.18.5.8"}
    for rollback_after, steps in ((600.0, 7), (None, 3)):
        died, step, seen = True, 0, set()
        while died:
            keeper.apply(BASE, wall(), Place.ROUTER, (), None)
            died = _crash_at(step, directory, OTHER, rollback_after)
            before = pairs_in_force()
            assert before in (confirmed, fresh)
            seen.add(len(before))
            keeper.rollback_due(all_of_them=True)
            if rollback_after is not None:
                assert pairs_in_force() == confirmed, f"step {step}"
            assert keeper.next_deadline() is None
            step += 1
        assert step >= steps, "there were steps to die at"
        assert seen == {1, 2}, "some before the swap, some behind it"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(decode_request(data), Request)


def test_requests_say_what_is_wrong_with_them() -> None:
    for name in ("eth0", "pld", "pld_x", "pldaaaaaaaaaaaaaa", "lo"):
        with pytest.raises(ValueError, match="tunnel's name"):
            Tunnel(name, ())
    with pytest.raises(ValueError, match="1280"):
        Tunnel("pldx", (), mtu=600)
    with pytest.raises(ValueError, match="one outer address"):
        Tunnel("pldx", (), ("192.0.2.1", "192.0.2.2"))
    bad = encode(Tunnel("pldx", ())).replace(b"pldx", b"eth0")
    with pytest.raises(ValueError, match="tunnel's name"):
        decode_request(bad)
    assert "12345678" not in repr(TunnelPeer("192.0.2.1", 12345678, ()))


def main() -> int:
    """Run one case inside."""

    def inside() -> int:
        asyncio.run(CASES[sys.argv[1]](Path(sys.argv[2])))  # type: ignore[arg-type]
        return 0

    try:
        return enclosure.run(inside)
    except enclosure.NoNamespacesError as error:
        print(error, file=sys.stderr)
        return 77


if __name__ == "__main__":
    sys.exit(main())
