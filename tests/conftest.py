"""Settings of all tests, and the rule on skips: see skips.txt."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same cases in every run: what CI finds can be found again.
settings.register_profile("deterministic", derandomize=True)
settings.load_profile("deterministic")

# Most of a test is compiling the same programs as others: they are compiled once, and
# kept for the next time. Before anything imports jax.
CACHE = Path(__file__).parents[1] / ".cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

IN_CI = os.environ.get("CI") in ("true", "1")


def read_skips(path: Path) -> dict[str, str]:
    """Return why tests may be skipped, by the beginning of their ids."""
    lines = path.read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    return dict(line.split(" | ", maxsplit=1) for line in entries)


SKIPS = read_skips(Path(__file__).with_name("skips.txt"))


def unlisted(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether something was skipped that skips.txt does not list."""
    skipped = report.skipped and not hasattr(report, "wasxfail")
    return skipped and not report.nodeid.startswith(tuple(SKIPS))


def refused_in_ci(report):
    """Let a skip that is not listed fail in continuous integration."""
    if IN_CI and unlisted(report):
        report.outcome = "failed"
        report.longrepr = f"not listed in tests/skips.txt: {report.longrepr[2]}"
    return report


# Files that take minutes, by their names. Two processes take a file each: with these
# first, neither is left with a long one when the other is done.
LONG = frozenset(
    {
        "test_decoder.py",
        "test_distributed.py",
        "test_extend.py",
        "test_method_runs.py",
        "test_methods_smoke.py",
        "test_sharding.py",
        "test_termination.py",
        "test_train.py",
        "test_train_failures.py",
        "test_train_plans.py",
        "test_validate.py",
        "test_vllm.py",
        "test_vllm_engine.py",
        "test_warm_start.py",
    }
)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture
def skips():
    """Why tests may be skipped, by the beginning of their ids."""
    return SKIPS


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    return refused_in_ci((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    return refused_in_ci((yield))


def pytest_terminal_summary(terminalreporter):
    """Print what continuous integration would refuse."""
    skipped = filter(unlisted, terminalreporter.stats.get("skipped", ()))
    if lines := [f"{report.nodeid}: {report.longrepr[2]}" for report in skipped]:
        terminalreporter.section("skipped, which fails in CI (tests/skips.txt)")
        terminalreporter.write_line("\n".join(lines))
