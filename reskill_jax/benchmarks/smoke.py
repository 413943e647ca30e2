"""How long it takes to try everything: `:smoke` of all configurations, in a row.

    python -m reskill_jax.benchmarks.smoke

Each is the main program in a process of its own. Programs are compiled anew, unless
JAX_COMPILATION_CACHE_DIR names a directory that keeps them. On a machine that is busy
with other work, CPU seconds say more than seconds do.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.command_line import start

TARGET = 360.0  # seconds, all together


def configurations() -> list[str]:
    """Return the files of all configurations, sorted."""
    return sorted(map(str, Path("configs").glob("*.py")))


def run(config: str, workdir: Path) -> tuple[float, float]:
    """Run one configuration's smoke variant to its end.

    Returns:
        Seconds, and CPU seconds of all processes that it started.

    Raises:
        CalledProcessError: the program failed; its message is on the terminal.
    """
    environment = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "xla")}
    command = [sys.executable, "-m", "reskill_jax.main", f"--config={config}:smoke"]
    begin, before = time.monotonic(), _cpu_seconds()
    subprocess.run(
        [*command, f"--workdir={workdir}"], check=True, env=environment | os.environ
    )
    return time.monotonic() - begin, _cpu_seconds() - before


def _cpu_seconds() -> float:
    """Return the CPU seconds of children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run them one after the other, and print the table."""
    rows: list[list[str | float]] = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        for config in _CONFIGS.value or configurations():
            seconds, cpu = run(config, Path(directory) / Path(config).stem)
            rows.append([Path(config).stem, seconds, cpu])
    seconds, cpu = (sum(float(row[k]) for row in rows) for k in (1, 2))
    rows.append(["all", seconds, cpu])
    print(format_table(["configuration", "seconds", "CPU seconds"], rows))
    figures = {f"{row[0]}, CPU seconds": float(row[2]) for row in rows}
    figures["load before"] = load
    report("smoke", figures, {"seconds": Bar(seconds, TARGET, at_most=True)})


if __name__ == "__main__":
    _CONFIGS = flags.DEFINE_list("configs", [], "Files; none: all that there are.")
    start(main)
