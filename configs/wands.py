"""ReSkill on WANDS: which of a few products is exactly what a query asks for.

  python -m reskill_jax.main --config=configs/wands.py --workdir=runs/a \
      --config.policy.path=models/Qwen3-4B-Instruct-2507
  python -m reskill_jax.main --config=configs/wands.py:smoke --workdir=runs/b

`smoke` plays synthetic products; all else needs WANDS_DATA and a Hugging Face directory
with the model. The construction is ours, see `docs/environments.md`.
"""

from ml_collections import ConfigDict

from reskill_jax import defaults

# Published are results for "2-opt and 3-opt", and nothing of how they were made: what a
# task is, its splits, turns and prompt are ours, in all variants.
WANDS = {
    "rollout.max_turns": 11,  # 3 k + 2; the environment ends those with k = 2 at 8
    "grpo.reward_scale": 10.0,  # of a right choice, as published for other environments
    "grpo.minibatches": 16,  # of one group each
    "eval.splits": ("test",),
    "eval.max_tasks": 500,
    "eval.every": 25,
}
# The published equations.
PAPER = {**defaults.PAPER, "prompt.history": 11}
# A random policy on synthetic products for a minute, for tests.
SMOKE = {
    **defaults.LAPTOP,
    "num_steps": 3,
    "env.synthetic": True,
    "policy.path": "random:tiny",
    "policy.logprob_chunk": 1024,
    "prompt.wording": "brief",
    "prompt.max_tokens": 640,
    "rollout.tasks_per_step": 2,
    "rollout.max_turns": 4,
    "rollout.max_tokens": 16,
    "rollout.concurrency": 8,
    "engine.max_sequences": 8,
    "grpo.group_size": 4,
    "grpo.minibatches": 2,
    "grpo.buckets": (768,),
    "grpo.tokens_per_microbatch": 1536,
    "strategy.reservoir_min": 4,
    "eval.splits": ("synthetic",),
    "eval.max_tasks": 4,
    "checkpoint.every": 1,
}
VARIANTS = {"paper": PAPER, "smoke": SMOKE}


def get_config(variant: str = "") -> ConfigDict:
    """Return the experiment's configuration, locked."""
    config = defaults.get_config("wands")
    config.update_from_flattened_dict(WANDS)
    return defaults.expand(config, variant, VARIANTS)
