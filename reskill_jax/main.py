r"""The command line.

    python -m reskill_jax.main --config=configs/ENVIRONMENT.py:cpu --workdir=runs/a
    python -m reskill_jax.main --mode=adapt --config=configs/OTHER.py --workdir=runs/b \
        --config.policy.path=policies/a
    python -m reskill_jax.main --mode=evaluate --workdir=runs/a --step=40 \
        --config.mesh.fsdp=1 --config.eval.max_tasks=50
    python -m reskill_jax.main --mode=evaluate --workdir=runs/a --step=best \
        --config.eval.temperature=1 --config.eval.samples=4
    python -m reskill_jax.main --mode=show --workdir=runs/a
    python -m reskill_jax.main --mode=report --workdir=runs/a --compare=runs/b,runs/c
    python -m reskill_jax.main --mode=export --workdir=runs/a --output=policies/a
    python -m reskill_jax.main --mode=compile --config=configs/ENVIRONMENT.py \
        --config.policy.path=Qwen3-8B --config.mesh.topology=v5e:4x4
    python -m reskill_jax.main --mode=doctor --config=configs/ENVIRONMENT.py \
        --workdir=runs/a

    python -m reskill_jax.main --config=configs/ENVIRONMENT.py --workdir=/shared/a \
        --distributed                                # the same on every host

`train`, the default, starts a run or resumes it; `adapt` does the same with a policy
that never learns. Any key of the configuration can be changed by a flag such as
``--config.seed=1``. `compile` tells what a run would need of devices that need not be
there. The other modes look at a run; evaluation and export
take flags for where they run and for what is evaluated.
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from reskill_jax import distributed, terminal
from reskill_jax.command_line import discard_output, parse_flags, unexpected
from reskill_jax.modules import ModuleError
from reskill_jax.process import compilation_cache, tune_memory
from reskill_jax.storage import write_text
from reskill_jax.stored_config import add_stored_config, check_changes, complete
from reskill_jax.termination import EXIT_CODE, TerminatedError
from reskill_jax.workdir import Workdir

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; with a variant: configs/ENVIRONMENT.py:cpu."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "adapt", "evaluate", "export", "show", "report", "compile", "doctor"],
    "What to do.",
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
_STEP = flags.DEFINE_string(
    "step",
    None,
    "Checkpoint to evaluate or export: a number, or best (see checkpoint.best); by "
    "default the newest.",
)
_COMPARE = flags.DEFINE_list(
    "compare", [], "Directories of other runs, for --mode=report."
)
_FOLLOW = flags.DEFINE_bool(
    "follow", False, "With --mode=show: go on as the run does, until it ends."
)
_CHECK_SECONDS = flags.DEFINE_float(
    "check_seconds",
    0.0,
    "Limit of each check of --mode=doctor, seconds; 0: that of the check.",
    lower_bound=0.0,
)
_OUTPUT = flags.DEFINE_string("output", None, "New directory, for --mode=export.")
_EXPORT_DTYPE = flags.DEFINE_enum(
    "export_dtype",
    "float32",
    ["float32", "bfloat16"],
    "Type of exported weights; float32 is exactly what was trained.",
)
_EXPORT_ADAPTERS = flags.DEFINE_bool(
    "export_adapters", False, "Export adapters alone, as PEFT loads them."
)


def main(argv: Sequence[str]) -> None:
    """Pick a mode."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save
    terminal.guard()
    many = _DISTRIBUTED.value or _COORDINATOR.value is not None
    if problem := next(_usage_problems(argv, many), ""):
        terminal.fail(problem)
    if many:
        try:
            with terminal.activity("waiting for the other processes"):
                distributed.initialize(
                    _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
                )
        except ValueError as error:
            terminal.fail(error)
    workdir = Workdir(Path(_WORKDIR.value)) if _WORKDIR.value else None
    code, message = _outcome(workdir)
    if not code:
        return
    try:
        if message:
            print(terminal.printable(message), file=sys.stderr, flush=True)
    finally:
        if many:
            # An orderly exit would wait for the others, who wait for this process.
            os._exit(code)
    sys.exit(code)


