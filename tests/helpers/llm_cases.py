"""Scripted answers of each stage, and creators that ask for them."""

import json
from pathlib import Path

from text_episodes import acts

from reskill_jax.creator.prompting import Prompts
from reskill_jax.creator.proposal import Evidence
from reskill_jax.creator.stages import LlmCreator
from reskill_jax.llm.backends import Model, make_backend
from reskill_jax.llm.budget import Budget
from reskill_jax.llm.call_log import CallLog
from reskill_jax.llm.caller import Caller
from reskill_jax.llm.retry import RetryPolicy
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.skill import SkillBank

ANALYSIS = {
    "insight": "Open closed containers before leaving.",
    "failure_mode": "leaves containers closed",
    "failure_point": "went on without opening",
    "success_pattern": "go to, open, take",
    "skill_impact": "",
    "patterns": ["^go to .*"],
    "confidence": "high",
}
ADD_ASSERTION = {
    "op": "add",
    "id": "opens",
    "check": "action_exists",
    "pattern": "^open ",
}
DIAGNOSIS = {
    "summary": "Most failures never open anything.",
    "clusters": [{"label": "closed", "insight": "Nothing is opened.", "groups": [0]}],
    "assertions": [ADD_ASSERTION],
}
PLAN = {
    "operations": [
        {
            "op": "add",
            "target": "open-containers",
            "intent": "open what is closed",
            "evidence": "all failures",
            "clusters": [0],
            "trigger": "after going somewhere",
        }
    ]
}
DRAFT = {
    "op": "add",
    "name": "open-containers",
    "description": "Opens containers.",
    "when_to_use": "The place in front of you is closed.",
    "action": "Open it before you go on.",
    "example": "",
    "trigger": "action_pattern",
    "pattern": "^go to .*",
    "reason": "Failures never open anything.",
}
GOOD = {
    "analysis": ANALYSIS,
    "diagnosis": DIAGNOSIS,
    "advice": PLAN,
    "drafts": {"operations": [DRAFT]},
}


def script(stage: str, prompt: str) -> str:
    """Answer every stage well."""
    return json.dumps(GOOD[stage])


def draft(**changes) -> str:
    """Answer the author's stage with one operation."""
    return json.dumps({"operations": [DRAFT | changes]})


def evidence(tasks: int = 3, **changes) -> Evidence:
    """Episodes of both outcomes of each of some tasks."""
    records: list[EpisodeRecord] = []
    for i in range(tasks):
        lost = acts("go to shelf 1", "look", task=f"t{i}", step=1)
        actions = ("go to shelf 1", "open shelf 1", "take mug 1 from shelf 1")
        records += [lost, acts(*actions, success=True, task=f"t{i}", step=1)]
    fields = {"bank": SkillBank(), "records": tuple(records), "step": 1, **changes}
    return Evidence(**fields)


def caller(url: str, log: Path, **options) -> Caller:
    """Ask a server with the real SDK, without pauses."""
    timeout = options.pop("timeout", 60.0)
    model = Model("openai", "scripted", url, api_key_variable="PATH", timeout_s=timeout)
    options = {
        "budget": Budget(),
        "retry": RetryPolicy(initial_delay_s=0.0, cooldown_s=0.0),
        "secrets": (model.key,),
        **options,
    }
    return Caller(make_backend(model), CallLog(log), **options)


def creator(
    url: str,
    log: Path,
    *,
    concurrency=4,
    tasks=30,
    grade=True,
    goals=False,
    rejected_edits=0,
    **options,
) -> LlmCreator:
    """Make a creator that asks a server."""
    return LlmCreator(
        caller(url, log, **options),
        Prompts(),
        max_concurrency=concurrency,
        analysed_tasks=tasks,
        grade=grade,
        goals=goals,
        rejected_edits=rejected_edits,
    )
