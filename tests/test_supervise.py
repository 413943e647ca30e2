"""Supervised training on recorded episodes, from the command line to the export."""

import importlib.util
import json
import shutil
import sys

import pytest
from corridor_runs import corridor_config
from programs import save_random_policy, start

from reskill_jax.environments.wording import Wording
from reskill_jax.grpo.supervised import fit
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.demonstration import (
    as_episode,
    only_successes,
    only_taught,
    read_demonstrations,
)
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.storage import other_holder
from reskill_jax.supervise import supervise

OPEN = Skill("open-it", "d", "It is closed.", "Open it.")
LINE = {
    "task": "t1",
    "goal": "put a mug in the sink",
    "success": True,
    "actions": ["open desk 1", "go to sink 1"],
    "observations": ["a closed desk", "a mug", "a sink"],
    "responses": ["<action>open desk 1</action>", None],
    "active_skills": [["open-it"], []],
}


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def imitate(config, episodes, policy, output, **changes):
    """Train for a step on one episode, with another one held out."""
    options = {"steps": 1, "batch": 1, "learning_rate": 1e-3, "held_out": 1} | changes
    return supervise(
        config,
        episodes,
        policy=str(policy),
        output=output,
        bank=SkillBank(),
        **options,
    )


def prompts_with(tokenizer):
    return PromptBuilder(
        tokenizer,
        wording=Wording(role="R\n"),
        layout="tree",
        max_tokens=600,
        max_turns=9,
    )


def test_an_episode_is_rendered_as_a_rollout_would_have_recorded_it(policy, tmp_path):
    tokenizer = Tokenizer.load(policy)
    prompts = prompts_with(tokenizer)
    line = LINE | {"choices": [["open desk 1", "look"], None], "opening": "a memory"}
    (read,) = read_demonstrations(write(tmp_path / "a.jsonl", line), SkillBank((OPEN,)))
    episode = as_episode(prompts, read)
    (turn,) = episode.turns  # the second one is only read
    prompt = tokenizer.decode([*episode.trunks[0][: turn.trunk_length], *turn.branch])
    for text in ("R\n", "put a mug", "a closed desk", "a memory", "look", "Open it."):
        assert text in prompt
    assert tokenizer.decode(turn.response) == "<action>open desk 1</action>"
    assert turn.response[-1] == tokenizer.eos_id
    assert "go to sink 1" in tokenizer.decode(episode.trunks[0])
    assert "a sink" in tokenizer.decode(episode.trunks[0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"responses": ["a"]}, "responses has 1 entries for 2 actions"),
        ({"responses": None}, "episode.responses: Expected `array`, got `null`"),
        ({"observations": ["a"]}, "observations has 1 entries for 2 actions"),
        ({"actions": "look"}, "episode.actions: Expected `array`, got `str`"),
        ({"active_skills": [["fly"], []]}, "active_skills names 'fly'"),
        ({"active_skills": [[7], []]}, "episode.active_skills[0][0]: Expected `str`"),
        ({"choices": [["a"]]}, "episode.choices has 1 entries for 2 actions"),
        ({"hints": ["a", 5]}, "episode.hints[1]: Expected `str | null`, got `int`"),
        ({"goal": 5}, "episode.goal: Expected `str | null`, got `int`"),
        ({"actions": [], "responses": []}, "at least one"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, damage, message):
    path = write(tmp_path / "a.jsonl", LINE, LINE | damage)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: ") as error:
        read_demonstrations(path, SkillBank((OPEN,)))
    assert message in str(error.value)


def test_a_run_that_was_cut_and_lost_is_read_as_it_was(policy, tmp_path):
    lost = {"actions": [], "observations": [], "responses": [], "lost": "no service"}
    line = LINE | {"stopped": [False, True]}
    path = write(tmp_path / "a.jsonl", line, LINE | lost | {"active_skills": []})
    (read,) = read_demonstrations(path, SkillBank((OPEN,)))
    tokenizer = Tokenizer.load(policy)
    prompts = prompts_with(tokenizer)
    (turn,) = as_episode(prompts, read).turns
    assert tokenizer.decode(turn.response) == "<action>open desk 1</action>"
    assert turn.response[-1] != tokenizer.eos_id  # it was cut: no end is taught


