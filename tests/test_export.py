"""From a checkpoint to a directory that other programs load."""

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from click.testing import CliRunner
from library_context import Library
from ml_collections import ConfigDict
from skills_ref.cli import main as agentskills

from reskill_jax import build
from reskill_jax.checkpoint import Checkpointer, CheckpointError
from reskill_jax.export import _write_context, export, export_run
from reskill_jax.grpo.optimizer import init_state
from reskill_jax.memories.settings import SkillrlSettings
from reskill_jax.memories.skill_library import SkillLibrary
from reskill_jax.memory_plan import decoder_of
from reskill_jax.policy.decoder import hidden_states, init, logits
from reskill_jax.policy.decoder_config import DecoderConfig, to_hf
from reskill_jax.policy.tokenizer import Tokenizer, train_tokenizer
from reskill_jax.policy.weights import load, save
from reskill_jax.rollout.context import BankContext, EmptyContext, context_to_json
from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.skills.skill_md import load_bank, save_bank
from reskill_jax.stored_config import complete, get_config
from reskill_jax.workdir import Workdir

ROOT = Path(__file__).parent.parent
DECODER = DecoderConfig(
    vocab_size=300,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    model_type="qwen2",
)


EARLY = SkillBank((Skill("open-first", "Open what is closed.", "a", "b"),))
LATE = SkillBank(
    (
        *EARLY.skills,
        Skill("look-around", "Look: 'twice'.", "c", "d", trigger=Trigger("beginning")),
    )
)


