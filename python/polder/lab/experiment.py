"""Experiments are files: a topology, readers, phases with attacks, and the claims that the rows must bear out.

A phase reads the site ``direct``ly or through ``polder``. Phases run in the order of the file; the overlay is built, and the
perimeter filter shut, before the first phase that needs it: direct phases come first.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from polder.lab import load, origin, phases, topology
from polder.lab.attacks import Attack, group_hosts
from polder.lab.loopback import LoopbackWorld
from polder.lab.overlay import Overlay
from polder.lab.phases import Outcome, Plan
from polder.lab.processes import Processes
from polder.lab.results import Claim, Measure, Result
from polder.lab.world import Scene, World

SITE_NAME = "www.polder.test"


class BadExperimentError(ValueError):
    """The file does not describe an experiment; the text names the field."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Workload(_Frozen):
    """What every reader does."""

    scheme: Literal["http", "https"] = "https"
    think: float = Field(0.5, gt=0, description="mean pause between page loads, seconds")
    limit: float = Field(5.0, gt=0, description="a page load that takes longer has failed, seconds")


class Phase(_Frozen):
    """A time during which nothing changes."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    title: str
    path: Literal["direct", "polder"] = "direct"
    seconds: float = Field(20.0, gt=0, le=3600)
    attacks: tuple[Attack, ...] = ()


class Protection(_Frozen):
    """How the site hides."""

    transport: Literal["gre", "dialout"] = "gre"
    mode: Literal["ring", "beacon", "direct"] = "beacon"
    servlets: int = Field(2, ge=1, le=16)


class MeasureSpec(_Frozen):
    """A claim's number: see ``results.Measure``."""

    field: str
    where: dict[str, Any] = {}
    fold: str = "only"
    over: MeasureSpec | None = None

    def measure(self) -> Measure:
        """The measure."""
        return Measure(self.field, self.where, self.fold, self.over.measure() if self.over else None)


class ClaimSpec(_Frozen):
    """What must hold."""

    id: str
    text: str
    target: str
    measure: MeasureSpec

    def claim(self) -> Claim:
        """The claim."""
        return Claim(self.id, self.text, self.target, self.measure.measure())