def _usage_problems(argv: Sequence[str], many: bool) -> Iterator[str]:
    """Yield which flags do not fit the mode."""
    mode = f"--mode={_MODE.value}"
    if problem := unexpected(argv):
        yield problem
    if many and _MODE.value not in ("train", "adapt", "doctor"):
        yield f"{mode} runs in one process"
    if _MODE.value in ("train", "adapt", "compile", "doctor") and _CONFIG.value is None:
        yield f"{mode} needs --config, a file such as those in configs/"
    if not _WORKDIR.value and _MODE.value != "compile":
        yield f"{mode} needs --workdir, a run's directory"
    if _MODE.value == "export" and not _OUTPUT.value:
        yield f"{mode} needs --output, a directory to write"
    if _COMPARE.value and _MODE.value != "report":
        yield f"--compare={','.join(_COMPARE.value)} needs --mode=report"
    if _FOLLOW.value and _MODE.value != "show":
        yield "--follow needs --mode=show"
    if not re.fullmatch(r"best|\d+", _STEP.value or "best", re.ASCII):
        yield f"--step={_STEP.value!r}: give the number of a step, or best"
    if _MODE.value in ("train", "adapt") and _STEP.value is not None:
        yield (
            f"--step={_STEP.value} has no meaning with {mode}, which goes on from the "
            "newest checkpoint: leave it out, or choose --mode=evaluate or export"
        )
    if _MODE.value in ("train", "adapt") and _OUTPUT.value:
        yield (
            f"--output={_OUTPUT.value!r} has no meaning with {mode}: leave it out, or "
            "choose --mode=export"
        )


def _outcome(workdir: Workdir | None) -> tuple[int, str]:
    """Do what a mode does; return the exit status, and what to say at the end.

    Nothing is raised, also by a bug: other processes would wait for this one.
    """
    try:
        return _run(workdir), ""
    except TerminatedError as error:
        return EXIT_CODE, f"ended by {error}; the same command resumes"
    except KeyboardInterrupt:
        return 128 + signal.SIGINT, "interrupted; the same command resumes"
    except BrokenPipeError:
        discard_output()
        return 0, ""
    except (Exception, SystemExit) as error:
        return 1, f"error: {_describe(error)}"


def _run(workdir: Workdir | None) -> int:
    """Do what a mode does; return the exit status."""
    if _MODE.value == "compile":
        return _compile()
    assert workdir is not None
    if _MODE.value == "show":
        from reskill_jax.report.show import show  # noqa: PLC0415

        terminal.say(show(workdir))
        if _FOLLOW.value:
            from reskill_jax.report.follow import follow  # noqa: PLC0415

            for line in follow(workdir):
                terminal.say(line)
        return 0
    if _MODE.value == "report":
        from reskill_jax.report.page import write_report  # noqa: PLC0415

        others = [Workdir(Path(name)) for name in _COMPARE.value]
        path = write_report(
            workdir, others, complete=lambda stored: complete(stored).config
        )
        terminal.say(f"the report is {path}")
        return 0
    compilation_cache(Path(".cache") / "xla")
    if _MODE.value == "evaluate":
        from reskill_jax.evaluate import evaluate_run  # noqa: PLC0415

        tune_memory()
        config = _changed_config(workdir)
        _share_devices(config)
        evaluate_run(config, workdir, _STEP.value)
    elif _MODE.value == "doctor":
        return _diagnose(workdir)
    elif _MODE.value == "export":
        _export(workdir)
    else:
        _train(workdir)
    return 0


# Errors whose message is written for users; of any other, its type tells most.
_FOR_USERS = (ValueError, ArithmeticError, OSError, RuntimeError)


class _KeptError(Exception):
    """What ended a run, with a word on where its traceback is."""

    def __init__(self, error: BaseException, kept: str):
        super().__init__(error, kept)
        self.error, self.kept = error, kept


def _describe(error: BaseException) -> str:
    if isinstance(error, _KeptError):
        return f"{_in_words(error.error)}{error.kept or _shown(error.error)}"
    return f"{_in_words(error)}{_shown(error)}"


def _in_words(error: BaseException) -> str:
    if _is_for_users(error):
        return str(error)
    return f"{type(error).__name__}: {error} (this should not happen: please report it)"


def _shown(error: BaseException) -> str:
    """Return the traceback that a report of a bug needs, where no file keeps it."""
    if _is_for_users(error) and not isinstance(error, ModuleError):
        return ""
    return "\n" + "".join(traceback.format_exception(error)).rstrip("\n")


def _is_for_users(error: BaseException) -> bool:
    return isinstance(error, _FOR_USERS) and bool(str(error))


@contextmanager
def _traceback_kept(workdir: Workdir) -> Iterator[None]:
    """Write the traceback of what ends a run into it; this process has locked it."""
    try:
        yield
    except (TerminatedError, BrokenPipeError):
        raise
    except (Exception, SystemExit) as error:
        raise _KeptError(error, _keep_traceback(workdir)) from error