def random(seed: int):
    return init(DECODER, jax.random.key(seed))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A model as it is published: bfloat16, settings of its own, old spellings."""
    directory = tmp_path_factory.mktemp("source")
    save(directory, DECODER, random(0), dtype="bfloat16")
    train_tokenizer(["go to shelf 1"] * 3, 280).save(directory)
    path = directory / "config.json"
    values = json.loads(path.read_text()) | {"bos_token_id": 7, "rope_theta": 1e6}
    values["eos_token_id"] = [3, 5]
    del values["rope_parameters"], values["dtype"]
    path.write_text(json.dumps({**values, "torch_dtype": "bfloat16"}))
    generation = {"top_k": 20, "eos_token_id": 3}
    (directory / "generation_config.json").write_text(json.dumps(generation))
    (directory / "merges.txt").write_text("a b")
    return directory


def smoke(policy: Path) -> ConfigDict:
    path = ROOT / "configs" / "alfworld.py"
    spec = importlib.util.spec_from_file_location("alfworld_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("smoke")
    config.policy.path = str(policy)
    return config


@pytest.fixture(scope="module")
def workdir(source, tmp_path_factory) -> Workdir:
    """A run that has just saved other weights than it started from."""
    config = smoke(source)
    workdir = Workdir(tmp_path_factory.mktemp("run"))
    workdir.bind(config.to_dict())
    tx, _ = build.make_grpo(config, DECODER)
    checkpointer = Checkpointer(workdir.checkpoints)
    for step, bank in ((2, EARLY), (3, LATE)):
        host = {"incumbent": context_to_json(BankContext(bank))}
        checkpointer.save(step, init_state(random(step - 1), tx), host)
    checkpointer.close()
    save_bank(SkillBank(), workdir.skills)  # of a later step that has no checkpoint
    return workdir


def test_the_command_writes_the_newest_policy(source, workdir, tmp_path):
    output = tmp_path / "policies" / "a"
    command = [sys.executable, "-m", "reskill_jax.main", "--mode=export"]
    command += [f"--workdir={workdir.root}", f"--output={output}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"the policy after 3 steps is in {output} (float32)\n"
    config, params = load(output)
    assert config == dataclasses.replace(DECODER, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, params, random(2))
    assert sorted(p.name for p in output.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "report.html",
        "run_config.json",
        "skills",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert "Not evaluated at this step." in (output / "README.md").read_text()
    tokenizer = Tokenizer.load(output)
    assert tokenizer.user_prefix == Tokenizer.load(source).user_prefix
    values = json.loads((output / "config.json").read_text())
    assert (values["bos_token_id"], values["torch_dtype"]) == (7, "float32")
    assert json.loads((output / "generation_config.json").read_text()) == {
        "top_k": 20,
        "eos_token_id": [tokenizer.eos_id, 3, 5],
        "pad_token_id": tokenizer.pad_id,
    }
    theirs = transformers.AutoConfig.from_pretrained(output)
    assert isinstance(theirs, transformers.Qwen2Config)
    generation = transformers.GenerationConfig.from_pretrained(output)
    assert generation.eos_token_id == [tokenizer.eos_id, 3, 5]
    assert transformers.AutoTokenizer.from_pretrained(output).chat_template


def test_any_checkpoint_can_be_exported(workdir, tmp_path, capsys):
    config = get_config(str(workdir.root))
    export_run(config, workdir, tmp_path / "a", step=2, dtype="bfloat16")
    assert capsys.readouterr().out.startswith("the policy after 2 steps is in")
    export(tmp_path / "b", Path(config.policy.path), random(1), dtype="bfloat16")
    files = [tmp_path / name / "model.safetensors" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(CheckpointError, match=r"of step 1: choose one of \[2, 3\]"):
        export_run(config, workdir, tmp_path / "c", step=1)
    assert not (tmp_path / "c").exists()


def test_an_adapted_run_names_the_weights_that_it_played_with(workdir, tmp_path):
    config = get_config(str(workdir.root))
    config.adapt.frozen = True
    with pytest.raises(ValueError, match=r"those of config\.policy\.path='/.+ are all"):
        export_run(config, workdir, tmp_path / "a")
    config.policy.path = ""
    recipe = r"those of config\.warm_start\.recipe='alfworld-remarks' are all"
    with pytest.raises(ValueError, match=recipe):
        export_run(config, workdir, tmp_path / "a")


def test_the_skills_are_those_of_the_exported_step(workdir, tmp_path):
    config = get_config(str(workdir.root))
    for step, bank in ((2, EARLY), (3, LATE)):
        export_run(config, workdir, tmp_path / str(step), step=step)
        assert load_bank(tmp_path / str(step) / "skills") == bank
        card = (tmp_path / str(step) / "README.md").read_text()
        assert ("look-around" in card) == (bank == LATE)
        for skill in bank.skills:
            path = tmp_path / str(step) / "skills" / skill.name
            done = CliRunner().invoke(agentskills, ["validate", str(path)])
            assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("context", "words", "folder"),
    [
        (BankContext(SkillBank()), "no skill was accepted up to this step", None),
        (EmptyContext(), "the prompt has no skills section", None),
        (Library(), "(test/library), as it was at this step, which is not in", None),
        (
            SkillLibrary(SkillrlSettings()),
            "as it was at this step, which is `library/`",
            "library",
        ),
    ],
)
def test_other_contexts_are_written_as_they_can_be(tmp_path, context, words, folder):
    said = _write_context(context, tmp_path)
    assert words in said
    assert [path.name for path in tmp_path.iterdir()] == [folder] * bool(folder)


def test_transformers_computes_what_our_decoder_computes(workdir, tmp_path):
    torch = pytest.importorskip(
        "torch", reason="needs the extra parity: pip install '.[parity]'"
    )
    export_run(get_config(str(workdir.root)), workdir, tmp_path / "a")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    tokens = np.array([tokenizer("go to shelf 1, then go to shelf 1").input_ids])
    assert tokens.shape[1] > 4
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "a", dtype=torch.float32
    )
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(tokens)).logits.numpy()
    places = jnp.arange(tokens.shape[1])[None]
    ends = jnp.full_like(places, tokens.shape[1])
    states = hidden_states(DECODER, random(2), jnp.asarray(tokens), places, ends)
    np.testing.assert_allclose(theirs, logits(DECODER, random(2), states), atol=1e-4)


def test_a_run_of_an_earlier_version_is_exported_with_a_word(
    workdir, source, tmp_path, capfd
):
    old = Workdir(tmp_path / "old")
    shutil.copytree(workdir.root, old.root)
    values = old.read_config()
    for section, key in (("prompt", "wording"), ("eval", "samples"), ("grpo", "loss")):
        del values[section][key]
    del values["embedder"]
    values["grpo"]["scale"] = "std"
    old.config.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="only the version that began") as caught:
        old.check(smoke(source).to_dict())  # training goes on as it began, or not
    assert 'config.prompt.wording: absent there, "brief" now' in str(caught.value)
    command = [sys.executable, "-m", "reskill_jax.main", "--mode=export", "--step=2"]
    command += [f"--workdir={old.root}", f"--output={tmp_path / 'a'}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    note = next(line for line in done.stderr.splitlines() if "another version" in line)
    assert 'config.prompt.wording="full"' in note
    assert 'config.embedder.name="lexical"' in note
    assert "config.eval.samples=1" in note
    assert "1 that only training needs" in note
    assert note.endswith("keys that are no more are left out: config.grpo.scale")
    assert load_bank(tmp_path / "a" / "skills") == EARLY


def test_keys_that_looking_depends_on_are_never_left_out_or_guessed(workdir):
    values = workdir.read_config()
    values["prompt"]["shape"] = "round"  # it made prompts in a way unknown today
    assert complete(values).config["prompt"]["shape"] == "round"
    for section, key in (("policy", "path"), ("strategy", "name"), ("env", "name")):
        values = workdir.read_config()
        del values[section][key]
        del values["embedder"]
        assert complete(values) == (values, {}, {})
    assert complete(workdir.read_config()).note == ""


@pytest.mark.parametrize("value", ["jax", None, 3])
def test_a_value_where_there_is_a_section_today_is_left_to_validation(workdir, value):
    values = workdir.read_config() | {"mesh": value}
    assert complete(values) == (values, {}, {})
    values = workdir.read_config()
    values["grpo"]["gigpo"] = value
    assert complete(values) == (values, {}, {})


def test_the_command_takes_a_step_and_places_but_no_other_flags(workdir, tmp_path):
    command = [sys.executable, "-m", "reskill_jax.main", "--mode", "export"]
    command += ["--workdir", str(workdir.root), "--output", str(tmp_path / "a")]
    command += ["--step=2", "--config.mesh.fsdp=-1"]

    def start(*flags):
        return subprocess.run(
            [*command, *flags], cwd=ROOT, capture_output=True, text=True, check=False
        )

    done = start("--config.seed=7")
    assert done.returncode != 0
    assert "config.seed: 42 there, 7 now" in done.stderr
    done = start()
    assert done.returncode == 0, done.stderr
    _, params = load(tmp_path / "a")
    jax.tree.map(np.testing.assert_array_equal, params, random(1))


def test_what_was_loaded_goes_back_bitwise(source, tmp_path):
    _, params = load(source)
    export(tmp_path / "a", source, params, dtype="bfloat16")
    theirs = (source / "model.safetensors").read_bytes()
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == theirs


def test_nothing_is_overwritten_and_nothing_half_written(source, workdir, tmp_path):
    config = ConfigDict(workdir.read_config())
    with pytest.raises(FileExistsError, match="choose another --output"):
        export_run(config, workdir, tmp_path)
    broken = random(0)
    del broken["norm"]
    with pytest.raises(KeyError):
        export(tmp_path / "a", source, broken)
    assert not (tmp_path / "a").exists()
    export(tmp_path / "a", source, random(0))  # what the killed one left is no obstacle
    assert not (tmp_path / "a.partial").exists()


def test_a_tokenizer_of_another_model_is_refused(source, tmp_path):
    small = dataclasses.replace(DECODER, vocab_size=100)
    save(tmp_path, small, init(small, jax.random.key(0)))
    Tokenizer.load(source).save(tmp_path)
    config = smoke(tmp_path)
    with pytest.raises(ValueError, match="embeds only vocab_size=100"):
        build.load_policy(config)


def test_texts_longer_than_the_model_was_made_for_are_refused(source, tmp_path):
    """Before weights are read: there are none here."""
    short = dataclasses.replace(DECODER, max_position_embeddings=639)
    (tmp_path / "config.json").write_text(json.dumps(to_hf(short)))
    Tokenizer.load(source).save(tmp_path)
    config = smoke(tmp_path)
    assert config.prompt.max_tokens + config.rollout.max_tokens == 640
    message = r"^config\.prompt\.max_tokens .* = 640, .*max_position_embeddings=639: "
    for weights in (True, False):
        with pytest.raises(ValueError, match=message):
            build.load_policy(config, weights=weights)
    with pytest.raises(ValueError, match=message):
        decoder_of(config)  # --mode=compile
    config.rollout.max_tokens -= 1
    assert (
        build.load_policy(config, weights=False).config.max_position_embeddings == 639
    )