class Experiment(_Frozen):
    """A whole experiment."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    title: str
    reproduces: str = Field("", description="the table, figure or sentence that it belongs to")
    topology: str = "demo"
    counts: dict[str, int] = Field({}, description="other numbers of hosts in some groups")
    workload: Workload = Workload()
    protection: Protection = Protection()
    phases: tuple[Phase, ...] = Field(min_length=1)
    claims: tuple[ClaimSpec, ...] = ()

    @model_validator(mode="after")
    def _direct_comes_first(self) -> Experiment:
        paths = [phase.path for phase in self.phases]
        if paths != sorted(paths):
            raise ValueError("direct phases come before those through polder: the filter that shuts the site stays shut")
        return self

    def on_loopback(self) -> Experiment:
        """What of it can be shown without namespaces: the quiet phases through Polder. Nothing is claimed of them."""
        kept = tuple(phase for phase in self.phases if phase.path == "polder" and not phase.attacks)
        if not kept:
            raise BadExperimentError(f"nothing of {self.name!r} can be shown without namespaces")
        return self.model_copy(update={"phases": kept, "claims": ()})

    def paced(self, seconds: float | None) -> Experiment:
        """The same with phases of another length."""
        if seconds is None:
            return self
        return self.model_copy(update={"phases": tuple(p.model_copy(update={"seconds": seconds}) for p in self.phases)})


def names() -> list[str]:
    """The shipped experiments."""
    folder = resources.files("polder.lab") / "experiments"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def read(name: str) -> Experiment:
    """An experiment by the name of a shipped file or by path; raises ``BadExperimentError``."""
    shipped = resources.files("polder.lab") / "experiments" / f"{name}.toml"
    try:
        return Experiment.model_validate(tomllib.loads(shipped.read_text() if shipped.is_file() else Path(name).read_text()))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise BadExperimentError(f"experiment {name!r}: {error}; there are: {', '.join(names())}") from error


Say = Callable[[str], None]


@dataclass
class Run:
    """A run in progress: what the watchers see."""

    experiment: Experiment
    directory: Path
    namespaces: bool = True
    say: Say = lambda _: None
    watch: phases.Watch = lambda _: None
    outcomes: list[Outcome] = field(default_factory=list)
    done: Callable[[], None] = lambda: None
    """Called after the last phase: the picture is complete."""
    then: Callable[[Overlay], Awaitable[None]] | None = None
    """Called with the overlay after the last phase, before everything ends; may wait for as long as it likes."""

    async def go(self) -> None:
        """Build, run every phase, tear down. With ``namespaces`` it must run inside the enclosure.

        Raises ``ProcessError``, ``LinkError``, ``SwitchError``.
        """
        experiment = self.experiment
        self.say("laying the wide area")
        described = topology.load(experiment.topology).resized(experiment.counts)
        world = World(described, self.directory) if self.namespaces else LoopbackWorld(described, self.directory)
        async with AsyncExitStack() as stack:
            stack.callback(world.close)
            processes = await stack.enter_async_context(Processes(self.directory, separate=world.separate))
            self.say("starting the site's web server")
            site = await start_origin(processes, world, self.directory)
            overlay: Overlay | None = None
            for number, phase in enumerate(experiment.phases):
                if phase.path == "polder" and overlay is None:
                    overlay = Overlay(processes, world, self.directory, experiment.protection.model_dump(), self.say)
                    await overlay.build(SITE_NAME)
                self.say(phase.title)
                plan = self._plan(phase, world, site, overlay)
                self.outcomes.append(await phases.run(processes, world, plan, self.watch, seed=1 + number))
                if overlay is not None:
                    overlay.check()
            self.done()
            if overlay is not None and self.then is not None:
                await self.then(overlay)

    def _plan(self, phase: Phase, world: Scene, site: origin.Origin, overlay: Overlay | None) -> Plan:
        work = self.experiment.workload
        url = f"{work.scheme}://{SITE_NAME}/"
        readers = {
            user: load.Reader(
                url=url,
                start=0,
                duration=phase.seconds,
                seed=number,
                think=work.think,
                limit=work.limit,
                proxy=overlay.proxies[user] if overlay and phase.path == "polder" else None,
                resolve={SITE_NAME: world.hosts["site"].ipv4},
                ca=str(site.ca),
            )
            for number, user in enumerate(group_hosts(world, "user"), 1)
        }
        return Plan(phase.name, phase.title, phase.seconds, readers, phase.attacks)

    def result(self) -> Result:
        """The result for the file; claims are judged when it is written."""
        return result_of(self.experiment, self.outcomes)


def result_of(experiment: Experiment, outcomes: list[Outcome]) -> Result:
    """Rows, parameters and claims of a finished run."""
    parameters = experiment.model_dump(mode="json", exclude={"claims", "name", "title"})
    claims = [claim.claim() for claim in experiment.claims]
    return Result(experiment.name, parameters, [outcome.row() for outcome in outcomes], claims, experiment.title)


async def start_origin(processes: Processes, world: Scene, directory: Path) -> origin.Origin:
    """The site's nginx, on both ports; with a network of its own in both families."""
    hosts = ("0.0.0.0", "[::]") if world.separate else (world.hosts["site"].ipv4,)  # noqa: S104 - the laboratory's own
    listen = [(host, port, port == world.ports.https) for host in hosts for port in world.ports]
    return await origin.start(processes, "site", directory / "nginx", [SITE_NAME], listen)


def new_directory(name: str) -> Path:
    """``build/lab/NAME-TIME`` below the working directory."""
    return Path("build") / "lab" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
