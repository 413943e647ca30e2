"""The command line.

    python -m reskill_jax.main --config=configs/ENVIRONMENT.py:cpu --workdir=runs/a
    python -m reskill_jax.main --mode=evaluate --workdir=runs/a --step=40 \
        --config.mesh.fsdp=1 --config.eval.max_tasks=50
    python -m reskill_jax.main --mode=show --workdir=runs/a
    python -m reskill_jax.main --mode=export --workdir=runs/a --output=policies/a
    python -m reskill_jax.main --mode=compile --config=configs/ENVIRONMENT.py \
        --config.policy.path=Qwen3-8B --config.mesh.topology=v5e:4x4

    python -m reskill_jax.main --config=configs/ENVIRONMENT.py --workdir=/shared/a \
        --distributed                                # the same on every host

`train`, the default, starts a run or resumes it; any key of the configuration can be
changed by a flag such as ``--config.seed=1``. `compile` tells what a run would need of
devices that need not be there. The other modes look at a run; evaluation and export
take flags for where they run and for what is evaluated.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from reskill_jax import distributed
from reskill_jax.process import compilation_cache, keep_freed_memory
from reskill_jax.storage import write_text
from reskill_jax.stored_config import add_stored_config, check_changes
from reskill_jax.termination import EXIT_CODE, TerminatedError
from reskill_jax.workdir import Workdir

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; with a variant: configs/ENVIRONMENT.py:cpu."
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate", "export", "show", "compile"], "What to do."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Train in many processes, one per host or device, all started with this same "
    "command; --workdir is shared. jax asks the cluster who they are: Cloud TPU, GKE, "
    "SLURM, Open MPI.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no cluster tells."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many, beside --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "Which one this is, from 0.")
_STEP = flags.DEFINE_integer(
    "step", None, "Checkpoint to evaluate or export; by default the newest."
)
_OUTPUT = flags.DEFINE_string("output", None, "New directory, for --mode=export.")
_EXPORT_DTYPE = flags.DEFINE_enum(
    "export_dtype",
    "float32",
    ["float32", "bfloat16"],
    "Type of exported weights; float32 is exactly what was trained.",
)


def main(argv: Sequence[str]) -> None:
    """Pick a mode."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}: flags begin with --")
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save
    many = _DISTRIBUTED.value or _COORDINATOR.value is not None
    if many:
        if _MODE.value != "train":
            raise app.UsageError(f"--mode={_MODE.value} runs in one process")
        try:
            distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        except ValueError as error:
            sys.exit(f"error: {error}")
    if _MODE.value == "compile":
        _compile()
        return
    if not _WORKDIR.value:
        raise app.UsageError(f"--mode={_MODE.value} needs --workdir, a run's directory")
    workdir = Workdir(Path(_WORKDIR.value))
    try:
        _run(workdir)
    except TerminatedError as error:
        message, code = f"ended by {error}; the same command resumes", EXIT_CODE
    except BrokenPipeError:  # whoever reads our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except Exception as error:  # also a bug must not leave other processes waiting
        message, code = f"error: {_describe(error)}{_keep_traceback(workdir)}", 1
    else:
        return
    print(message, file=sys.stderr, flush=True)
    if many:
        # An orderly exit would wait for the others, who wait for this process.
        os._exit(code)
    sys.exit(code)


def _run(workdir: Workdir) -> None:
    """Do what a mode with a workdir does."""
    if _MODE.value == "show":
        from reskill_jax.report.show import show  # noqa: PLC0415

        print(show(workdir), flush=True)
        return
    compilation_cache(Path(".cache") / "xla")
    if _MODE.value == "evaluate":
        from reskill_jax.evaluate import evaluate_run  # noqa: PLC0415

        keep_freed_memory()
        evaluate_run(_changed_config(workdir), workdir, _STEP.value)
    elif _MODE.value == "export":
        _export(workdir)
    else:
        _train(workdir)


# Errors whose message is written for users; of any other, its type tells most.
_FOR_USERS = (ValueError, ArithmeticError, OSError, RuntimeError)


def _describe(error: Exception) -> str:
    if isinstance(error, _FOR_USERS) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error} (this should not happen: please report it)"


def _keep_traceback(workdir: Workdir) -> str:
    """Write the traceback into the run, if there is one; say where.

    Where even that cannot be written (a full disk), the message says so: it must not
    hide the error that led here.
    """
    if not workdir.root.is_dir():
        return ""
    process = f"-{jax.process_index()}" if not distributed.is_alone() else ""
    path = workdir.root / f"traceback{process}.txt"
    try:
        write_text(path, traceback.format_exc())
    except OSError as error:
        return f"\n(the traceback could not be written: {error})"
    return f"\n(the traceback is in {path})"


def _train(workdir: Workdir) -> None:
    from reskill_jax.build_strategy import settle_trial  # noqa: PLC0415
    from reskill_jax.report.expectations import introduce_trials  # noqa: PLC0415
    from reskill_jax.train import train  # noqa: PLC0415
    from reskill_jax.validate import validate  # noqa: PLC0415

    if _CONFIG.value is None:
        raise app.UsageError(
            "--mode=train needs --config, a file such as those in configs/"
        )
    config = _CONFIG.value
    keep_freed_memory()
    # First, for this waits for all: one that ends earlier takes others down unheard.
    distributed.agree("the configuration", config.to_json(sort_keys=True))
    validate(config)
    config = settle_trial(config)
    with ExitStack() as resources:
        distributed.on_leader(lambda: resources.enter_context(workdir.lock()))
        distributed.on_leader(lambda: workdir.bind(config.to_dict()))
        distributed.on_leader(lambda: introduce_trials(config, workdir))
        train(config, workdir)


def _compile() -> None:
    from reskill_jax.memory_plan import compile_run  # noqa: PLC0415
    from reskill_jax.memory_report import render  # noqa: PLC0415

    if _CONFIG.value is None:
        raise app.UsageError(
            "--mode=compile needs --config, a file such as those in configs/"
        )
    try:
        report = compile_run(_CONFIG.value)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(render(report))
    if not report.fits:
        sys.exit(1)


def _export(workdir: Workdir) -> None:
    from reskill_jax.export import export_run  # noqa: PLC0415

    if not _OUTPUT.value:
        raise app.UsageError("--mode=export needs --output, a directory to write")
    jax.config.update("jax_platforms", "cpu")  # a whole state, on one device: the host
    export_run(
        _changed_config(workdir),
        workdir,
        Path(_OUTPUT.value),
        dtype=_EXPORT_DTYPE.value,
        step=_STEP.value,
    )


def _changed_config(workdir: Workdir) -> ConfigDict:
    """Return the configuration of a run with the flags that may change it."""
    workdir.read_config()  # says where there is no run
    check_changes(_CONFIG.value, workdir)
    return _CONFIG.value


if __name__ == "__main__":
    app.run(main, argv=add_stored_config(sys.argv))
