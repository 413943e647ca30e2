"""Measures InterCode-SQL: every question that counts is answered by its gold.

    python -m reskill_jax.benchmarks.sql [--root=DIRECTORY | --sample]

Times are CPU milliseconds of one environment in this process.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict

from reskill_jax.benchmarks import reporting
from reskill_jax.environments.sql.spec import Settings, load
from reskill_jax.environments.sql.tasks import SPLITS


def measure(settings: Settings) -> tuple[dict[str, list[float]], int]:
    """Play all questions; return times of each call in ms, and how many were won."""
    spec = load(settings, workers=1)
    environment = spec.make()
    times: dict[str, list[float]] = defaultdict(list)
    won = 0
    for task in (task for split in SPLITS for task in spec.panel(split, None)):
        started = time.process_time()
        environment.reset(task)
        times["reset"].append(time.process_time() - started)
        for name, action in (
            ("gold", json.loads(task.source)["gold"]),
            ("submit", "submit"),
        ):
            started = time.process_time()
            seen = environment.step(action)
            times[name].append(time.process_time() - started)
        won += seen.success
    return {name: [1e3 * t for t in taken] for name, taken in times.items()}, won


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default="", help="default: INTERCODE_SQL_DATA")
    parser.add_argument("--sample", action="store_true", help="what ships with us")
    flags = parser.parse_args()
    times, won = measure(Settings(root=flags.root, sample=flags.sample))
    rows: list[tuple[str, float, float, float]] = []
    figures: dict[str, float] = {}
    for name, taken in times.items():
        parts = statistics.quantiles(taken, n=100)
        rows.append((name, parts[49], parts[98], max(taken)))
        figures |= {f"{name}, median ms": parts[49], f"{name}, 99% ms": parts[98]}
    print(reporting.format_table(("CPU ms", "median", "99%", "max"), rows), end="\n\n")
    share = won / len(times["reset"])
    bars = {"share of golds that win": reporting.Bar(share, 1.0)}
    reporting.report("sql", figures | {"questions": len(times["reset"])}, bars)


if __name__ == "__main__":
    main()
