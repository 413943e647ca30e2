"""Runs all checks of a run, shows a table, and writes a report that may be shared."""

import importlib.metadata
import os
import platform
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import jax
from ml_collections import ConfigDict

from reskill_jax.doctor import devices, host, learner, processes, sampler, services
from reskill_jax.doctor.checks import Check, Finding, Session, State, examine, several
from reskill_jax.scrub import anonymous, hide_secrets
from reskill_jax.storage import write_text
from reskill_jax.terminal import one_line, say
from reskill_jax.workdir import Workdir

REPORT = "doctor.txt"
_LONGEST = 400  # characters of a line of a finding in the table
_LINES = 12  # of those after the first, the last ones
_CLOSING_S = 30.0  # seconds for what was started to end
_QUICK_S, _WORK_S = 60.0, 300.0  # seconds for a look, and for what compiles or loads
# Variables whose values a report shows; of all others it holds nothing.
_VARIABLES = ("JAX_", "XLA_", "CUDA_", "NCCL_", "TPU_", "LIBTPU_", "TF_", "RESKILL_")


def checks(config: ConfigDict, seconds: float = 0.0) -> list[Check]:
    """Return what is looked at, in order: what costs little comes first.

    Args:
        config: of the run; starting servers may take as long as it says.
        seconds: limit of every check; 0: its own.
    """
    start = _WORK_S
    if config.engine.name == "vllm":
        start += config.engine.vllm.start_timeout_s
    ask = _QUICK_S + config.creator.llm.timeout_s
    patience = config.embedder.timeout_s * config.embedder.max_attempts
    embed = 2 * _QUICK_S + patience  # with pauses
    trained = ("devices", "policy")
    sampled = (*trained, "engine")
    found = [
        Check("versions", host.versions),
        Check("drivers", host.drivers),
        Check("configuration", host.configuration),
        Check("workdir", host.workdir),
        Check("processes", processes.processes, limit_s=2 * _QUICK_S),
        Check("devices", devices.devices, limit_s=2 * _QUICK_S),
        Check("tasks", services.tasks, ("configuration",), _WORK_S),
        Check("environment", services.environment, ("tasks",), 3 * _QUICK_S),
        Check("policy", learner.policy, ("configuration", "devices"), _WORK_S),
        Check("disk", host.space, ("policy",)),
        Check("attention", devices.attention_programs, trained, 2 * _QUICK_S),
        Check("engine", sampler.engine, trained, start),
        Check("creator", services.creator, ("configuration",), ask),
        Check("embedder", services.embedder, ("configuration",), embed),
        Check("log-probs", sampler.agreement, sampled, _WORK_S),
        Check("sleep", sampler.sleep, sampled, _WORK_S),
        Check("update", learner.update, trained, _WORK_S),
        Check("push", sampler.push, (*sampled, "update"), _WORK_S),
        Check("collective", devices.collective, trained),
    ]
    return [replace(c, limit_s=seconds) for c in found] if seconds else found


def diagnose(config: ConfigDict, workdir: Workdir, seconds: float = 0.0) -> int:
    """Check everything, print what is found, write the report.

    Args:
        config: of the run.
        workdir: of the run, which need not exist.
        seconds: limit of every check; 0: its own.

    Returns:
        The exit status, 1 where something is wrong.
    """
    started = time.monotonic()
    secrets = (config.creator.llm.api_key_variable,)
    session = Session(config, workdir)
    found = []
    for finding in examine(session, checks(config, seconds)):
        found.append(finding)
        say(hide_secrets(row(finding), variables=secrets))
    text = report(config, found)
    path = _write(workdir, anonymous(text, variables=secrets))
    _close(session)
    counts = Counter(finding.state for finding in found)
    say(
        ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
        + f" in {time.monotonic() - started:.0f} s. For a report of a bug, without "
        f"secrets as far as they can be told: {path}"
    )
    return 1 if counts[State.WRONG] else 0


def row(finding: Finding) -> str:
    """Write a finding as a line, with the rest of it and the way out below.

    Errors name every wrong key, or quote the end of a server's log, in lines of their
    own; more than is shown here is in the trace, like the traceback of a worker.
    """
    lines = [one_line(line[:_LONGEST]) for line in finding.text.splitlines()]
    first, *rest = takewhile(lambda line: not line.startswith("Traceback "), lines)
    line = f"{finding.state:<8} {finding.check:<14} {finding.seconds:6.1f} s  {first}"
    below = [line for line in rest if line][-_LINES:]
    if finding.way_out:
        below.append(f"-> {finding.way_out}")
    return "\n".join([line, *(f"{'':>33}{text}" for text in below)])


def report(config: ConfigDict, found: Sequence[Finding]) -> str:
    """Write what a report of a bug needs; not scrubbed yet."""
    packages = sorted(
        f"{d.metadata['Name']} {d.version}" for d in importlib.metadata.distributions()
    )
    variables = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(_VARIABLES)
    ]
    parts = [
        "reskill_jax doctor",
        f"{platform.platform()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores",
        *map(row, found),
        *(f"\n{f.check}\n{f.trace}" for f in found if f.trace),
        "\nenvironment variables\n" + "\n".join(variables),
        "\nconfiguration\n" + config.to_json(indent=1, sort_keys=True),
        "\npackages\n" + "\n".join(packages),
    ]
    return "\n".join(parts) + "\n"


def _write(workdir: Workdir, text: str) -> Path:
    """Write the report into the workdir, or where that cannot be, a temporary one."""
    number = jax.process_index() if several() else 0
    name = REPORT if not number else f"doctor-{number}.txt"
    path = workdir.root / name
    try:
        write_text(path, text)
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="reskill-")) / name
        path.write_text(text, encoding="utf-8")
    return path


def _close(session: Session) -> None:
    """End what checks have started; what hangs ends with this process."""
    closing = threading.Thread(target=session.resources.close, daemon=True)
    closing.start()
    closing.join(_CLOSING_S)
