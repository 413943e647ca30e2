"""What the programs of a run need of a device's memory, as text with advice.

The edge of `--mode=compile`: advice names keys of the configuration.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reskill_jax.memory_shares import ServerShare

GIB = 2**30


@dataclass(frozen=True)
class Program:
    """What is known of a compiled program; bytes are per device.

    Attributes:
        name: what it does.
        arguments: bytes of its inputs.
        temporary: bytes that it needs beside inputs and outputs, at most at a time.
        new: bytes of outputs that are not donated inputs.
        collectives: how often each kind of communication stands in the program; what
            stands in the loop over layers counts once. None if the compiler refused it,
            for it needs more than a device has.
        lines: of the program before it is compiled; they do not grow with the depth.
        seconds: that compiling took.
    """

    name: str
    arguments: int
    temporary: int
    new: int
    collectives: Mapping[str, int] | None
    lines: int
    seconds: float


@dataclass(frozen=True)
class MemoryPhase:
    """A part of a training step: what lies in memory during it, and its programs.

    Attributes:
        name: rollout, update, or both.
        arrays: bytes per device of what is there only in this phase, by name.
        programs: those that run in it.
    """

    name: str
    arrays: Mapping[str, int]
    programs: Sequence[Program]

    @property
    def peak(self) -> int:
        """Its arrays, and the most that a program needs beside them."""
        needed = (program.temporary + program.new for program in self.programs)
        extra = max(needed, default=0)
        return sum(self.arrays.values()) + extra


@dataclass(frozen=True)
class Report:
    """The programs of a run and what lies in memory beside them, bytes per device.

    Attributes:
        title: model and devices.
        resident: what stays in memory all the time, by name.
        phases: rollout and update, where neither needs the other's memory; else one.
        limit: of a device's memory, the trainer's share of it; None if not known.
        flops: of one micro-batch, forward and backward, per device.
        notes: what the reader must know besides.
        server: on the same devices; None without one.
    """

    title: str
    resident: Mapping[str, int]
    phases: Sequence[MemoryPhase]
    limit: int | None
    flops: float
    notes: Sequence[str] = ()
    server: ServerShare | None = None

    @property
    def peak(self) -> int:
        """All that stays, and the most that a phase needs beside it."""
        return sum(self.resident.values()) + max(phase.peak for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Whether the peak is within the memory of a device, as far as it is known."""
        served = self.server is None or self.server.fits
        return served and (self.limit is None or self.peak <= self.limit)


def render(report: Report) -> str:
    """Return the report as text."""
    lines = [report.title, "", "per device:", *_sizes(report.resident, "")]
    for phase in report.phases:
        lines += _sizes(phase.arrays, f"; {phase.name} only")
        for program in phase.programs:
            extra = program.temporary + program.new
            lines.append(f"  {extra / GIB:8.2f} GiB  temporary, in: {program.name}")
    known = "unknown" if report.limit is None else f"{report.limit / GIB:.2f} GiB"
    stays = sum(report.resident.values())
    lines += [
        *(
            f"  {(stays + p.peak) / GIB:8.2f} GiB  peak of the {p.name}, of {known}"
            for p in report.phases
        ),
        *_server(report.server),
        f"  {report.flops / 1e12:8.1f} TFLOP per micro-batch, by formula",
        "",
        "programs, with their collectives (those of the loop over layers once):",
    ]
    for program in (p for phase in report.phases for p in phase.programs):
        lines.append(
            f"  {program.name}: {program.lines:,} lines, {_outcome(program)} "
            f"{program.seconds:.0f} s"
        )
    if report.notes:
        lines += ["", *report.notes]
    if not report.fits:
        lines += ["", _advice(report)]
    return "\n".join(lines)


def _outcome(program: Program) -> str:
    if program.collectives is None:
        return "too large for a device, refused after"
    counts = ", ".join(f"{n} {kind}" for kind, n in program.collectives.items())
    return f"{counts or 'no collectives'}; compiled in"


def _sizes(arrays: Mapping[str, int], note: str) -> list[str]:
    return [f"  {size / GIB:8.2f} GiB  {name}{note}" for name, size in arrays.items()]


def _server(server: ServerShare | None) -> list[str]:
    if server is None:
        return []
    return [
        f"  {server.weights / GIB:8.2f} GiB  weights of the vLLM server beside it",
        f"  {server.cache / GIB:8.2f} GiB  left to it for keys and values: "
        f"{server.tokens:,} tokens, less its activations; an episode has up to "
        f"{server.longest:,}",
    ]


def _advice(report: Report) -> str:
    if report.server is not None and not report.server.fits:
        return (
            "It does not fit, in the server: raise "
            "config.engine.vllm.gpu_memory_utilization (and lower trainer_memory), or "
            "split its model with config.engine.vllm.tensor_parallel_size."
        )
    assert report.limit is not None
    phase = max(report.phases, key=lambda phase: phase.peak)
    temporary = phase.peak - sum(phase.arrays.values())
    split = sum(report.resident.values()) + sum(phase.arrays.values())
    room = report.limit - temporary
    text = f"It does not fit, in the {phase.name}: "
    if room <= 0:
        return text + (
            "activations alone are too large. Lower "
            "config.grpo.tokens_per_microbatch, choose config.policy.remat='full', or "
            "raise config.mesh.tensor."
        )
    if report.server is not None:
        text += (
            "raise config.engine.vllm.trainer_memory (0: updates use what sleeping "
            "servers leave) and lower gpu_memory_utilization, or "
        )
    elif "rollout" in phase.name:
        text += "lower config.engine.max_sequences (whole sequences in memory), or "
    return text + (
        f"split parameters over {math.ceil(split / room)} times as many devices, with "
        "config.mesh.fsdp or config.mesh.tensor."
    )
