"""Trains a policy on recorded episodes: cold starts, and replayed demonstrations.

    python -m reskill_jax.supervise --config=configs/ENVIRONMENT.py:cpu \
        --episodes=runs/a/episodes --policy=POLICY --output=policies/imitated

The configuration says how prompts look and how the update is computed (sections
`prompt`, `policy`, `mesh`, `grpo.buckets`); `rollout/demonstration.py` says what
episodes are. The loss is the mean negative log-likelihood per token of the responses.
The state of training is stored every ten minutes (`OUTPUT.partial`); the same command
continues from there.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from reskill_jax import build, terminal
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.command_line import start
from reskill_jax.export import export
from reskill_jax.grpo.optimizer import TrainState, init_state, make_optimizer
from reskill_jax.grpo.packing import PackedBatch, pack
from reskill_jax.grpo.schedules import make_schedule
from reskill_jax.grpo.supervised import (
    SupervisedUpdate,
    fit,
    make_supervised_update,
    mean_loss,
)
from reskill_jax.policy.lora import merge
from reskill_jax.policy.sharding import row_shards
from reskill_jax.policy.weights import load
from reskill_jax.process import compilation_cache, tune_memory
from reskill_jax.reasoning import answer_of
from reskill_jax.rollout.demonstration import (
    Demonstration,
    as_episode,
    episode_files,
    only_successes,
    only_taught,
    read_demonstrations,
)
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.storage import other_holder, refuse_existing
from reskill_jax.validate import SUPERVISION, validate

_SAVE_S = 600.0  # seconds of training that a killed process may cost


def main() -> None:
    """Run the command."""
    logging.set_verbosity(logging.WARNING)  # JAX tells of devices that are not here
    compilation_cache(Path(".cache") / "xla")
    tune_memory()
    try:
        before, after = supervise(
            _CONFIG.value,
            Path(_EPISODES.value),
            policy=_POLICY.value,
            output=Path(_OUTPUT.value),
            bank=load_bank(Path(_BANK.value)) if _BANK.value else SkillBank(),
            steps=_STEPS.value,
            batch=_BATCH.value,
            learning_rate=_RATE.value,
            held_out=_HELD_OUT.value,
            failures=_FAILURES.value,
        )
    except (ValueError, ArithmeticError, OSError, RuntimeError) as error:
        terminal.fail(error)
    print(f"held-out loss {before:.4f} -> {after:.4f} nats per token; {_OUTPUT.value}")


def supervise(
    config: ConfigDict,
    episodes: Path,
    *,
    policy: str,
    output: Path,
    bank: SkillBank,
    steps: int,
    batch: int,
    learning_rate: float,
    held_out: int = 16,
    failures: bool = False,
) -> tuple[float, float]:
    """Train, and write the policy as a Hugging Face directory.

    A process that was killed is followed by one with the same arguments, which goes on
    where the state was stored last.

    Args:
        config: how prompts look and how the update is computed.
        episodes: file or directory, see `rollout.demonstration`.
        policy: Hugging Face directory to start from.
        output: the new directory.
        bank: the skills that episodes show.
        steps: optimiser steps.
        batch: episodes per step, drawn without replacement, epoch by epoch.
        learning_rate: greatest: a tenth of the steps warms up, then a cosine falls.
        held_out: episodes that are only measured.
        failures: whether lost episodes are imitated, too.

    Returns:
        Loss of the held-out episodes before and after, nats per token.

    Raises:
        BlockingIOError: another process makes `output`.
        FileExistsError: `output` is there already.
        ValueError: the configuration or the episodes cannot be used, or these are too
            few.
    """
    refuse_existing(output)
    config = config.copy_and_resolve_references()
    config.unlock()
    config.policy.path = policy
    validate(config, SUPERVISION)
    demonstrations = only_taught(read_demonstrations(episodes, bank))
    if not failures:
        demonstrations = only_successes(demonstrations)
    if len(demonstrations) <= held_out:
        raise ValueError(
            f"{episodes} has {len(demonstrations)} episodes to imitate, and held_out="
            f"{held_out} of them are only measured: give more, or hold fewer out"
        )
    _check_lists(config, demonstrations)
    environment = build.load_environment(config)
    start = build.load_policy(config)
    _check_responses(config, start, demonstrations)
    render = partial(
        as_episode, build.make_prompts(config, environment, start.tokenizer)
    )
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(demonstrations))
    measured = [render(demonstrations[i]) for i in order[:held_out]]
    taught = [demonstrations[i] for i in order[held_out:]]
    warmup = steps // 10
    tx = make_optimizer(
        make_schedule(learning_rate, warmup=warmup, decay=max(steps - warmup, 1)),
        clip_norm=config.grpo.clip_norm,
        weight_decay=config.grpo.weight_decay,
    )
    logprob_fn = build.make_logprob_fn(config, start.config, start.mesh)
    update = make_supervised_update(logprob_fn, tx, start.frozen)
    packing = partial(
        pack,
        buckets=config.grpo.buckets,
        tokens_per_microbatch=config.grpo.tokens_per_microbatch,
        row_shards=row_shards(start.mesh),
    )
    loss = partial(mean_loss, logprob_fn, packing(measured))
    options = (steps, batch, learning_rate, held_out, failures)
    with _held(output) as stored:
        state, before = _fit(
            update,
            init_state(start.params, tx, start.mesh),
            steps,
            lambda step: packing(
                [*map(render, _draw(taught, batch, config.seed, step))]
            ),
            measure=lambda params: loss(start.join(params)) if measured else None,
            stored=stored / _identity(config, episodes, bank, start, options),
        )
        params = start.join(state.params)
        after = loss(params) if measured else float("nan")
        if start.frozen is not None:  # onto weights that were never rounded
            _, whole = load(start.directory)
            params = replace(params, base=whole)
        export(output, start.directory, merge(params))
        shutil.rmtree(stored)
    return float("nan") if before is None else before, after


@contextmanager
def _held(output: Path) -> Iterator[Path]:
    """Yield where the state of training is kept; no other process writes there.

    Raises:
        BlockingIOError: another process makes `output`.
        FileExistsError: one has made it meanwhile.
    """
    stored = output.with_name(f"{output.name}.partial")
    stored.mkdir(parents=True, exist_ok=True)
    with (stored / "lock").open("a+") as file:
        if holder := other_holder(file):
            raise BlockingIOError(
                f"output={str(output)!r} is being made by process {holder}: wait for "
                "it, stop it, or choose another --output"
            )
        refuse_existing(output)
        yield stored


def _fit(
    update: SupervisedUpdate,
    state: TrainState,
    steps: int,
    batches: Callable[[int], list[PackedBatch]],
    *,
    measure: Callable[[Any], float | None],
    stored: Path,
) -> tuple[TrainState, float | None]:
    """Take all steps, or those after the state that is stored.

    Returns:
        The last state, and what `measure` gave of the first one's weights.
    """
    with closing(Checkpointer(stored, keep=1)) as checkpointer:
        if restored := checkpointer.restore(state):
            done, state, host = restored
            before = host["before"]
            terminal.say(f"going on after {done} of {steps} steps")
        else:
            done, before = 0, measure(state.params)
        saved = time.monotonic()

        def keep(done: int, state: TrainState) -> None:
            nonlocal saved
            if done < steps and time.monotonic() - saved >= _SAVE_S:
                checkpointer.save(done, state, {"before": before})
                saved = time.monotonic()

        return fit(update, state, range(done, steps), batches, keep), before


def _draw(
    taught: Sequence[Demonstration], batch: int, seed: int, step: int
) -> list[Demonstration]:
    """Draw what a step learns from: every epoch in an order of its own."""
    size = len(taught)
    places = range(step * batch, (step + 1) * batch)
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(size)
        for epoch in {place // size for place in places}
    }
    return [taught[orders[place // size][place % size]] for place in places]


def _identity(
    config: ConfigDict,
    episodes: Path,
    bank: SkillBank,
    start: build.Policy,
    options: Sequence[object],
) -> str:
    """Name what training is a function of: state of other training is not read."""
    digest = hashlib.sha256()
    for path in episode_files(episodes):
        digest.update(path.read_bytes())
    weights = build.describe_base(start.directory)["digest"]
    document = [config.to_json(sort_keys=True), bank.hash, weights, *options]
    digest.update(json.dumps(document).encode())
    return digest.hexdigest()[:12]


def _check_lists(config: ConfigDict, demonstrations: Sequence[Demonstration]) -> None:
    """Refuse episodes without action lists where prompts of a run would have them.

    Raises:
        ValueError: a policy would learn from other prompts than it is used with.
    """
    listed = any(
        turn.observation.actions is not None or turn.observation.hint
        for demonstration in demonstrations
        for turn in demonstration.turns
    )
    if config.prompt.actions and not listed:
        raise ValueError(
            "config.prompt.actions=True, but no episode says which actions were "
            "possible: add the key 'choices' (or 'hints') to the episodes, or set "
            "config.prompt.actions=False here and in the runs that use the policy"
        )


def _check_responses(
    config: ConfigDict, policy: build.Policy, demonstrations: Sequence[Demonstration]
) -> None:
    """Refuse responses in which a run would find no action, or that are too long.

    Raises:
        ValueError: no response ends the thoughts that the chat template begins; or the
            policy's positions do not reach the end of one, after a long prompt: it
            names the task of the first one.
    """
    opened = policy.tokenizer.opened
    responses = [
        turn.response
        for demonstration in demonstrations
        for turn in demonstration.turns
        if turn.response
    ]
    if opened and not any(answer_of(opened + text).strip() for text in responses):
        raise ValueError(
            f"the chat template of {policy.directory} begins each response with "
            f"{opened!r}, and no response of the episodes ends these thoughts, so that "
            "none has an action: let the responses begin with the mark that ends them, "
            "or use a chat template that begins none"
        )
    longest = policy.config.max_position_embeddings
    room = longest - config.prompt.max_tokens
    for demonstration in demonstrations:
        for turn in demonstration.turns:
            text = turn.response or ""
            if len(text.encode()) < room:
                continue  # a token is at least a byte
            tokens = len(policy.tokenizer.encode(text)) + 1
            if tokens > room:
                raise ValueError(
                    f"task {demonstration.task.id!r}: a response of {tokens} tokens "
                    f"after config.prompt.max_tokens={config.prompt.max_tokens} is "
                    f"longer than max_position_embeddings={longest} of "
                    f"{policy.directory}: lower that key, or leave the episode out"
                )


if __name__ == "__main__":  # flags are the program's, not of those who import it
    _CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.")
    flags.mark_flag_as_required("config")
    _EPISODES = flags.DEFINE_string(
        "episodes", None, "A .jsonl file, or a directory.", required=True
    )
    _POLICY = flags.DEFINE_string(
        "policy", None, "Hugging Face directory to start from.", required=True
    )
    _OUTPUT = flags.DEFINE_string(
        "output", None, "New directory for the policy.", required=True
    )
    _BANK = flags.DEFINE_string(
        "bank", "", "Directory of the skills that episodes show."
    )
    _STEPS = flags.DEFINE_integer("steps", 200, "Optimiser steps.", lower_bound=1)
    _BATCH = flags.DEFINE_integer("batch", 16, "Episodes per step.", lower_bound=1)
    _RATE = flags.DEFINE_float(
        "learning_rate",
        1e-5,
        "Greatest; falls to 0 at the end.",
        lower_bound=0,
        upper_bound=1,
    )
    _HELD_OUT = flags.DEFINE_integer(
        "held_out", 16, "Episodes that measure the loss.", lower_bound=0
    )
    _FAILURES = flags.DEFINE_bool("failures", False, "Imitate lost episodes, too.")
    start(main)
