"""Episodes of worlds that are not lists of actions: free text, questions, ends."""

import asyncio
from functools import partial

import notebook
import numpy as np
import pytest
from scripted_engine import ScriptedEngine

from reskill_jax.environments.action_format import TaggedFormat
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.wording import Wording
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.rollout.collector import Collector, rollout_metrics
from reskill_jax.rollout.context import BankContext, EmptyContext
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.skill import Skill, SkillBank, Trigger

TOKENIZER = train_tokenizer(["<action>write a word</action> send erase"] * 3, 320)
TASK = notebook.task("Zoë SELECT")


@pytest.fixture(scope="module")
def free():
    with EnvironmentPool(notebook.Notebook, workers=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def hinting():
    make = partial(notebook.Notebook, notebook.HINT)
    with EnvironmentPool(make, workers=1) as pool:
        yield pool


def play(pool, says, *, context=None, max_turns=4, show_actions=True, tasks=(TASK,)):
    """Play one episode per task; return them and the prompts of the first one."""
    engine = ScriptedEngine(TOKENIZER, [f"<action>{text}</action>" for text in says])
    prompts = PromptBuilder(
        TOKENIZER,
        wording=Wording(role="You write.\n"),
        layout="tree",
        max_tokens=2000,
        max_turns=max_turns,
        show_actions=show_actions,
    )
    collector = Collector(
        engine, pool, prompts, TaggedFormat(), max_turns=max_turns, concurrency=8
    )
    episodes = asyncio.run(
        collector.collect(
            tasks,
            np.zeros((len(tasks), 1), int),
            [context or EmptyContext()],
            sampling=Sampling(),
            seed=1,
        )
    )
    assert sorted(engine.released) == [f"1/{k}/0" for k in range(len(tasks))]
    return episodes, engine.prompts["1/0/0"]


def test_free_text_reaches_the_world_letter_by_letter(free):
    [episode], prompts = play(free, ["write Zoë", "write  SELECT\n", "send"])
    assert episode.actions == ("write Zoë", "write SELECT", "send")
    assert episode.observations == ("empty", "wrote Zoë", "wrote SELECT", "sent")
    assert [turn.valid for turn in episode.turns] == [True] * 3
    assert [turn.reward for turn in episode.turns] == [0, 0, 1]
    assert (episode.reward, episode.success) == (1, True)
    assert episode.scores == {"share": 1, "pages": 2}
    assert not any("ctions:" in prompt for prompt in prompts)
    assert "Your turn 1 of at most 4." in prompts[0]


def test_half_an_emoji_in_what_a_world_says_ends_no_run(free):
    observation = Observation("\ud83d", ("go \udc00", "look"), hint="\ud83d")
    assert (observation.text, observation.hint) == ("\ufffd", "\ufffd")
    assert observation.actions == ("go \ufffd", "look")
    [episode], _ = play(free, ["send"], tasks=[notebook.task("\ud83d SELECT")])
    assert episode.goal == "note: \ufffd SELECT"


def test_without_a_list_a_turn_is_valid_when_it_was_understood(free):
    [episode], _ = play(free, ["dance", "write a", "", "send"])
    assert [turn.valid for turn in episode.turns] == [False, True, False, True]
    assert episode.observations[1] == "?"


def test_a_hint_stands_where_actions_would(free, hinting):
    [episode], prompts = play(hinting, ["write Zoë", "erase", "0", "send"])
    assert [prompt.count(notebook.HINT) for prompt in prompts] == [1, 1, 0, 1]
    # The answers to the question are a list, and shown as one.
    listed = [prompt.count("Possible actions: 0\n") for prompt in prompts]
    assert listed == [0, 0, 1, 0]
    trunk = TOKENIZER.decode(episode.trunks[-1].tolist())
    assert notebook.HINT not in trunk
    _, without = play(free, ["write Zoë", "send"])
    assert not any(notebook.HINT in prompt for prompt in without)
    _, hidden = play(hinting, ["write Zoë", "send"], show_actions=False)
    assert not any(notebook.HINT in prompt for prompt in hidden)


@pytest.mark.parametrize(
    ("says", "reward", "success"),
    [
        (["write Zoë", "write SELECT"], 1.0, True),
        (["write Zoë", "write select"], 0.5, False),
        (["dance"], 0.0, False),
    ],
)
def test_the_turn_limit_is_an_end_that_pays(free, says, reward, success):
    [episode], _ = play(free, says, max_turns=2)
    assert len(episode.turns) == 2
    assert [turn.reward for turn in episode.turns] == [0, reward]
    assert (episode.reward, episode.success) == (reward, success)
    assert episode.scores["share"] == reward
    # What the end says is shown to nobody.
    assert episode.final_observation != "nobody sees this"
    assert "nobody" not in TOKENIZER.decode(episode.trunks[-1].tolist())
    metrics = rollout_metrics([episode], 1.0)
    assert metrics["rollout/share"] == reward
    assert metrics["rollout/success"] == success


def test_an_episode_that_has_ended_is_not_finished_again(free):
    """The notebook refuses to be scored twice."""
    [episode], _ = play(free, ["write Zoë", "send"], max_turns=2)
    assert (episode.reward, len(episode.turns)) == (0.5, 2)


def test_scores_are_means_over_episodes(free):
    tasks = [notebook.task(words) for words in ("Zoë", "Zoë b", "b c")]
    episodes, _ = play(free, ["write Zoë", "send"], tasks=tasks)
    assert [e.reward for e in episodes] == [1, 0.5, 0]
    metrics = rollout_metrics(episodes, 1.0)
    assert metrics["rollout/share"] == 0.5
    assert metrics["rollout/pages"] == 1


def test_an_answer_to_a_question_is_no_action_that_skills_follow(free):
    bank = SkillBank(
        (
            Skill("first", "d", "At first.", "Write.", Trigger("beginning")),
            Skill("mind", "d", "You erase.", "M.", Trigger("action_pattern", "^erase")),
            Skill("digit", "d", "A digit.", "D.", Trigger("action_pattern", "^0")),
        )
    )
    says = ["write a", "erase", "0", "0", "send"]
    [episode], prompts = play(free, says, context=BankContext(bank), max_turns=5)
    assert [turn.active_skills for turn in episode.turns] == [
        ("first",),
        (),
        ("mind",),  # while it asks
        ("mind",),  # "0" answered the question
        ("digit",),  # this one answered nothing
    ]
    assert [turn.valid for turn in episode.turns] == [True, True, True, False, True]
    assert "You erase." in prompts[3]
    assert "You erase." not in prompts[4]


def test_a_template_that_begins_the_thoughts_makes_drafts_of_what_comes_first(
    free, monkeypatch
):
    """A response cut within them has no action, and none of its drafts is played."""
    monkeypatch.setattr(TOKENIZER, "opened", "<think>")
    says = ["write Zoë</action> no.</think><action>write SELECT", "write Zoë"]
    (episode,), _ = play(free, says, max_turns=2)
    assert episode.actions == ("write SELECT", "")
    assert [turn.valid for turn in episode.turns] == [True, False]
    assert episode.turns[1].text == "<action>write Zoë</action>"
