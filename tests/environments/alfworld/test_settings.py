import pytest

from reskill_jax.environments.alfworld.environment import KINDS
from reskill_jax.environments.alfworld.settings import Settings, chosen_kinds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"houses": "huge"}, "houses='huge': choose one of '', 'small', 'medium'"),
        ({"houses_train": -1}, "houses_train=-1: must be 0 or more"),
        ({"houses_eval": -2}, "houses_eval=-2: must be 0 or more"),
        ({"houses_seed": -3}, "houses_seed=-3: must be 0 or more"),
        (
            {"houses": "small", "houses_train": 4},
            "houses='small' with houses_train=4 and houses_eval=0: set both",
        ),
        ({"kinds": "heat"}, "kinds='heat': 'heat' is none of pick_and_place_simple, "),
        ({"eval_kinds": "examine,"}, "eval_kinds='examine,': '' is none of "),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Settings(**values)


def test_houses_that_are_there_need_no_numbers():
    assert Settings(root="/games", houses="small").houses_train == 0


def test_kinds_are_named_one_by_one_or_by_the_papers_columns():
    assert chosen_kinds("") == set(KINDS)
    assert chosen_kinds("pick_and_place,examine,transform") == set(KINDS)
    transform = {kind for kind in KINDS if "_then_" in kind}
    assert chosen_kinds("transform") == transform
    assert chosen_kinds(",".join(sorted(transform))) == transform
    settings = Settings(kinds="examine", eval_kinds="transform")
    assert settings.kinds_of("train") == {"look_at_obj_in_light"}
    for split in ("dev", "valid_seen", "valid_unseen"):
        assert settings.kinds_of(split) == transform
