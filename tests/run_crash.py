"""Runs the whole program in child processes and ends them at random moments.

    python tests/run_crash.py DIRECTORY KILLS [SEED]

A smoke run with a random policy and trials is started, killed (SIGKILL) or told to end
(SIGTERM) and started again until it finishes, then the next run, until so many lives
were cut short. Then every finished run is compared, bit for bit, with one that nobody
disturbed: weights, optimiser, the strategy's state, metrics without times, trials,
skills, episodes.

Imports once and forks before any thread runs Python, so that a life is short. The last
line of the output is a JSON object; the exit status is 1 where a run ended differently.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import jax
import numpy as np
from absl import app

sys.path.insert(0, str(Path(__file__).with_name("helpers")))

from programs import CPU, ROOT, command, deterministic, save_random_policy, written

from reskill_jax import build, main, train, validate  # noqa: F401  # before the forks
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.grpo.optimizer import init_state
from reskill_jax.policy.decoder import abstract_params
from reskill_jax.policy.decoder_config import load_config
from reskill_jax.report.metrics import read_metrics
from reskill_jax.stored_config import get_config
from reskill_jax.termination import EXIT_CODE
from reskill_jax.workdir import Workdir

# How a life may end: 0 where it had nothing left to do.
ENDS = {
    "its own end": (0,),
    "SIGKILL": (-signal.SIGKILL, 0),
    "SIGTERM": (-signal.SIGTERM, EXIT_CODE, 0),
}
CHANGES = ("--config.eval.every=2", "--config.checkpoint.every=2")


def fork(work, output):
    """Let a child do some work; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        code = 0
    except SystemExit as error:
        code = 0 if error.code is None else error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(workdir, policy):
    """Start the program in a child."""

    def run():
        sys.argv[:] = command(workdir, policy, *CHANGES)[2:]  # flags are read there
        app.run(main.main)

    return fork(run, workdir.with_suffix(".output"))


def ended(child):
    """Wait for a child; return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def place(workdir):
    """Tell where a run is."""
    run = Workdir(workdir)
    if any(run.checkpoints.glob("*-tmp*")):
        return "writing a checkpoint"
    lines = read_metrics(run.metrics) if run.metrics.exists() else []
    return f"after step {lines[-1]['step']}" if lines else "before the first step"


def last_state(workdir):
    """Return the last step, the bytes of all arrays, and the document beside them."""
    config = get_config(str(workdir))
    decoder = load_config(config.policy.path)
    tx, _ = build.make_grpo(config, decoder)
    fresh = jax.eval_shape(
        lambda params: init_state(params, tx), abstract_params(decoder)
    )
    checkpointer = Checkpointer(Workdir(workdir).checkpoints, read_only=True)
    step, arrays, host = checkpointer.restore(fresh)
    checkpointer.close()
    return step, [np.asarray(x).tobytes() for x in jax.tree.leaves(arrays)], host


def differences(workdir, straight):
    """Name what a run has other than the one that nobody disturbed."""
    found = {"step": 0, "arrays": 0, "host document": 0, "metrics": 0, "written": 0}
    sides = [
        dict(
            zip(
                found,
                (*last_state(run), deterministic(run), written(run)),
                strict=True,
            )
        )
        for run in (workdir, straight)
    ]
    return [name for name in found if sides[0][name] != sides[1][name]]


def written_so_far(workdir):
    """Return what changes with every step, evaluation and checkpoint."""
    run = Workdir(workdir)
    size = run.metrics.stat().st_size if run.metrics.exists() else 0
    return size, sorted(path.name for path in run.checkpoints.glob("*"))


def wait(child, workdir, changes, seconds):
    """Wait for so many changes on disk and then some time, or for the child's end.

    Returns:
        Its exit status; None while it runs.
    """
    seen, until = written_so_far(workdir), None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if (now := written_so_far(workdir)) != seen:
            seen, changes = now, changes - 1
        if changes <= 0:
            until = until or time.monotonic() + seconds
            if time.monotonic() >= until:
                return None
        time.sleep(0.002)


def cut_short(directory, policy, kills, longest, moments):
    """End lives until there were so many; yield what happened to each.

    One in five is ended before it has written anything, the others after a few writes.
    """
    number = 0
    while kills:
        workdir = directory / f"run-{number}"
        child = start(workdir, policy)
        changes = moments.choice((0, 0, *range(1, 9)))
        delay = moments.uniform(0, longest / (20 if changes else 4))
        code, sent = wait(child, workdir, changes, delay), None
        if code is None:
            sent = moments.choice((signal.SIGKILL, signal.SIGTERM))
            where = place(workdir)
            os.kill(child, sent)
            code = ended(child)
        number += code == 0  # it was finished, perhaps while it was told to end
        name = sent.name if sent else "its own end"
        if code not in ENDS[name]:
            raise RuntimeError(f"{workdir} ended by {name} with status {code}")
        if sent:
            kills -= 1
            print(f"{name} after {changes} writes, {where}: {code}", flush=True)
            yield workdir, name, where


def run_all():
    directory, kills = Path(sys.argv[1]), int(sys.argv[2])
    moments = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    os.chdir(ROOT)
    os.environ.update(CPU)
    directory.mkdir(parents=True, exist_ok=True)
    policy = directory / "policy"
    if ended(fork(lambda: save_random_policy(policy), directory / "policy.output")):
        sys.exit((directory / "policy.output").read_text())
    straight = directory / "straight"
    for run in (directory / "warm-up", straight):  # the first one compiles
        began = time.monotonic()
        if code := ended(start(run, policy)):
            sys.exit(f"status {code}: {run.with_suffix('.output').read_text()}")
        longest = time.monotonic() - began
    print(f"an undisturbed run takes {longest:.1f} s", flush=True)
    runs, signals, places = [], {}, {}
    for run, sent, where in cut_short(directory, policy, kills, longest, moments):
        runs = [*runs, run] if run not in runs else runs
        signals[sent] = signals.get(sent, 0) + 1
        places[where] = places.get(where, 0) + 1
    if code := ended(start(runs[-1], policy)):
        sys.exit(f"status {code}: {runs[-1].with_suffix('.output').read_text()}")
    report = {
        "kills": kills,
        "signals": signals,
        "places": dict(sorted(places.items())),
        "runs": len(runs),
        "different": {
            run.name: found
            for run in (directory / "warm-up", *runs)
            if (found := differences(run, straight))
        },
    }
    print(json.dumps(report))
    sys.exit(bool(report["different"]))


if __name__ == "__main__":
    run_all()
