"""Pages through a run's episodes in a terminal.

    python -m reskill_jax.report.episodes --workdir=runs/a --task=lamp --skill=use-it

Newest steps first. On a terminal, Enter goes on and q ends; elsewhere all are printed.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from reskill_jax import terminal
from reskill_jax.command_line import start
from reskill_jax.report.page.reading import EpisodeLine, Reader
from reskill_jax.terminal import one_line
from reskill_jax.workdir import Workdir


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which episodes to show; what is empty or None does not matter."""

    task: str = ""
    skill: str = ""
    kind: str = ""
    outcome: str = ""
    phase: str = ""
    step: int | None = None
    arm: int | None = None

    def fits(self, line: EpisodeLine) -> bool:
        """Tell whether an episode of the right step and phase is wanted."""
        words = f"{line.task}\n{line.goal}".casefold()
        shown = {name for names in line.active_skills for name in names}
        return (
            self.task.casefold() in words
            and (not self.skill or self.skill in shown)
            and self.kind in ("", line.kind)
            and self.outcome in ("", "success" if line.success else "failure")
            and self.arm in (None, line.arm)
        )


def find(reader: Reader, wanted: Wanted) -> Iterator[tuple[str, int, EpisodeLine]]:
    """Yield phase, step and episode, newest steps first."""
    for phase, step, path in reversed(reader.episode_files()):
        if wanted.phase in ("", phase) and wanted.step in (None, step):
            for line in reader.episodes(path):
                if wanted.fits(line):
                    yield phase, step, line


def describe(phase: str, step: int, line: EpisodeLine, *, raw: bool = False) -> str:
    """Return an episode as harmless lines of text.

    Args:
        phase: train or eval.
        step: of the run.
        line: the episode.
        raw: whether to show whole responses.
    """
    outcome = "success" if line.success else "failure"
    arm = "" if line.arm is None else f", arm {line.arm}"
    reward = "" if line.reward is None else f", reward {line.reward:g}"
    parts = [
        f"{phase} step {step}{arm}: {outcome}{reward}, library {one_line(line.bank)}",
        f"task {one_line(line.task)} ({one_line(line.kind)})",
        f"goal {one_line(line.goal)}",
    ]
    if line.lost:
        parts.append(f"lost: {one_line(line.lost)}")
    for i, action in enumerate(line.actions):
        if i < len(line.observations):
            parts.append(f"  {one_line(line.observations[i])}")
        skills = line.active_skills[i] if i < len(line.active_skills) else ()
        shown = f"   [{one_line(', '.join(skills))}]" if skills else ""
        bad = i < len(line.valid) and not line.valid[i]
        parts.append(f"  > {one_line(action)}{shown}{'   (invalid)' if bad else ''}")
        if raw and i < len(line.responses):
            parts.append(f"    raw: {one_line(line.responses[i])}")
    parts += [f"  {one_line(text)}" for text in line.observations[len(line.actions) :]]
    return "\n".join(parts)


def main() -> None:
    """Show what the flags ask for."""
    if not _WORKDIR.value:
        terminal.fail("give --workdir=DIR, a run's directory")
    workdir = Workdir(Path(_WORKDIR.value))
    reader = Reader(workdir)
    wanted = Wanted(
        task=_TASK.value,
        skill=_SKILL.value,
        kind=_KIND.value,
        outcome=_OUTCOME.value,
        phase=_PHASE.value,
        step=_STEP.value,
        arm=_ARM.value,
    )
    try:
        workdir.read_config()
        count = _page(reader, wanted)
    except (OSError, ValueError) as error:
        terminal.fail(error)
    for problem in reader.problems:
        terminal.say(f"not read: {problem}")
    if not count:
        terminal.say("no episode fits")


def _page(reader: Reader, wanted: Wanted) -> int:
    """Show episodes one by one; return how many were shown."""
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    count = 0
    for count, found in enumerate(find(reader, wanted), 1):
        terminal.say(describe(*found, raw=_RAW.value) + "\n")
        if count >= _LIMIT.value:
            terminal.say(f"more than --limit={_LIMIT.value} may fit")
            break
        if asks and _ask().strip().lower() == "q":
            break
    return count


def _ask() -> str:
    try:
        return input("-- Enter: next, q: end -- ")
    except (EOFError, KeyboardInterrupt):
        return "q"


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
    _TASK = flags.DEFINE_string("task", "", "A part of the task's id or goal.")
    _SKILL = flags.DEFINE_string("skill", "", "A skill that was shown.")
    _KIND = flags.DEFINE_string("kind", "", "The task's type.")
    _OUTCOME = flags.DEFINE_enum(
        "outcome", "", ["", "success", "failure"], "How it ended."
    )
    _PHASE = flags.DEFINE_enum(
        "phase", "", ["", "train", "eval", "sampled"], "What it was played for."
    )
    _STEP = flags.DEFINE_integer("step", None, "Of this step only.")
    _ARM = flags.DEFINE_integer(
        "arm", None, "Of this arm only; 0 is the accepted library."
    )
    _RAW = flags.DEFINE_bool("raw", False, "Show whole responses, too.")
    _LIMIT = flags.DEFINE_integer("limit", 100, "Most episodes to show.", lower_bound=1)
    start(main)