def _keep_traceback(workdir: Workdir) -> str:
    """Write the traceback into the run, if there is one; say where.

    Where even that cannot be written (a full disk, no devices to ask which process this
    is), the message says so: it must not hide the error that led here.
    """
    text = terminal.printable(traceback.format_exc())
    try:
        if not workdir.config.exists():
            return ""
        process = "" if distributed.is_alone() else f"-{jax.process_index()}"
        path = workdir.root / f"traceback{process}.txt"
        write_text(path, text)
    except Exception as error:
        return f"\n(the traceback could not be written: {error})"
    return f"\n(the traceback is in {path})"


def _forget_tracebacks(workdir: Workdir) -> None:
    """Remove those of what ended the run before: it goes on."""
    for path in workdir.root.glob("traceback*.txt"):
        path.unlink()


def _train(workdir: Workdir) -> None:
    from reskill_jax.build import load_tasks  # noqa: PLC0415
    from reskill_jax.build_strategy import settle_trial  # noqa: PLC0415
    from reskill_jax.report.expectations import introduce_trials  # noqa: PLC0415
    from reskill_jax.report.panels import write_panels  # noqa: PLC0415
    from reskill_jax.train import train  # noqa: PLC0415
    from reskill_jax.validate import validate  # noqa: PLC0415

    config = _CONFIG.value
    if _MODE.value == "adapt":
        config.adapt.frozen = True
    tune_memory()
    _share_devices(config)
    # First, for this waits for all: one that ends earlier takes others down unheard.
    distributed.agree("the configuration", config.to_json(sort_keys=True))
    validate(config)
    config = settle_trial(config)
    with ExitStack() as resources:
        if not distributed.is_leader():  # one process tells people how things go
            resources.enter_context(terminal.notices_to(lambda line: None))
        distributed.on_leader(lambda: resources.enter_context(workdir.lock()))
        resources.enter_context(_traceback_kept(workdir))
        distributed.on_leader(lambda: workdir.check(config.to_dict()))
        # Before the configuration is written: a run is not bound to keys that it could
        # not start with.
        tasks = load_tasks(config)
        distributed.on_leader(lambda: workdir.bind(config.to_dict()))
        distributed.on_leader(lambda: _forget_tracebacks(workdir))
        distributed.on_leader(lambda: write_panels(tasks.panels.held_out, workdir))
        distributed.on_leader(lambda: introduce_trials(config, workdir))
        train(config, workdir, tasks)


def _share_devices(config: ConfigDict) -> None:
    """Leave room for servers on the same devices, before JAX starts."""
    from reskill_jax.rollout.vllm.settings import set_trainer_variables  # noqa: PLC0415

    if config.engine.name == "vllm" and config.engine.vllm.colocate:
        set_trainer_variables(config.engine.vllm.trainer_memory)


def _compile() -> int:
    from reskill_jax.memory_plan import compile_run  # noqa: PLC0415
    from reskill_jax.memory_report import render  # noqa: PLC0415
    from reskill_jax.validate import COMPILATION, validate  # noqa: PLC0415

    validate(_CONFIG.value, COMPILATION)
    report = compile_run(_CONFIG.value)
    terminal.say(render(report))
    return 0 if report.fits else 1


def _diagnose(workdir: Workdir) -> int:
    from reskill_jax.doctor.report import diagnose  # noqa: PLC0415

    tune_memory()
    _share_devices(_CONFIG.value)
    code = diagnose(_CONFIG.value, workdir, _CHECK_SECONDS.value)
    sys.stdout.flush()
    # An orderly exit would wait for checks that hang.
    os._exit(code)


def _export(workdir: Workdir) -> None:
    from reskill_jax.export import export_run  # noqa: PLC0415

    jax.config.update("jax_platforms", "cpu")  # a whole state, on one device: the host
    export_run(
        _changed_config(workdir),
        workdir,
        Path(_OUTPUT.value or ""),  # it has one, see `_usage_problems`
        dtype=_EXPORT_DTYPE.value,
        adapters=_EXPORT_ADAPTERS.value,
        step=_STEP.value,
    )


def _changed_config(workdir: Workdir) -> ConfigDict:
    """Return the configuration of a run with the flags that may change it."""
    from reskill_jax.validate import EVALUATION, validate  # noqa: PLC0415

    workdir.read_config()  # says where there is no run
    check_changes(_CONFIG.value, workdir)
    validate(_CONFIG.value, EVALUATION)
    return _CONFIG.value


if __name__ == "__main__":
    app.run(main, argv=add_stored_config(sys.argv), flags_parser=parse_flags)
