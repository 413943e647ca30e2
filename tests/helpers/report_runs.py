"""Workdirs as runs leave them, made of files only, for tests of the report."""

import json

from reskill_jax.codec import encode
from reskill_jax.creator.proposal import PastTrial, Proposal
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.operations import Add
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.workdir import Workdir

CONFIG = {
    "strategy": {"name": "reskill"},
    "env": {"name": "houses"},
    "policy": {"path": ""},
    "eval": {"splits": ["seen"]},
    "grpo": {"rule": "corrected", "scale": "std"},
    "creator": {"name": "llm", "budget": {"input_price": 1.0, "output_price": 2.0}},
    "checkpoint": {"best": "seen/mean@2"},
    "num_steps": 4,
    "seed": 7,
}
SETTINGS = {
    "mode": "paired",
    "min_steps": 1,
    "max_steps": 8,
    "min_episodes": 2,
    "early_accept": 0.9,
    "early_reject": 0.1,
    "accept_probability": 0.7,
    "effect_sd": 0.05,
    "cost_per_skill": 0.005,
}


def episode(step, group=0, index=0, *, text="look", bank="", success=False, **more):
    """Return an episode's line, of three turns."""
    return {
        "task": f"task-{group}",
        "kind": "pick" if group % 2 else "place",
        "goal": f"goal {text}",
        "bank": bank,
        "step": step,
        "success": success,
        "actions": [text, f"go {index}", text],
        "observations": [text, "a room", text, "the end"],
        "active_skills": [[], [text], []],
        "valid": [True, False, True],
        "split": "train",
        "arm": index % 2,
        "group": group,
        "index": index,
        "reward": float(success),
        "scores": {},
        "lost": "",
        "responses": [text] * 3,
        "rewards": [0.0, 0.0, float(success)],
        "prompt_tokens": [1, 2, 3],
        "response_tokens": [4, 5, 6],
        "stopped": [True] * 3,
        "versions": [step - 1] * 3,
    } | more


def samples(split, rate):
    """Return the figures of two samples per task."""
    figures = {f"{split}/samples": 2, f"{split}/temperature": 0.7}
    for name, value in (("mean@2", rate), ("pass@2", rate + 0.1)):
        for place in ("", "/place"):
            figures[f"{split}/{name}{place}"] = value
            figures[f"{split}/{name}_low{place}"] = value - 0.2
            figures[f"{split}/{name}_high{place}"] = value + 0.2
    return figures


def write_run(root, *, text="look", steps=3, groups=2, rollouts=4, config=CONFIG):
    """Write a run with an accepted trial, a bank, evaluations and calls."""
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps(config))
    (root / "trial.json").write_text(
        json.dumps({"preset": "ours", "settings": SETTINGS, "expected": {"null": 0.2}})
    )
    skill = Skill(
        "first-look", text.replace("<", "(").replace(">", ")") or "x", "a", "b"
    )
    banks = SkillBank(), SkillBank((skill,))
    lines, trials = [], []
    for step in range(steps + 1):
        played = [
            episode(step, g, i, text=text, bank=banks[i % 2].hash, success=i % 3 == 1)
            for g in range(groups)
            for i in range(rollouts)
        ]
        panel = {"seen": "2:abcdef"}
        rate = {"seen/success": 0.5, "seen/success/place": 0.5, "seen/success/all": 0.5}
        rate |= samples("seen", 0.25 + step / 10)
        if step:
            lines.append({"phase": "train", "step": step, "time/step": 3.0})
            lines[-1] |= {"time/wait": 1.0, "time/update": 1.5, "grpo/loss": 0.1}
            lines[-1] |= {"rollout/success": 0.25, "grpo/entropy": 0.5 / step}
            lines[-1] |= {f"rollout/pass@{k}": 1 - 0.5**k for k in (1, 2, 4)}
            lines[-1] |= {f"rollout/pass@{k}": 1 - 0.5**k for k in (1, 2, 4)}
            write_lines(root / "episodes" / f"train-{step:05d}.jsonl", played)
        if step in (0, steps):
            lines.append({"phase": "eval", "step": step, "panels": panel} | rate)
            tasks = [
                episode(step, g, text=text, split="seen", success=g == 0, arm=0)
                for g in range(2)
            ]
            write_lines(root / "episodes" / f"eval-{step:05d}.jsonl", tasks)
            again = [e | {"index": i} for e in tasks for i in range(2)]
            write_lines(root / "episodes" / f"sampled-{step:05d}.jsonl", again)
    if steps:
        proposal = Proposal((Add(skill),), (text,), (text,), banks[0].hash)
        contrast = Contrast(0.1, 0.04, 0.93)
        past = PastTrial.judged(2, proposal, banks, True, contrast)
        path = [
            {"step": s, "effect": 0.1, "standard_error": 0.1, "probability": 0.8}
            for s in (1, 2)
        ]
        trials = [
            encode(past)
            | {
                "start": 0,
                "episodes": [8, 8],
                "rates": [0, 0.5],
                "stop_reason": "clear",
                "path": path,
            }
        ]
        save_bank(banks[1], root / "skills")
    (root / "checkpoints" / f"{steps:08d}").mkdir(parents=True)
    write_lines(root / "metrics.jsonl", lines)
    write_lines(root / "trials.jsonl", trials)
    call = {"cycle": 1, "stage": "analysis", "model": text, "prompt": text}
    calls = [call | {"response": text, "tokens_in": 10, "tokens_out": 5}]
    write_lines(root / "creator" / "calls.jsonl", [*calls, call | {"error": text}])
    return Workdir(root)


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
