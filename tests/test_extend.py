"""What docs/extend.md shows is run as it stands there, block by block."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest
from programs import CPU, ROOT, deterministic, get_config, save_random_policy

from reskill_jax import build_strategy
from reskill_jax.report.metrics import read_metrics
from reskill_jax.skills.rule import RuleTable
from reskill_jax.validate import validate
from reskill_jax.workdir import Workdir

PAGE = (ROOT / "docs" / "extend.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def commands():
    """The page's commands as lists of words, by mode and by the name of the run."""
    found = {}
    for line in "".join(blocks("sh")).replace("\\\n", " ").splitlines():
        if line.startswith("python "):
            mode = re.search(r"--mode=(\w+)|$", line)[1] or "train"
            name = re.search(r"--workdir=runs/(\w+)", line)[1]
            found[mode, name] = shlex.split(line)[1:]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a reader of the page has it."""
    folder = tmp_path_factory.mktemp("place")
    for block in blocks("python"):
        path = folder / re.match(r"# (my_lab/\w+\.py)\n", block)[1]
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)
    return folder


@pytest.fixture
def importable(place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """The flag for the page's policy, or a directory where its name is unknown."""
    config = get_config()
    config.policy.path = "random:tiny"
    try:
        validate(config)
    except ValueError:
        config.policy.path = str(save_random_policy(tmp_path_factory.mktemp("policy")))
    return f"--config.policy.path={config.policy.path}"


def start(place, name, *flags, mode="train", **environment):
    """Start a command of the page, with these flags after its own."""
    ours = CPU | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *commands()[mode, name], *flags],
        cwd=place,
        env=os.environ | ours | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes):
    """Wait for the end of processes; return what the first one printed."""
    outputs = [process.communicate() for process in processes]
    codes = [process.returncode for process in processes]
    assert not any(codes), "\n".join(errors for _, errors in outputs)
    return outputs[0][0]


def run(place, name, *flags, mode="train"):
    return finish(start(place, name, *flags, mode=mode))


def played(workdir, step):
    path = Workdir(workdir).episodes / f"train-{step:05d}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained(workdir):
    return [line for line in deterministic(workdir) if line["phase"] == "train"]


@pytest.fixture(scope="module")
def recall(place, policy):
    run(place, "recall", policy)
    return place / "runs" / "recall"


def assert_recalls(workdir):
    """Every step's episodes ran on what those before had solved."""
    from my_lab.recall import Recall

    context = Recall()
    for step in (1, 2, 3):
        episodes = played(workdir, step)
        assert {episode["bank"] for episode in episodes} == {context.hash}
        won = {e["goal"]: " | ".join(e["actions"]) for e in episodes if e["success"]}
        context = Recall(tuple((dict(context.solved) | won).items()))
    assert trained(workdir)[-1]["recall/solved"] == len(context.solved)


def test_every_block_is_a_file_and_every_example_has_a_command(place):
    files = {path.stem for path in (place / "my_lab").iterdir()}
    assert files == {"config", "letters", "recall", "words", "command"}
    assert {n for mode, n in commands() if mode == "train"} == files - {"config"}


@pytest.mark.slow
def test_the_environment_trains_and_scores_at_the_turn_limit(place, policy):
    output = run(place, "letters", policy)
    workdir = place / "runs" / "letters"
    assert "evaluation after 3 steps: held_out" in output
    assert "step 3 of 3" in run(place, "letters", mode="show")
    assert [line["step"] for line in trained(workdir)] == [1, 2, 3]
    last = read_metrics(Workdir(workdir).metrics)[-1]
    assert last["held_out/success"] == last["held_out/success/3-letters"]
    episodes = [episode for step in (1, 2, 3) for episode in played(workdir, step)]
    assert len(episodes) == 3 * 4 * 4
    for episode in episodes:
        wanted = set(episode["task"].partition("/")[2])
        found = wanted & set("".join(episode["actions"]).lower())
        assert episode["success"] == (found == wanted)
        assert episode["scores"] == {"found": pytest.approx(len(found) / 3)}
        worth = 1 if episode["success"] else len(found) / 3 / 2
        assert episode["reward"] == pytest.approx(worth)


def test_the_strategy_shows_the_most_similar_goal_that_was_reached(importable):
    from my_lab.recall import Recall

    context = Recall((("Use the letters a b c.", "cab"), ("Use the letters x y.", "")))
    assert Recall.from_json(json.loads(json.dumps(context.to_json())), {}) == context
    guide = asyncio.run(context.begin(None, "Use the letters b c d.", None))
    assert guide.opening == "Solved before: Use the letters a b c.\nWith: cab"
    assert asyncio.run(Recall().begin(None, "Use the letter a.", None)).opening == ""