def test_skills_of_another_bank_are_told(tmp_path, caplog):
    bank = SkillBank((OPEN,))
    for of, told in ((bank.hash, False), ("0123", True)):
        caplog.clear()
        read_demonstrations(write(tmp_path / f"{of}.jsonl", LINE | {"bank": of}), bank)
        assert ("1 episodes were shown another bank" in caplog.text) == told


def test_what_is_optional_may_be_null_and_half_an_emoji_is_text(tmp_path):
    optional = ("kind", "split", "goal", "opening", "choices", "hints", "active_skills")
    line = LINE | dict.fromkeys(optional) | {"actions": ["go \ud83d", "look"]}
    (read,) = read_demonstrations(write(tmp_path / "a.jsonl", line), SkillBank())
    assert read.goal == ""
    assert not read.shows_skills
    assert read.turns[0].action == "go \ufffd"


def test_failures_can_be_told_and_nothing_is_an_error(tmp_path):
    path = write(tmp_path / "a.jsonl", LINE, LINE | {"success": False})
    read = read_demonstrations(path, SkillBank((OPEN,)))
    assert [d.success for d in read] == [True, False]
    assert only_successes(read) == read[:1]
    with pytest.raises(ValueError, match="holds no episodes"):
        read_demonstrations(write(tmp_path / "b.jsonl"), SkillBank())


def test_episodes_that_are_only_read_are_left_out(policy, tmp_path):
    line = LINE | {"active_skills": None}
    silent = line | {"responses": [None, None]}
    cut = line | {"responses": ["", None], "stopped": [False, None]}
    ended = line | {"responses": ["", None]}
    path = write(tmp_path / "a.jsonl", silent, line, cut, ended)
    read = read_demonstrations(path, SkillBank())
    assert only_taught(read) == [read[1], read[3]]
    path = write(tmp_path / "b.jsonl", silent, silent)
    config = corridor_config(policy, prompt__actions=False)
    with pytest.raises(ValueError, match="has 0 episodes to imitate"):
        imitate(config, path, policy, tmp_path / "b", held_out=0)


def test_a_response_beyond_the_positions_of_the_policy_is_refused(policy, tmp_path):
    config = corridor_config(policy, prompt__actions=False)
    long = LINE | {"task": "t9", "responses": ["0 1 2 3 4 " * 80, None]}
    lines = [line | {"active_skills": None} for line in (LINE, LINE, long)]
    path = write(tmp_path / "a.jsonl", *lines)
    with pytest.raises(ValueError, match=r"^task 't9': a response of \d+ tokens after"):
        imitate(config, path, policy, tmp_path / "b")


def test_responses_that_stay_within_thoughts_are_refused(policy, tmp_path):
    """A run would find no action in what such a policy has learnt to say."""
    thinker = tmp_path / "thinker"
    shutil.copytree(policy, thinker)
    path = thinker / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    begun = settings["chat_template"].replace("assistant\n'", "assistant\n<think>\n'")
    path.write_text(json.dumps(settings | {"chat_template": begun}))
    assert Tokenizer.load(thinker).opened == "<think>"
    config = corridor_config(thinker, prompt__actions=False)
    line = LINE | {"active_skills": None}
    path = write(tmp_path / "a.jsonl", line, line)
    with pytest.raises(ValueError, match="'<think>', and no response of the episodes"):
        imitate(config, path, thinker, tmp_path / "b")
    thoughtful = line | {
        "responses": ["A desk.</think><action>open desk 1</action>", None]
    }
    path = write(tmp_path / "b.jsonl", line, thoughtful)
    imitate(config, path, thinker, tmp_path / "b")


