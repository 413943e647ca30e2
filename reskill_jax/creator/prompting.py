"""The prompts: Markdown files with ``{{names}}``, which a directory can replace."""

import re
from collections.abc import Mapping
from pathlib import Path

_VALUES = {
    "system": "",
    "analyse": "task episodes schema",
    "diagnose": "outcomes assertions skills insights assertion_cap schema",
    "recommend": (
        "diagnosis assertions skills trials actions count max_skills rate schema"
    ),
    "author": (
        "plan insights skills actions rejections rate schema when_to_use_words"
        " action_words example_lines characters options"
    ),
    # What other methods have written, see `memories.llm_writer`.
    "writer": "",
    "lesson": "task episodes earlier schema",
    "script": "task episodes schema",
    "principle": "task episodes schema",
    "same": "first second schema",
    "edits": "rules episodes count schema",
    "skills": "known episodes kinds count schema",
    "instructions": "current episodes count schema",
}
STAGES = {stage: frozenset(values.split()) for stage, values in _VALUES.items()}
_NAME = re.compile(r"\{\{(\w+)\}\}")
_OURS = Path(__file__).parent / "prompts"


class Prompts:
    """The text of every stage.

    Args:
        directory: holds replacements, e.g. ``author.md``; stages without one keep ours.

    Raises:
        ValueError: the directory is missing, or a file in it belongs to no stage or has
            an unknown placeholder.
    """

    def __init__(self, directory: Path | str = ""):
        self._texts = {
            stage: (_OURS / f"{stage}.md").read_text(encoding="utf-8")
            for stage in STAGES
        }
        if directory:
            self._replace(Path(directory))

    def _replace(self, directory: Path) -> None:
        if not directory.is_dir():
            raise ValueError(
                f"prompts={str(directory)!r} is not a directory of prompts"
            )
        for path in sorted(directory.glob("*.md")):
            if path.stem not in STAGES:
                raise ValueError(
                    f"{path}: no stage has this name: use {', '.join(STAGES)}"
                )
            text = path.read_text(encoding="utf-8")
            if unknown := set(_NAME.findall(text)) - STAGES[path.stem]:
                raise ValueError(
                    f"{path}: placeholders {sorted(unknown)} are unknown: use"
                    f" {sorted(STAGES[path.stem])}"
                )
            self._texts[path.stem] = text

    def fill(self, stage: str, values: Mapping[str, object]) -> str:
        """Fill a stage's prompt; what is filled in is never filled again."""
        return _NAME.sub(lambda name: str(values[name[1]]), self._texts[stage])
