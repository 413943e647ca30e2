"""Writes the policy of a run as a Hugging Face directory.

The directory holds what transformers and vLLM load: weights (several files and an
index when they are large), config.json, generation_config.json and the files of the
tokenizer. All but the weights are those of the model that the run started from. Beside
them stand a card (README.md) with the success of the exported step, its tasks and its
error, the configuration of the run (run_config.json), the accepted skills (skills/) and
the report of the run (report.html).
"""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.policy.decoder import Params, abstract_params
from reskill_jax.policy.decoder_config import load_config
from reskill_jax.policy.eos import find_eos_ids
from reskill_jax.policy.lora import Adapted, merge
from reskill_jax.policy.peft import save_adapters
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.policy.weights import load, save
from reskill_jax.report.best import find_step
from reskill_jax.report.exports.cards import model_card
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.page import write_report
from reskill_jax.rollout.context import (
    BankContext,
    Context,
    EmptyContext,
    Readable,
    open_context,
)
from reskill_jax.scrub import environment_secrets, scrub, scrub_all
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.storage import new_directory, read_json, refuse_existing, write_text
from reskill_jax.strategies import find_strategy
from reskill_jax.terminal import activity
from reskill_jax.workdir import Workdir

# Whichever of them the model has.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def export_run(
    config: ConfigDict,
    workdir: Workdir,
    output: Path,
    *,
    dtype: str = "float32",
    step: int | str | None = None,
    adapters: bool = False,
) -> None:
    """Export a checkpoint of a run, and say so; adapters are merged.

    Args:
        config: of the run.
        workdir: of the run.
        output: the new directory.
        dtype: of the weights in the files, float32 or bfloat16.
        step: which checkpoint; None for the newest, ``best`` for the best.
        adapters: write them alone, as a directory that PEFT loads (`policy.peft`).

    Raises:
        FileExistsError: `output` is there already.
        ValueError: the run has no checkpoint yet, none that was chosen as the best, or
            no adapters.
        CheckpointError: the weights that adapters were trained on have changed.
    """
    refuse_existing(output)
    if config.adapt.frozen:
        path, recipe = config.policy.path, config.warm_start.recipe
        weights = f"policy.path={path!r}" if path else f"warm_start.recipe={recipe!r}"
        raise ValueError(
            "config.adapt.frozen=True: the run has no weights of its own: those of "
            f"config.{weights} are all there are"
        )
    source = build.policy_directory(config)
    decoder, lora = load_config(source), config.policy.lora
    if adapters and not lora.rank:
        raise ValueError(
            "config.policy.lora.rank=0: the run has no adapters to export: leave out "
            "--export_adapters"
        )
    abstract = abstract_params(decoder)
    if lora.rank:
        abstract = build.make_adapters(config, abstract, None, weights=False)
    template = {"params": abstract}
    checkpointer = Checkpointer(workdir.checkpoints, read_only=True)
    try:
        chosen = find_step(workdir, config.checkpoint.best, step, checkpointer.steps())
        restored = checkpointer.restore(template, chosen, partial=True)
    finally:
        checkpointer.close()
    if restored is None:
        raise ValueError(f"{workdir.checkpoints} holds no checkpoint yet: train on")
    params = restored.arrays["params"]
    find_strategy(config.strategy.name)  # its module registers its contexts
    context = open_context(restored.host["incumbent"], build.context_resources(config))
    if lora.rank:
        build.check_base(restored.host, build.describe_base(source))
    if adapters:
        save_adapters(output, source, params, rank=lora.rank, alpha=lora.alpha)
        print(f"the adapters after {restored.step} steps are in {output}")
        return
    if lora.rank:
        _, base = load(source)
        params = merge(Adapted(base, params, build.lora_scale(config)))
    export(
        output,
        source,
        params,
        dtype=dtype,
        describe=partial(_describe, config, workdir, restored.step, context),
    )
    print(f"the policy after {restored.step} steps is in {output} ({dtype})")


def _describe(
    config: ConfigDict, workdir: Workdir, step: int, context: Context, output: Path
) -> None:
    """Put beside the weights what people and agents should know of them.

    Args:
        config: of the run.
        workdir: of the run.
        step: of the weights.
        context: that was accepted after that step; the workdir has the newest one.
        output: a directory.
    """
    secrets = environment_secrets(os.environ)
    _write(output / "run_config.json", scrub_all(config.to_dict(), secrets))
    shown = _write_context(context, output)
    lines = [line for line in read_metrics(workdir.metrics) if line["phase"] == "eval"]
    card = model_card(
        base=config.policy.path or config.warm_start.recipe,
        environment=config.env.name,
        strategy=config.strategy.name,
        step=step,
        evaluation=next((x for x in reversed(lines) if x["step"] == step), None),
        shown=shown,
    )
    write_text(output / "README.md", scrub(card, secrets))
    write_report(workdir, output=output / "report.html")


def _write_context(context: Context, output: Path) -> str:
    """Write the accepted context, as far as it has a form; say what prompts show."""
    if isinstance(context, BankContext):
        if not context.bank.skills:
            return "None: no skill was accepted up to this step."
        save_bank(context.bank, output / "skills")
        names = ", ".join(skill.name for skill in context.bank.skills)
        return (
            f"The figures above are with the library accepted at this step, `skills/`, "
            f"in the prompt: {names}. Without it the policy may do worse."
        )
    if isinstance(context, EmptyContext):
        return "None: the prompt has no skills section."
    if isinstance(context, Readable):
        context.save(output / "library")
        where = "`library/`"
    else:
        where = "not in this folder but in the checkpoints of the run"
    return (
        "No skill bank: the figures above are with what the method shows beside the "
        f"task ({context.kind}), as it was at this step, which is {where}. Without it "
        "the policy may do worse."
    )


def export(
    output: Path,
    source: Path,
    params: Params,
    *,
    dtype: str = "float32",
    describe: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write new weights of a model; `output` appears whole or not at all.

    Args:
        output: the new directory.
        source: Hugging Face directory of the model that the weights are for.
        params: the weights.
        dtype: their type in the files, float32 or bfloat16.
        describe: writes further files into a directory.

    Raises:
        FileExistsError: `output` is there already.
    """
    with new_directory(output) as unfinished:
        with activity(f"writing the weights to {output}"):
            save(unfinished, load_config(source), params, dtype=dtype)
        for name in _TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, unfinished / name)
        # The model's own words for its shape are what all versions of readers know.
        values = read_json(source / "config.json")
        values["torch_dtype" if "torch_dtype" in values else "dtype"] = dtype
        _write(unfinished / "config.json", values)
        _write(unfinished / "generation_config.json", _generation_config(source))
        describe(unfinished)


def _generation_config(source: Path) -> dict[str, Any]:
    """Return the model's own, which must stop where our responses end."""
    path = source / "generation_config.json"
    values = read_json(path) if path.is_file() else {}
    tokenizer = Tokenizer.load(source)
    vocab_size = load_config(source).vocab_size
    values["eos_token_id"] = list(find_eos_ids(source, tokenizer, vocab_size))
    values.setdefault("pad_token_id", tokenizer.pad_id)
    return values


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
