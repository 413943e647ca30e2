"""Configurations put together at random from values that the table of keys allows."""

import ast
import os
import random

from ml_collections import ConfigDict
from programs import get_config

from reskill_jax import validate as validation
from reskill_jax.workdir import flatten

BASES = ("smoke", "cpu", "paper,cpu", "official,cpu", "", "paper", "official")
_WHOLE = (
    0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 31, 32, 48, 64, 96, 100, 127, 128, 200, 256,
    320, 512, 640, 768, 1000, 1024, 2048, 4096, 16384, 10**5, 2**31 - 1, -1,
)  # fmt: skip
_REAL = (
    0.0, 1.0, 1e-8, 1e-6, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.45, 0.5, 0.7, 0.87, 0.9, 0.95,
    1.5, 2.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e6, -1.0, 1,
)  # fmt: skip
# Keys whose values are texts, or need files: what a made configuration may say.
_TEXTS = {
    "env.name": ("alfworld",),
    "env.root": ("",),
    "env.source": ("",),  # the set has to be here
    "env.dev": (0, 1),  # of four tasks
    "env.houses": ("small", "medium"),  # games of other folders are not everywhere
    "env.houses_train": (4, 8),  # each takes some milliseconds
    "env.houses_eval": (3, 5),
    "env.kinds": ("", "transform,pick_and_place"),
    "env.eval_kinds": ("", "examine"),
    "prompt.wording": ("full", "brief"),
    "policy.path": ("", "random:tiny", "{model}"),
    "policy.lora.rank": (0,),  # a base is read, and models here have no weights
    "policy.lora.targets": (("q_proj", "v_proj"), ("down_proj",)),
    "mesh.topology": ("", "v5e:4x4"),
    "warm_start.recipe": ("", "alfworld-small"),
    "warm_start.retrain": (False,),  # an hour
    "strategy.name": (*validation.STRATEGIES,),
    "strategy.bank": ("", "{bank}"),
    "strategy.expel.show": ("both", "rules", "trajectories"),
    "strategy.memrl.keyed_by": ("goal", "goal_and_room"),
    "strategy.memrl.show": ("script", "trajectory"),
    "strategy.evolver.credit": ("success", "relative"),
    "strategy.evolver.ask": ("agent", "goal"),
    "strategy.skillrl.library": ("",),
    "strategy.skillrl.retrieve": ("task", "state"),
    "strategy.skillrl.evolve_from": ("train", "paper"),
    "strategy.skillrl.reported_split": ("valid_seen", "valid_unseen"),
    "strategy.inspo.compare": ("groups", "same_tasks"),
    "trial.mode": ("paired", "paper"),
    "trial.assignment": ("stratified", "per_rollout"),
    "trial.discount": ("adaptive", "constant", "last_step", "none"),
    "creator.name": (*validation.CREATORS,),
    "creator.prompts": ("",),
    "creator.replay": ("", "{calls}"),
    "creator.llm.name": ("", "a-model"),
    "creator.llm.base_url": ("", "http://localhost:8000/v1"),
    "creator.llm.api_key_variable": ("", "MADE_KEY"),
    "adapt.split": ("train",),
    "embedder.encoder": ("",),
    "embedder.model": ("", "a-model"),
    "embedder.base_url": ("", "http://localhost:8000/v1"),
    "embedder.api_key_variable": ("", "MADE_KEY"),
    "engine.vllm.executable": ("vllm", "{program}"),
    "engine.vllm.urls": ((), ("http://localhost:8000",), ("http://a:1", "http://b:2")),
    "engine.vllm.devices": ((), ("4,5",), ("4", "5")),
    "engine.vllm.arguments": ((), ("--max-num-seqs=8",)),
    "engine.vllm.weights_dir": ("/dev/shm",),
    "engine.vllm.libnccl": ("", "{program}"),
    "grpo.buckets": (
        (512, 768), (768,), (640,), (1024, 2048, 4096, 8192, 16384), (1000,), (8192,),
        (1, 2, 700), (700, 701, 1399),
    ),
    "grpo.token_mask": ((), (0.5, 5.0), (1.0, 1.1)),
    "grpo.episode_mask": ((), (0.99, 1.01)),
    "eval.splits": ((), ("valid_seen",), ("valid_seen", "valid_unseen"), ("train",)),
    "checkpoint.best": ("", "auto", "valid_seen/success"),
    "report.trackers": ((), ("tensorboard",)),
    "eval.panel": ((), ("valid_seen=3:0123456789ab",)),
}  # fmt: skip


