import json

from reskill_jax.codec import encode
from reskill_jax.creator.proposal import PastTrial
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.laboratory.known_proposals import addition
from reskill_jax.report.show import _trials
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.skill import SkillBank
from reskill_jax.workdir import Workdir


def test_trials_are_shown_as_far_as_they_measured_anything(tmp_path):
    banks = (SkillBank(), SkillBank((HELPFUL[0].skill(),)))
    found = (
        Contrast(0.123, 0.04, 0.9, exposed_effect=0.2, exposed_standard_error=0.05),
        Contrast(-0.05, 0.04, 0.1),  # no changed skill could have fired
        Contrast(0.0, None, 0.5),  # no group had both arms
        None,
    )
    lines = [
        PastTrial.judged(step, addition(HELPFUL[0]), banks, step == 0, contrast)
        for step, contrast in enumerate(found)
    ]
    text = "".join(json.dumps(encode(past)) + "\n" for past in lines)
    (tmp_path / "trials.jsonl").write_text(text)
    head, *shown = _trials(Workdir(tmp_path))
    assert head == "Trials decided: 4, accepted: 1"
    words = [" ".join(line.split()[2:-2]) for line in shown]
    assert words == [
        "accepted +12.3% ±4.0% exposed +20.0% ±5.0%",
        "rejected -5.0% ±4.0% exposed -",
        "rejected - exposed -",
        "rejected untested",
    ]
    assert len({line.index("add ") for line in shown}) == 1
