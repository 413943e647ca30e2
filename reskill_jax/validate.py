"""Checks a configuration once, before any work is done.

The table in `keys` says of every key which values it may have. How values fit together
is checked by the part that they are about, in its own words: frozen settings refuse to
be made, and functions in modules `settings` yield problems. Here they get their keys.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from ml_collections import ConfigDict

from reskill_jax import distributed
from reskill_jax.build import load_environment
from reskill_jax.build_strategy import CREATORS, find_creator, trial_shape
from reskill_jax.creator import settings as creator_settings
from reskill_jax.environments.registry import environment_module
from reskill_jax.grpo import settings as grpo_settings
from reskill_jax.keys import table
from reskill_jax.llm import embedder_settings
from reskill_jax.llm.budget import Budget
from reskill_jax.llm.retry import RetryPolicy
from reskill_jax.memories.settings import METHODS
from reskill_jax.policy import settings as policy_settings
from reskill_jax.policy.sharding import AXES
from reskill_jax.report.best import chosen_metric
from reskill_jax.rollout import settings as rollout_settings
from reskill_jax.rollout.vllm import settings as vllm_settings
from reskill_jax.strategies import (
    STRATEGIES,
    WRITING,
    asks_creator,
    find_strategy,
    holds_trials,
)
from reskill_jax.strategies import settings as strategy_settings
from reskill_jax.trials import bounds
from reskill_jax.trials.bounds import make_config
from reskill_jax.workdir import flatten

# What modes that start no run depend on.
EVALUATION = ("env", "prompt", "mesh", "engine.vllm", "eval")
COMPILATION = ("mesh", "grpo")
SUPERVISION = ("prompt", "policy", "mesh")


def validate(config: ConfigDict, sections: Container[str] | None = None) -> None:
    """Check every value and, if all of them are right, how they fit together.

    Args:
        config: of a run.
        sections: those whose values have to fit; None: all, as in training.

    Raises:
        ValueError: names every key that is wrong, its value and the way out.
    """
    problems = [*_value_problems(config)] or [*_fit_problems(config, sections)]
    if problems:
        lines = (f"\n  config.{problem}" for problem in problems)
        raise ValueError("the configuration cannot run:" + "".join(lines))


def _value_problems(config: ConfigDict) -> Iterator[str]:
    values = flatten(config.to_dict())
    try:
        rows = table(values.get("env.name", ""))
    except ValueError as error:
        yield f"env.{error}"
        return
    # A strategy or a creator of one's own may have keys of its own. Tuples, as what
    # stands for a name may be of any type, also one without a hash.
    free = tuple(
        f"{section}."
        for section, listed in (("strategy", STRATEGIES), ("creator", CREATORS))
        if values.get(f"{section}.name") not in tuple(listed)
    )
    for key in sorted(rows.keys() - values.keys()):
        yield f"{key} is missing: add it, see reskill_jax/defaults.py"
    for key, value in sorted(values.items()):
        if key in rows and not rows[key].holds(value):
            yield f"{key}={value!r}: {rows[key].wanted}"
        if key not in rows and not key.startswith(free):
            yield f"{key}={value!r}: there is no such key: leave it out"


def _fit_problems(config: ConfigDict, sections: Container[str] | None) -> Iterator[str]:
    if sections is None and config.mesh.topology:
        yield (
            f"mesh.topology={config.mesh.topology!r} is for --mode=compile only: leave "
            "it empty to train, on the devices that are here"
        )
    for section, problems in _checks(config):
        if sections is None or section in sections:
            yield from (f"{section}.{problem}" for problem in problems)


def _checks(config: ConfigDict) -> Iterator[tuple[str, Iterable[str]]]:
    """Ask the parts; yields sections, and problems that begin with a key in them."""
    rollout, grpo, creator = config.rollout, config.grpo, config.creator
    processes = distributed.count()
    yield "env", _refusal(environment_module(config.env.name).Settings, config.env)
    yield "prompt", _wording_problems(config)
    yield from _trial_checks(config)
    limits = {
        "creator.budget": [*_refusal(Budget, creator.budget)],
        "creator.retry": [*_refusal(RetryPolicy, creator.retry)],
    }
    yield from limits.items()
    yield (
        "policy",
        policy_settings.reference_problems(
            config.policy.reference, config.policy.lora.rank
        ),
    )
    sizes = {axis: config.mesh[axis] for axis in AXES}
    yield "mesh", policy_settings.mesh_problems(**sizes)
    yield (
        "rollout",
        rollout_settings.problems(
            overlap=rollout.overlap,
            processes=processes,
            top_p=rollout.top_p,
            engine=config.engine.name,
        ),
    )
    yield (
        "grpo",
        grpo_settings.problems(
            **grpo,
            tasks_per_step=rollout.tasks_per_step,
            longest_turn=config.prompt.max_tokens + rollout.max_tokens,
        ),
    )
    yield "strategy", _module_problems(find_strategy, config.strategy.name)
    for name, settings in METHODS.items():
        if name in config.strategy:  # a strategy of one's own may lack it
            section = f"strategy.{name}"
            yield section, _refusal(settings, config.strategy[name])
    yield (
        "strategy",
        strategy_settings.problems(
            **config.strategy,
            group_size=grpo.group_size,
            trial_preset=config.trial.preset,
            frozen=config.adapt.frozen,
            eval_splits=config.eval.splits,
        ),
    )
    yield "adapt", _adaptation_problems(config)
    yield "eval", _evaluation_problems(config)
    yield "checkpoint", _best_problems(config)
    yield "embedder", embedder_settings.problems(**config.embedder)
    if creator.name not in CREATORS:
        yield "creator", _module_problems(find_creator, creator.name)
        if config.strategy.name in WRITING:
            yield (
                "strategy",
                [
                    f"name={config.strategy.name!r} has texts written, which a creator "
                    "of one's own does not write: choose config.creator.name from "
                    f"{', '.join(CREATORS)}"
                ],
            )
    elif creator.name != "offline" and asks_creator(config.strategy.name):
        own = ("delay_steps", "inject", "inject_every")
        yield (
            "creator",
            ()  # the same limits would be refused again
            if any(limits.values())
            else creator_settings.problems(
                **{k: v for k, v in creator.to_dict().items() if k not in own},
                engine=config.engine.name,
                push_timeout_s=config.engine.vllm.timeout_s,
                colocate=config.engine.vllm.colocate,
            ),
        )
    if config.engine.name == "vllm":
        yield (
            "engine.vllm",
            vllm_settings.problems(
                **config.engine.vllm, processes=processes, overlap=rollout.overlap
            ),
        )
    yield from _source_checks(config)


def _trial_checks(config: ConfigDict) -> Iterator[tuple[str, Iterable[str]]]:
    """Check the settings of trials, and that they can tell so many candidates apart."""
    holds = holds_trials(config.strategy.name)
    shape = trial_shape(config)
    if not holds or shape.candidates == 1 or shape.group_size <= shape.candidates:
        # Nothing depends on its very bounds; those of other shapes take seconds.
        shape = bounds.nearest(shape._replace(candidates=1))
    try:
        trial = make_config(config.trial, shape)
    except ValueError as error:
        yield "trial", [str(error)]
        return
    yield (
        "trial",
        strategy_settings.trial_problems(
            strategy=config.strategy.name,
            min_episodes=trial.min_episodes,
            max_steps=trial.max_steps,
            episodes=config.rollout.tasks_per_step * config.grpo.group_size,
        ),
    )
    if holds and trial.mode == "paired":
        yield "strategy", bounds.problems(trial, shape)
    if config.strategy.name == "uniform" and trial.epsilon >= 0.5:
        yield (
            "strategy",
            [
                f"name='uniform' is the same as 'reskill' with trial.epsilon="
                f"{trial.epsilon:g}: use config.trial.preset='paper'"
            ],
        )


def _adaptation_problems(config: ConfigDict) -> Iterator[str]:
    split = config.adapt.split
    if not config.adapt.frozen and split != "train":
        yield (
            f"split={split!r}: a policy learns on train: leave it, or use --mode=adapt"
        )
    if config.adapt.frozen and split in config.eval.splits:
        yield (
            f"split={split!r} is evaluated on, too: adapt on tasks that "
            f"eval.splits={tuple(config.eval.splits)} does not have"
        )
    if config.adapt.frozen and config.policy.lora.rank:
        yield (
            f"frozen=True: policy.lora.rank={config.policy.lora.rank} would make "
            "adapters that never learn: export the run merged, and set the rank to 0"
        )


def _evaluation_problems(config: ConfigDict) -> Iterator[str]:
    count = config.eval.samples
    if count > 1 and not config.eval.temperature:
        yield (
            f"samples={count} of eval.temperature=0 would all be the greedy episode: "
            "set a temperature above 0, such as that of config.rollout.temperature, or "
            "samples=1"
        )


def _best_problems(config: ConfigDict) -> Iterator[str]:
    best, splits = config.checkpoint.best, tuple(config.eval.splits)
    split = chosen_metric(best, splits).partition("/")[0]
    if split and split not in splits:
        yield (
            f"best={best!r} is of a split that eval.splits={splits} does not have: "
            "evaluate on it, name a metric of another split, or leave best empty"
        )


def _wording_problems(config: ConfigDict) -> Iterator[str]:
    try:
        wordings = load_environment(config).wordings
    except ValueError:
        return  # said already
    if (wording := config.prompt.wording) not in wordings:
        yield f"wording={wording!r}: choose one of {', '.join(map(repr, wordings))}"


def _module_problems(find: Callable[[str], Any], name: str) -> Iterator[str]:
    try:
        find(name)
    except ValueError as error:
        yield str(error)


def _source_checks(config: ConfigDict) -> Iterator[tuple[str, Iterable[str]]]:
    """Check where the weights to start from come from."""
    if config.policy.path:
        yield "policy", policy_settings.path_problems(config.policy.path)
    elif recipe := config.warm_start.recipe:
        # Imported only where it is needed: it brings household games.
        from reskill_jax.laboratory import settings  # noqa: PLC0415

        prompt = {key: config.prompt[key] for key in ("wording", "layout", "actions")}
        yield "warm_start", settings.problems(recipe, **prompt)
    else:
        yield (
            "policy",
            [
                "path='': name a Hugging Face directory with weights, or a recipe in "
                "config.warm_start.recipe"
            ],
        )


def _refusal(settings: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield why settings refuse to be made from those of the values that are theirs."""
    names = [field.name for field in fields(settings)]
    try:
        settings(**{name: values[name] for name in names if name in values})
    except ValueError as error:
        yield str(error)
