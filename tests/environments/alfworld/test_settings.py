import pytest

from reskill_jax.environments.alfworld.settings import Settings


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
    ],
)
def test_what_cannot_be_built_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Settings(**values)


def test_houses_that_are_there_need_no_numbers():
    assert Settings(root="/games", houses="small").houses_train == 0
