"""Which bounds keep a trial's promises, for batches of which shape?

    python -m reskill_jax.benchmarks.trial_bounds --shapes=16x8,6x8x3

prints the rows of `trials/bounds.py` for tasks x rollouts per task (x candidates).
What is promised, and in what world, is in `trials/calibration.py`. A shape takes half a
minute to two.
"""

import time
from dataclasses import astuple

from absl import flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.command_line import start
from reskill_jax.trials import calibration
from reskill_jax.trials.bounds import BOUNDS
from reskill_jax.trials.calibration import Grid
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial_config import TrialConfig

_SHAPES = flags.DEFINE_list(
    "shapes",
    [
        *("16x8", "16x8x2", "16x8x3", "6x8", "6x8x2", "6x8x3"),
        *("256x5", "256x5x3", "2x4"),
    ],
    "Tasks x rollouts per task x candidates (1 if left out).",
)
_RUNS = flags.DEFINE_integer("runs", 2000, "Trials of each kind in each world.")
_LARGE = 1000  # episodes per step, from which trials are short


def main() -> None:
    """Choose bounds for all shapes; print the rows and the bars."""
    rows: list[list[str | float]] = []
    figures: dict[str, float] = {"runs": _RUNS.value}
    bars: dict[str, Bar] = {}
    for text in _SHAPES.value:
        shape = Shape(*map(int, text.split("x")))
        large = shape.episodes >= _LARGE
        grid = Grid(max_steps=(4, 8)) if large else Grid()
        runs = _RUNS.value // 2 if large else _RUNS.value
        started = time.monotonic()
        chosen = calibration.choose(shape, grid, runs=runs)
        if not chosen:
            print(f"{text}: no bounds keep the promises", flush=True)
            continue
        found = calibration.rates(
            shape,
            TrialConfig(**chosen),
            calibration.cases(shape, max(grid.max_steps), runs),
        )
        values = [round(value, 3) for value in astuple(found)]
        print(f"    {shape!r}: {tuple(chosen[key] for key in BOUNDS)},", flush=True)
        print(f"    {shape!r}: {tuple(values)},", flush=True)
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
        rows.append([text, *values])
        figures |= {f"{text}/{k}": v for k, v in vars(found).items()}
        bars |= {
            f"{text}, null": Bar(found.null, calibration.NULL_LIMIT, at_most=True),
            f"{text}, -5": Bar(found.harmful, calibration.HARMFUL_LIMIT, at_most=True),
            f"{text}, delete -5": Bar(
                found.harmful_delete, calibration.HARMFUL_LIMIT, at_most=True
            ),
        }
    header = ["shape", "null", "-5", "+5", "delete null", "delete -5", "steps"]
    print(format_table(header, rows))
    report("trial_bounds", figures, bars)


if __name__ == "__main__":
    start(main)
