"""Episodes as a folder of JSON lines that the `datasets` library loads."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

_KEPT = {
    "task": "string",
    "kind": "string",
    "split": "string",
    "step": "int64",
    "group": "int64",
    "index": "int64",
    "arm": "int64",
    "bank": "string",
    "success": "bool",
}
_MESSAGE = [{"name": name, "dtype": "string"} for name in ("role", "content")]
# Readers would guess types from the first file, and fail at the first skill where that
# is of a time without any, since what is always empty has no type.
_FEATURES: list[dict[str, Any]] = [
    *({"name": name, "dtype": kind} for name, kind in _KEPT.items()),
    {"name": "reward", "dtype": "float64"},
    {"name": "messages", "list": _MESSAGE},
    {"name": "active_skills", "list": {"list": "string"}},
    {"name": "valid", "list": "bool"},
]


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice: not every reader of cards knows aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_dataset(
    files: Mapping[str, Sequence[Mapping[str, Any]]], *, environment: str
) -> dict[str, str | list[dict[str, Any]]]:
    """Turn files of episodes into the files of a dataset.

    Args:
        files: lines of episodes by name of the file, such as ``train-00001``.
        environment: its name.

    Returns:
        Contents by path: a README that declares one configuration per phase and the
        types of the columns, and lists of what is to be lines of JSON. An episode's
        turns are messages of user and assistant; the skills that were shown stand
        beside them, since no message holds them.
    """
    phases = sorted({name.partition("-")[0] for name in files})
    head = {
        "task_categories": ["text-generation"],
        "tags": ["agent-trajectories", environment],
        "configs": [
            {"config_name": phase, "data_files": f"data/{phase}/*.jsonl"}
            for phase in phases
        ],
        "dataset_info": [
            {"config_name": phase, "features": _FEATURES} for phase in phases
        ],
    }
    text = (
        f"---\n{yaml.dump(head, Dumper=_Dumper, sort_keys=False)}---\n\n"
        f"# Episodes on {environment}\n\n"
        "One line per episode: the task, its place in the run (step, group, index, arm "
        "of a trial, content hash of the skills), success, reward, `messages`, and per "
        "turn `active_skills` and `valid`. Texts of the environment have its licence.\n"
    )
    contents: dict[str, str | list[dict[str, Any]]] = {"README.md": text}
    for name, lines in files.items():
        path = f"data/{name.partition('-')[0]}/{name}.jsonl"
        contents[path] = [_row(line) for line in lines]
    return contents


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    observations, responses = line["observations"], line["responses"]
    messages = []
    for turn, observation in enumerate(observations):
        head = f"Goal: {line['goal']}\n\n" if turn == 0 and line["goal"] else ""
        messages.append({"role": "user", "content": head + observation})
        if turn < len(responses):
            messages.append({"role": "assistant", "content": responses[turn]})
    return {key: line[key] for key in _KEPT} | {
        "reward": line["reward"],
        "messages": messages,
        "active_skills": [list(names) for names in line["active_skills"]],
        "valid": list(line["valid"]),
    }
