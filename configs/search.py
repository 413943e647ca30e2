"""ReSkill on Search QA, at the published scale unless a variant says otherwise.

  python -m reskill_jax.main --config=configs/search.py --workdir=runs/a \
      --config.policy.path=models/Qwen3-4B-Instruct-2507 \
      --config.env.questions=questions.jsonl --config.env.passages=passages.jsonl.gz
  python -m reskill_jax.main --config=configs/search.py:smoke --workdir=runs/b

`smoke` needs neither data nor a model. The others need a file of questions and, for
the run's own retriever (the extra `search`), one of passages. docs/environments.md has
more.
"""

from ml_collections import ConfigDict

from reskill_jax import defaults
from reskill_jax.environments.search.panels import REPORTED

# 256 questions, 5 episodes each, of 30 turns at most. Exact match pays 1. The published
# mini-batch has 256 turns, about 85 episodes; ours have whole groups, 16 of them.
SCALE = {
    "env.timeout_s": 180.0,
    "prompt.history": 30,
    "rollout.tasks_per_step": 256,
    "rollout.max_turns": 30,
    "rollout.concurrency": 256,
    "grpo.group_size": 5,
    "grpo.minibatches": 16,
    "grpo.kl_coef": 0.001,
    "eval.max_tasks": 300,
    "eval.splits": REPORTED,
}
# The published retriever: e5 over the Wikipedia of 2018, behind Search-R1's server.
SERVER = {"env.retriever": "http://127.0.0.1:8000"}
PAPER = {**defaults.PAPER, **SERVER}
OFFICIAL = {**defaults.OFFICIAL, **SERVER, "grpo.minibatches": 16}
# A few invented questions, a random policy, less than a minute on two cores.
SMOKE = {
    **defaults.LAPTOP,
    "num_steps": 3,
    "env.questions": "sample",
    "env.passages": "sample",
    "policy.path": "random:tiny",
    "prompt.wording": "brief",
    "prompt.max_tokens": 640,
    "rollout.tasks_per_step": 2,
    "rollout.max_turns": 4,
    "rollout.max_tokens": 16,
    "rollout.concurrency": 8,
    "engine.max_sequences": 8,
    "grpo.group_size": 4,
    "grpo.minibatches": 2,
    "grpo.learning_rate": 3e-4,
    "grpo.kl_coef": 0.0,
    "grpo.buckets": (512, 768),
    "grpo.tokens_per_microbatch": 3072,
    "strategy.reservoir_min": 4,
    "eval.max_tasks": 3,
    "checkpoint.every": 1,
}
VARIANTS = {"paper": PAPER, "official": OFFICIAL, "smoke": SMOKE}


def get_config(variant: str = "") -> ConfigDict:
    """Return the experiment's configuration, locked."""
    config = defaults.get_config("search")
    config.update_from_flattened_dict(SCALE)
    return defaults.expand(config, variant, VARIANTS)