def test_the_strategy_remembers_and_can_be_evaluated(place, recall, importable):
    assert_recalls(recall)
    last = read_metrics(Workdir(recall).metrics)[-1]["held_out/success"]
    output = run(place, "recall", mode="evaluate")
    assert f"evaluation after 3 steps: held_out {last:.1%}" in output


@pytest.mark.slow
def test_the_strategy_goes_on_after_kill_9_as_if_nothing_had_been(
    place, policy, recall, tmp_path
):
    workdir = tmp_path / "killed"
    process = start(place, "recall", policy, f"--workdir={workdir}")
    deadline = time.monotonic() + 300
    while not (Workdir(workdir).episodes / "train-00002.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (Workdir(workdir).episodes / "train-00003.jsonl").exists()
    run(place, "recall", policy, f"--workdir={workdir}")
    assert deterministic(workdir) == deterministic(recall)
    assert [played(workdir, step) for step in (1, 2, 3)] == [
        played(recall, step) for step in (1, 2, 3)
    ]


@pytest.mark.slow
def test_the_strategy_runs_in_two_processes(place, policy, importable, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (
        f"--workdir={tmp_path / 'two'}",
        "--config.mesh.fsdp=2",
        f"--coordinator=127.0.0.1:{port}",
        "--processes=2",
    )
    finish(
        *(
            start(place, "recall", policy, *flags, f"--process={i}", XLA_FLAGS="")
            for i in range(2)
        )
    )
    assert_recalls(tmp_path / "two")


def test_proposals_of_the_creator_are_tried_and_judged(place, policy):
    output = run(place, "words", policy)
    workdir = place / "runs" / "words"
    won = [e for e in played(workdir, 1) if e["success"]]
    (trial, *_) = map(json.loads, Workdir(workdir).trials.read_text().splitlines())
    (operation,) = trial["proposal"]["operations"]
    word = operation["skill"]["name"].removeprefix("write-")
    assert any(word in " ".join(e["actions"]).lower() for e in won)
    assert f"step 1: on trial add write-{word}" in output
    assert {e["arm"] for e in played(workdir, 2)} == {0, 1}
    shown = {tuple(e["active_skills"][0]) for e in played(workdir, 2)}
    assert shown == {(), (f"write-{word}",)}


# The answer to each stage, known by a field of the schema at the prompt's end.
ANSWERS = {
    "failure_mode": {"insight": "Vowels are missing.", "failure_mode": "no vowels"},
    "summary": {"summary": "Vowels are missing.", "clusters": []},
    "intent": {
        "operations": [{"op": "add", "target": "vowels", "intent": "write vowels"}]
    },
    "when_to_use": {
        "operations": [
            {
                "op": "add",
                "name": "vowels",
                "description": "Vowels.",
                "when_to_use": "Letters are missing.",
                "action": "Write vowels.",
                "trigger": "general",
            }
        ]
    },
}
MODEL = f"""
import json, sys
schema = sys.stdin.read().rstrip().splitlines()[-1]
answers = {ANSWERS!r}
print(json.dumps(next(v for k, v in answers.items() if f'"{{k}}"' in schema)))
"""


@pytest.mark.slow
def test_a_command_can_be_the_creators_language_model(place, policy, tmp_path):
    pytest.importorskip("pydantic", reason="needs the extra llm: pip install '.[llm]'")
    (tmp_path / "model.py").write_text(MODEL)
    model = f"--config.creator.llm.name={sys.executable} {tmp_path / 'model.py'}"
    output = run(place, "command", policy, model)
    workdir = Workdir(place / "runs" / "command")
    assert "step 2: on trial add vowels" in output  # asked at step 1, one step later
    calls = [
        json.loads(line) for line in workdir.creator_calls.read_text().splitlines()
    ]
    assert {c["stage"] for c in calls} == {"analysis", "diagnosis", "advice", "drafts"}
    assert not any("error" in call for call in calls)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_lab.nothing", r"name='my_lab\.nothing'"),
        ("my_lab.letters", r"name='my_lab\.letters'.* has no '?make"),
    ],
)
def test_a_module_that_is_no_creator_is_refused(importable, tmp_path, name, message):
    config = get_config()
    config.creator.name = name
    with pytest.raises(ValueError, match=message):
        build_strategy.make_creator(config, RuleTable(), tmp_path / "calls.jsonl", ())
