"""Takes configurations made at random through validation and through a run's programs.

    python tests/made_configs.py COUNT [RUNS]

Each is refused by key, or all that a run would compute can be traced with it: nothing
is loaded or computed (`jax.eval_shape`). What is accepted and fails then is printed
with its traceback. Then so many small ones that validation takes are really run, from
weights at random, for two steps with evaluations. The last line is a JSON object; the
exit status is 1 where any failed.
"""

import collections
import functools
import json
import os
import re
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("helpers")))
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ |= {"JAX_PLATFORMS": "cpu", "OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "a"}

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from made_configs import make, make_small

from reskill_jax import build, build_strategy
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.environments.task import Task
from reskill_jax.grpo.losses import GrpoBatch
from reskill_jax.grpo.optimizer import abstract_state, make_programs
from reskill_jax.grpo.packing import PackedBatch, field_dtypes, pack
from reskill_jax.grpo.preparation import make_forward
from reskill_jax.grpo.update import make_loss
from reskill_jax.policy.decoder import abstract_params
from reskill_jax.policy.decoder_config import to_hf
from reskill_jax.policy.presets import PRESETS
from reskill_jax.policy.random_policy import random_policy
from reskill_jax.policy.sharding import (
    ROWS,
    abstract,
    engine_mesh,
    platform_of,
    row_shards,
)
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.jax.programs import abstract_calls
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.train import train
from reskill_jax.validate import table, validate
from reskill_jax.workdir import Workdir, flatten

LINE = re.compile(r"  config\.([a-z_.]+)(=| is missing)")


def make_places(directory):
    """Make the files that configurations may name."""
    model = directory / "model"
    Tokenizer.load(random_policy("tiny", 0)).save(model)
    shape = replace(PRESETS["Qwen3-4B-Instruct-2507"], num_hidden_layers=2)
    (model / "config.json").write_text(json.dumps(to_hf(shape)))
    save_bank(SkillBank((HELPFUL[0].skill(),)), directory / "bank")
    (directory / "calls.jsonl").write_text("")
    return {
        "model": str(model),
        "bank": str(directory / "bank"),
        "calls": str(directory / "calls.jsonl"),
        "program": sys.executable,
    }


def refused(config):
    """Return the keys that validation refuses; fail where it does not name them."""
    try:
        validate(config)
    except ValueError as error:
        head, *lines = str(error).splitlines()
        assert head == "the configuration cannot run:", head
        keys = [LINE.match(line)[1] for line in lines]
        assert set(keys) <= set(table("alfworld")), keys
        assert len(set(lines)) == len(lines), lines
        return keys
    return []


def build_all(config, directory):
    """Build, as `run.open_run` does, what needs no weights; return the policy."""
    environment = build.load_environment(config)
    policy = build.load_policy(config, weights=False)
    build.make_grpo(config, policy.config, policy.mesh)
    prompts = build.make_prompts(config, environment, policy.tokenizer)
    strategy = build_strategy.make_strategy(
        config, environment, prompts, directory / "calls"
    )
    task = Task("train/0", "kind", "train", "")
    # Each once: Reflexion attempts a task that is drawn twice only once.
    plan = strategy.plan(
        1, lambda count: [replace(task, id=f"train/{i}") for i in range(count)]
    )
    # Reflexion has two chains of attempts, whatever the size of a group.
    rollouts = 2 if config.strategy.name == "reflexion" else config.grpo.group_size
    assert plan.arms.shape == (config.rollout.tasks_per_step, rollouts)
    strategy.restore(json.loads(json.dumps(strategy.state())))
    pack(
        [episode(task, config, group=group) for group in range(2)],
        buckets=config.grpo.buckets,
        tokens_per_microbatch=config.grpo.tokens_per_microbatch,
        row_shards=row_shards(policy.mesh),
    )
    return policy


def episode(task, config, group):
    """An episode with the shortest and the longest turn that there may be."""
    turns = [
        Turn(
            window=0,
            trunk_length=trunk,
            branch=np.ones(prompt - trunk, np.int32),
            response=np.ones(response, np.int32),
            logprobs=np.zeros(response, np.float32),
            version=0,
            observation="",
            text="",
            action="",
            valid=True,
        )
        for trunk, prompt, response in (
            (0, 2, 1),
            (0, config.prompt.max_tokens, config.rollout.max_tokens),
            (config.prompt.max_tokens - 1, config.prompt.max_tokens, 1),
        )
    ]
    trunk = np.ones(config.prompt.max_tokens, np.int32)
    return Episode(task, group, 0, 0, "", "", [trunk], turns)


def trace(config, policy):
    """Trace what a run computes: rollouts, log-probs, gradients, optimiser."""
    mesh, decoder = policy.mesh, policy.config
    tx, _ = build.make_grpo(config, decoder, mesh)
    params = abstract(mesh, abstract_params(decoder))
    state = abstract_state(params, tx, mesh)
    logprob_fn = build.make_logprob_fn(config, decoder, mesh)
    score_fn = build.make_score_fn(config, decoder, mesh)
    loss_fn = make_loss(score_fn, **build.loss_options(config))
    accumulate, apply = make_programs(loss_fn, tx)
    for length in {min(config.grpo.buckets), max(config.grpo.buckets)}:
        rows = config.grpo.tokens_per_microbatch // length * row_shards(mesh)
        place = mesh and NamedSharding(mesh, PartitionSpec(ROWS))
        array = functools.partial(jax.ShapeDtypeStruct, (rows, length), sharding=place)
        packed = PackedBatch(**{n: array(t) for n, t in field_dtypes().items()})
        floats = array(jnp.float32)
        in_loss = config.grpo.kl_coef and config.grpo.kl_in == "loss"
        old = floats if in_loss else None
        batch = GrpoBatch(packed, floats, floats, floats, old)
        grads, _ = jax.eval_shape(accumulate, params, params, batch)
        scores = jax.eval_shape(make_forward(logprob_fn), params, packed)
        assert scores.shape == (rows, length)
    after = jax.eval_shape(apply, state, grads)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (state, after))
    assert shapes[0] == shapes[1]
    if config.engine.name == "jax":
        own = engine_mesh(mesh, decoder)
        options = build.engine_options(config, platform_of(mesh))
        _, calls = abstract_calls(decoder, abstract(own, params), **options)
        for program, arguments in calls.values():
            jax.eval_shape(program, *arguments)


