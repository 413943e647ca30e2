"""ReSkill on InterCode-SQL: questions about databases, answered by queries.

  python -m reskill_jax.main --config=configs/sql.py --workdir=runs/a \
      --config.policy.path=models/Qwen3-4B-Instruct-2507
  python -m reskill_jax.main --config=configs/sql.py:smoke --workdir=runs/b

`smoke` plays questions that ship with the package; all else needs INTERCODE_SQL_DATA
and a Hugging Face directory with the model. `reskill_jax/defaults.py` documents every
key, `docs/environments.md` what the environment is.
"""

from ml_collections import ConfigDict

from reskill_jax import defaults

# Published for this environment are results, by easy, hard and extra, and nothing of
# how they were made: turns, splits and prompt are ours, in all variants.
SQL = {
    "rollout.max_turns": 10,  # as in InterCode's own experiments
    "grpo.reward_scale": 10.0,  # of a right answer, as published for other environments
    "grpo.minibatches": 16,  # of one group, the nearest to the published 64 turns
    "eval.splits": ("test", "unseen"),
    "eval.max_tasks": 500,  # all
    "eval.every": 25,
}
# The published equations.
PAPER = {**defaults.PAPER, "prompt.history": 10}
# A random policy for a minute, for tests.
SMOKE = {
    **defaults.LAPTOP,
    "num_steps": 3,
    "env.sample": True,
    "policy.path": "random:tiny",
    "policy.logprob_chunk": 1024,
    "prompt.max_tokens": 768,
    "rollout.tasks_per_step": 2,
    "rollout.max_turns": 3,
    "rollout.max_tokens": 16,
    "rollout.concurrency": 8,
    "engine.max_sequences": 8,
    "grpo.group_size": 4,
    "grpo.minibatches": 2,
    "grpo.buckets": (1024,),
    "grpo.tokens_per_microbatch": 2048,
    "strategy.reservoir_min": 4,
    "eval.max_tasks": 3,
    "checkpoint.every": 1,
}
VARIANTS = {"paper": PAPER, "smoke": SMOKE}


def get_config(variant: str = "") -> ConfigDict:
    """Return the experiment's configuration, locked."""
    config = defaults.get_config("sql")
    config.update_from_flattened_dict(SQL)
    return defaults.expand(config, variant, VARIANTS)
