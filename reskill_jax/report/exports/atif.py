"""Episodes as trajectories of the Agent Trajectory Interchange Format, version 1.7.

The format has no place for rewards, arms and skills: they stand in its `extra` objects.
A run's files hold texts and counts of tokens, no token ids, so neither do these.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

VERSION = "ATIF-v1.7"


def trajectory(
    line: Mapping[str, Any], *, session: str, phase: str, model: str
) -> dict[str, Any]:
    """Write an episode as one document.

    Args:
        line: an episode as a run's files hold it (`report.logbook.episode_line`).
        session: the run.
        phase: train or eval.
        model: the policy that the run trains, in a few words.

    Returns:
        The JSON document: a step of the user (goal and first observation), then one of
        the agent for each turn, with what was observed after it.
    """
    observations = [*line["observations"]]
    first = observations[0] if observations else ""
    goal = line.get("goal") or line["task"]
    steps = [
        {
            "step_id": 1,
            "source": "user",
            "message": f"Goal: {goal}\n\n{first}".rstrip(),
        }
    ]
    for turn in range(len(line["actions"])):
        after = observations[turn + 1] if turn + 1 < len(observations) else None
        steps.append(_step(line, turn, after))
    place = f"g{line['group']}-i{line['index']}"
    return {
        "schema_version": VERSION,
        "session_id": session,
        "trajectory_id": f"{session}/{phase}-{line['step']:05d}/{place}",
        "agent": {
            "name": "reskill_jax",
            "version": version("reskill_jax"),
            "model_name": model,
            "extra": {"bank": line["bank"]},
        },
        "steps": steps,
        "final_metrics": {
            "total_prompt_tokens": sum(line["prompt_tokens"]),
            "total_completion_tokens": sum(line["response_tokens"]),
            "total_steps": len(steps),
            "extra": _pick(line, ("reward", "success", "scores", "lost")),
        },
        "extra": {"phase": phase}
        | _pick(line, ("task", "kind", "split", "step", "group", "index", "arm")),
    }


def _step(line: Mapping[str, Any], turn: int, after: str | None) -> dict[str, Any]:
    """Write a turn; what was observed answers its action, where it had one."""
    action = line["actions"][turn]
    call = f"t{turn}"
    result: dict[str, Any] = {}
    if after is not None:
        result["content"] = after
        if action:
            result["source_call_id"] = call
    rewards: Sequence[float] = line["rewards"]
    step = {
        "step_id": turn + 2,
        "source": "agent",
        "message": line["responses"][turn],
        "llm_call_count": 1,
        "metrics": {
            "prompt_tokens": line["prompt_tokens"][turn],
            "completion_tokens": line["response_tokens"][turn],
            "extra": {"policy_version": line["versions"][turn]},
        },
        "extra": {
            "valid": line["valid"][turn],
            "active_skills": list(line["active_skills"][turn]),
            "reward": rewards[turn],
        },
    }
    if action:
        arguments = {"command": action}
        named = {"tool_call_id": call, "function_name": "act", "arguments": arguments}
        step["tool_calls"] = [named]
    if result:
        step["observation"] = {"results": [result]}
    return step


def _pick(line: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: line[key] for key in keys}