def programs_of(config):
    """Return all that the traced programs follow from; equal ones are traced once."""
    kept = ("policy", "mesh", "engine", "grpo", "rollout", "prompt", "warm_start")
    left_out = (
        "engine.vllm", "grpo.learning_rate", "grpo.minibatches", "grpo.reward_scale",
        "grpo.invalid_penalty", "grpo.logprob_diff_warning", "grpo.group_size",
        "rollout.tasks", "rollout.max_turns", "rollout.concurrency", "rollout.overlap",
        "prompt.wording", "prompt.layout", "prompt.history", "prompt.actions",
    )  # fmt: skip
    return json.dumps(
        {
            key: value
            for key, value in flatten(config.to_dict()).items()
            if key.startswith(kept) and not key.startswith(left_out)
        }
    )


def survey(count, places, directory):
    """Take configurations through validation and programs; return what came of it."""
    by_key, late = collections.Counter(), collections.Counter()
    good, failed, traced = 0, [], set()
    for number in range(count):
        base, changes, config = make(number, places)
        if number % 20 == 0:
            print(f"{number} of {count}", file=sys.stderr, flush=True)
        accepted = False
        try:
            if keys := refused(config):
                by_key.update(keys)
                continue
            accepted = True
            policy = build_all(config, directory)
            if (programs := programs_of(config)) not in traced:
                trace(config, policy)
                traced.add(programs)
                jax.clear_caches()  # gigabytes, after some dozens
            good += 1
        except Exception as error:
            key = re.match(r"config\.([a-z_.]+)", str(error))
            if accepted and type(error) is ValueError and key:
                late[key[1]] += 1  # what only model and devices can tell
                continue
            failed.append(number)
            print(f"{number}, {base!r} with {changes}:\n{traceback.format_exc(-3)}")
    print("refused by validation, by key:", dict(by_key.most_common()))
    print("refused for this model and these devices:", dict(late.most_common()))
    return {"made": count, "good": good, "programs": len(traced), "failed": failed}


def play(runs, places, directory):
    """Run small configurations, those that are accepted; return what failed."""
    number = done = 0
    failed = []
    while done < runs:
        _, changes, config = make_small(number, places)
        number += 1
        if refused(config):
            continue
        done += 1
        print(f"run {done} of {runs}: {changes}", file=sys.stderr, flush=True)
        try:
            train(config, Workdir(directory / f"run-{number}"))
        except Exception as error:
            if type(error) is ValueError and str(error).startswith("config."):
                done -= 1  # what only model and devices can tell
                continue
            failed.append(number - 1)
            print(f"{number - 1}, {changes}:\n{traceback.format_exc(-3)}", flush=True)
    return {"runs": done, "failed_runs": failed}


def main():
    count = int(sys.argv[1])
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as name:
        places = make_places(Path(name))
        report = survey(count, places, Path(name)) | play(runs, places, Path(name))
    print(json.dumps(report))
    sys.exit(bool(report["failed"] or report["failed_runs"]))


if __name__ == "__main__":
    main()