def test_values_that_no_key_has_are_refused_before_any_work(policy, tmp_path):
    config = corridor_config(policy, policy__dtype="float33")
    config.policy.lora.targets = ("q_prj",)
    path = tmp_path / "not-there.jsonl"
    with pytest.raises(ValueError, match="the configuration cannot run") as error:
        imitate(config, path, tmp_path / "nowhere", tmp_path / "b", held_out=0)
    assert "config.policy.dtype='float33'" in str(error.value)
    assert "config.policy.lora.targets=('q_prj',)" in str(error.value)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (None, "error: flag --config=None"),
        ("--config.policy.lora.rnk=4", "did you mean config.policy.lora.rank?"),
        ("--held_out=-4", "held_out"),
        ("--learning_rate=-0.1", "learning_rate"),
    ],
)
def test_what_is_wrong_with_its_flags_is_said_in_a_line(flag, message):
    given = [f"--{name}=x" for name in ("episodes", "policy", "output")]
    if flag:
        given += ["--config=configs/alfworld.py:smoke", flag]
    done = start(sys.executable, "-m", "reskill_jax.supervise", *given)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_two_processes_cannot_make_one_output(policy, tmp_path):
    path = write(tmp_path / "a.jsonl", *[LINE | {"active_skills": None}] * 3)
    (tmp_path / "out.partial").mkdir()
    with (tmp_path / "out.partial" / "lock").open("a+") as file:
        assert not other_holder(file)
        config = corridor_config(policy, prompt__actions=False)
        with pytest.raises(BlockingIOError, match=r"/out' is being made by process \d"):
            imitate(config, path, policy, tmp_path / "out")


@pytest.mark.slow
def test_training_goes_on_where_it_was_killed(policy, tmp_path, monkeypatch):
    """With adapters: the same weights bit for bit, and no state is left behind."""
    config = corridor_config(policy, prompt__actions=False, policy__lora__rank=2)
    line = LINE | {"active_skills": None}
    path = write(tmp_path / "a.jsonl", *[line] * 5)

    def train(output, rate=1e-2):
        sizes = {"steps": 4, "batch": 2, "learning_rate": rate}
        return imitate(config, path, policy, output, **sizes)

    straight = train(tmp_path / "straight")
    taken = []

    def killed(update, state, steps, batches, after_step):
        def watched(state, now):
            if len(taken) == 3:
                raise KeyboardInterrupt
            taken.append(int(state.step))
            return update(state, now)

        return fit(watched, state, steps, batches, after_step)

    monkeypatch.setattr("reskill_jax.supervise._SAVE_S", 0.0)
    monkeypatch.setattr("reskill_jax.supervise.fit", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(KeyboardInterrupt):  # other training begins anew
        train(tmp_path / "out", rate=1e-3)
    assert taken == [0, 1, 2]
    taken.clear()
    assert train(tmp_path / "out") == straight
    assert taken == [3]
    one, other = (tmp_path / name / "model.safetensors" for name in ("straight", "out"))
    assert one.read_bytes() == other.read_bytes()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
def test_the_command_lowers_the_loss_and_its_policy_can_be_trained_on(policy, tmp_path):
    line = LINE | {"active_skills": None}
    path = write(tmp_path / "a.jsonl", *[line] * 12)
    output = tmp_path / "imitated"
    command = [
        sys.executable,
        "-m",
        "reskill_jax.supervise",
        "--config=configs/alfworld.py:smoke",
        f"--episodes={path}",
        f"--policy={policy}",
        f"--output={output}",
        "--steps=12",
        "--batch=4",
        "--held_out=2",
        "--learning_rate=1e-2",
    ]
    done = start(*command)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    before, after = (float(words[words.index("->") + k]) for k in (-1, 1))
    assert after < 0.7 * before
    assert sorted(p.name for p in output.iterdir()) >= ["config.json"]
    assert Tokenizer.load(output).vocab_size == Tokenizer.load(policy).vocab_size
    again = start(*command)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    listed = start(*command, "--output=x", "--config.prompt.actions=True")
    assert "no episode says which actions were possible" in listed.stderr
