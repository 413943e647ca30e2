"""What environments answer is checked, wherever they play, and names its task."""

import asyncio
from types import MappingProxyType

import corridor
import numpy as np
import pytest
from faulty_modules import Faulty, RemoteFaulty
from scripted_engine import ScriptedEngine

from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.remote import RemoteError, RemotePlayers
from reskill_jax.environments.task import Task
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.rollout.collector import Collector, rollout_metrics
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.prompts import PromptBuilder

TOKENIZER = train_tokenizer(["<action>right</action> door 3 after 1"] * 3, 300)
FAULTS = {
    "reset none": "TypeError: reset returned None: needs the goal, a str, and an",
    "reset alone": "TypeError: reset returned Observation",
    "reset three": "TypeError: reset returned ('goal', Observation",
    "reset goal": "TypeError: reset returned (5, Observation",
    "reset text": "TypeError: text=5: needs a str",
    "reset actions": "TypeError: actions='left': needs a tuple, or None",
    "step none": "TypeError: step returned None: needs an Observation",
    "step text": "TypeError: step returned 'here': needs an Observation",
    "step nan": "ValueError: reward=nan: needs a finite number",
    "step inf": "ValueError: reward=inf: needs a finite number",
    "step huge": "ValueError: reward=1000",
    "step reward": "TypeError: reward='one': needs a number",
    "step done": "TypeError: done='yes': needs True or False",
    "step scores": "TypeError: scores=[1.0]: needs a dict of numbers",
    "step score": "ValueError: scores['f1']=inf: needs a finite number",
    "finish none": "TypeError: finish returned None: needs an Observation",
    "finish nan": "ValueError: reward=nan: needs a finite number",
}


@pytest.fixture(scope="module", params=["pool", "remote"])
def players(request):
    if request.param == "remote":
        yield RemotePlayers(RemoteFaulty, timeout_s=60.0)
        return
    with EnvironmentPool(Faulty, workers=1, timeout_s=60.0) as pool:
        yield pool


def play(players, faults):
    """Play a task for every fault, two turns each, all at once."""
    prompts = PromptBuilder(
        TOKENIZER, wording=corridor.WORDING, layout="tree", max_tokens=240, max_turns=2
    )
    engine = ScriptedEngine(TOKENIZER, ["<action>b</action>"])
    collector = Collector(engine, players, prompts, corridor.FORMAT, 2, 30)
    tasks = [Task(f"train/{fault}", "kind", "train", fault) for fault in faults]
    arms = np.zeros((len(tasks), 1), int)
    return asyncio.run(
        collector.collect(tasks, arms, [EmptyContext()], sampling=Sampling(), seed=1)
    )


def test_a_wrong_answer_loses_the_episode_and_names_its_task(players):
    episodes = play(players, FAULTS)
    for episode, (fault, message) in zip(episodes, FAULTS.items(), strict=True):
        what, _, _ = fault.partition(" ")
        assert episode.lost.startswith(what)
        assert f"of task train/{fault}" in episode.lost
        assert message in episode.lost
        assert not episode.turns
    (fine,) = play(players, ["no fault"])
    assert not fine.lost
    assert len(fine.turns) == 2


def test_a_remote_step_names_its_task():
    async def main():
        with RemotePlayers(RemoteFaulty, timeout_s=60.0).open("g") as environment:
            await environment.reset(Task("train/7", "kind", "train", "step none"))
            await environment.step("left")

    with pytest.raises(RemoteError, match=r"^step 'left' of task train/7 raised Ty"):
        asyncio.run(main())


def test_scores_do_not_take_the_names_of_what_a_run_measures():
    played = Episode(Task("t", "kind", "train", ""), 0, 0, 0, "", opening="words")
    own = {key.removeprefix("rollout/") for key in rollout_metrics([played], 1.0)}
    own |= {"void", "pass@2", "mean@4/kind", "logprob_diff", "success/kind"}
    measured = {name for name in own if not name.startswith(("time/", "speed/"))}
    assert {"success", "turns", "opening_cut"} <= measured
    for name in measured:
        with pytest.raises(ValueError, match="every run measures"):
            Observation("", scores={name: 1.0})
    assert Observation("", scores={"successes": 1.0}).scores == {"successes": 1.0}


def test_an_observation_converts_numpys_values_and_broken_text():
    seen = Observation(
        "half \ud83d", ["a", "b\ud83d"], reward=np.float32(0.5), success=np.True_,
        scores=MappingProxyType({"f1": np.int64(1), "em": True}),
    )  # fmt: skip
    assert seen == Observation(
        "half \ufffd", ("a", "b\ufffd"), reward=0.5, success=True,
        scores={"f1": 1.0, "em": 1.0},
    )  # fmt: skip
    kinds = [type(value) for value in (seen.reward, seen.success, seen.scores["f1"])]
    assert kinds == [float, bool, float]