def candidates(key, values, now):
    """List values of a key that its row of the table allows."""
    if key in _TEXTS:
        return _TEXTS[key]
    if values.wanted.startswith("choose one of "):
        return ast.literal_eval(f"({values.wanted.removeprefix('choose one of ')},)")
    near = (now - 1, now + 1, 2 * now) if type(now) in (int, float) else ()
    found = [True, False, *_WHOLE, *_REAL, *near]
    kept = [x for x in found if values.holds(x)]
    if now is None:
        return [None, *kept]
    kinds = (float, int) if type(now) is float else (type(now),)
    return [x for x in kept if type(x) in kinds]


def fill(value, places):
    """Put files of this machine into a value."""
    return value.format(**places) if isinstance(value, str) else value


def make(seed, places):
    """Make one configuration, by its number.

    Args:
        seed: its number.
        places: names of files: model, bank, calls, program.

    Returns:
        The variant, the values that were changed by key, and the configuration.
    """
    draw = random.Random(seed)
    base = draw.choice(BASES)
    flat = flatten(get_config(base).to_dict())
    if flat["policy.path"]:
        flat["policy.path"] = places["model"]
    if not flat["env.houses"]:
        flat |= {"env.houses": "small", "env.houses_train": 4, "env.houses_eval": 3}
        flat["strategy.reservoir_min"] = 4  # as many as four tasks can give
    if flat["warm_start.recipe"]:
        flat["prompt.layout"] = "tree"  # which its policy was taught
    if flat["creator.name"] != "offline":
        flat["creator.llm.name"] = "a-model"
    flat["engine.vllm.executable"] = places["program"]
    rows = validation.table("alfworld")
    changes = {}
    for key in draw.sample(sorted(rows), draw.choice((1, 2, 3, 5, 8))):
        allowed = candidates(key, rows[key], flat[key])
        changes[key] = fill(draw.choice(allowed), places)
    return base, changes, unflatten(flat | changes)


def make_small(seed, places):
    """Make a configuration that a small machine plays in seconds, like `make`."""
    draw = random.Random(seed)
    small = get_config("smoke")
    small.update_from_flattened_dict(
        {
            "num_steps": 2,
            "env.workers": 1,
            "policy.path": "random:tiny",
            "rollout.max_turns": 3,
            "rollout.max_tokens": 8,
            "trial.min_episodes": 1,
            "strategy.reservoir_min": 1,
            "eval.max_tasks": 1,
        }
    )
    flat = flatten(small.to_dict())
    # What needs servers or other files, takes long, or has a name of its own below.
    fixed = ("engine.vllm.", "engine.name", "env.", "policy.path", "warm_start.",
             "mesh.", "embedder.", "creator.name", "creator.llm.", "creator.replay",
             "num_steps", "prompt.wording")  # fmt: skip
    rows = validation.table("alfworld")
    free = [key for key in sorted(rows) if not key.startswith(fixed)]
    changes = {}
    for key in draw.sample(free, draw.choice((3, 5, 8))):
        now = flat[key]
        allowed = [
            x
            for x in candidates(key, rows[key], now)
            if type(x) is not int or x <= max(2 * (now or 0), 8)
        ]
        changes[key] = fill(draw.choice(allowed), places)
    return "smoke", changes, unflatten(flat | changes)


def unflatten(flat):
    """Make a configuration of dotted keys, which hold any values."""
    config = ConfigDict()
    for key, value in sorted(flat.items()):
        section = config
        *sections, name = key.split(".")
        for part in sections:
            if part not in section:
                section[part] = ConfigDict()
            section = section[part]
        section[name] = value
    return config


os.environ.setdefault("MADE_KEY", "a-key")
