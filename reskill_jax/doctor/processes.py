"""Do several processes find each other, and are they alike?"""

import os
import socket
import subprocess
import sys
import time

import jax

from reskill_jax import distributed
from reskill_jax.doctor.checks import Finding, Session, ok, several, slow, wrong

_SCRIPT = """
import sys
from reskill_jax import distributed
distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
print(distributed.gather(int(sys.argv[2])))
"""
_CLOCKS_S = 5.0  # apart


def processes(session: Session) -> Finding:
    """Compare the processes of the run; a single one starts two small ones."""
    if not several():
        return _two_on_cpus()
    mine = {
        "configuration": session.config.to_json(sort_keys=True),
        "versions": [jax.__version__, sys.version.split()[0]],
        "devices": [device.device_kind for device in jax.local_devices()],
        "time": time.time(),
        "host": os.uname().nodename,
    }
    everyone = distributed.gather(mine)
    for name in ("configuration", "versions", "devices"):
        if other := [i for i, his in enumerate(everyone) if his[name] != mine[name]]:
            return wrong(
                f"{name} of processes {other} differ from process "
                f"{jax.process_index()}'s",
                "start all with the same command, files and image, on hosts alike",
            )
    hosts = len({his["host"] for his in everyone})
    text = f"{len(everyone)} processes on {hosts} host(s), alike"
    clocks = [his["time"] for his in everyone]
    if (apart := max(clocks) - min(clocks)) > _CLOCKS_S:
        return slow(
            f"{text}; clocks or answers are {apart:.0f} s apart",
            "synchronise the clocks (NTP); otherwise the network is slow",
        )
    return ok(text)


def _two_on_cpus() -> Finding:
    """Start two processes on this host that exchange a number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    others = (
        "JAX_COORDINATOR",
        "JAX_NUM_PROCESSES",
        "JAX_PROCESS_ID",
        "SLURM_",
        "OMPI_",
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment["PYTHONPATH"] = path
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, address, str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        answers = [process.communicate(timeout=100) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
    for process, (said, complained) in zip(started, answers, strict=True):
        if process.returncode or not said.rstrip().endswith("[0, 1]"):
            end = [*said.splitlines(), *complained.splitlines()][-1:]
            return wrong(
                f"two processes on this host do not find each other: {end}",
                "allow connections to 127.0.0.1, and unset proxies for it (no_proxy)",
            )
    return ok("one; two on this host would find each other")
