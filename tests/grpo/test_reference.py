"""A reference that follows the policy: what it becomes, and when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reskill_jax.grpo.reference import make_refresh, moving_part
from reskill_jax.policy.lora import Adapted
from reskill_jax.policy.sharding import move


def tree(seed, dtype=jnp.float32):
    return {"w": jax.random.normal(jax.random.key(seed), (4, 3), dtype)}


def test_it_is_set_anew_at_every_nth_step_and_stays_otherwise():
    refresh, reference = make_refresh(3, 1.0, "device"), tree(0)
    kept = [refresh(step, reference, tree(1)) is reference for step in range(1, 7)]
    assert kept == [True, True, False, True, True, False]
    never = make_refresh(0, 1.0, "device")
    assert all(never(step, reference, tree(1)) is reference for step in range(9))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("mix", [1.0, 0.6, 0.25])
def test_it_becomes_the_mixture_in_its_own_dtype(dtype, mix):
    old, new = tree(0, dtype), tree(1)
    found = make_refresh(1, mix, "device")(1, old, new)["w"]
    exact = mix * np.asarray(new["w"]) + (1 - mix) * np.asarray(old["w"], np.float32)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float32), exact, rtol=2**-8)
    if mix == 1:
        np.testing.assert_array_equal(found, new["w"].astype(dtype))
    new["w"].delete()  # an update donates the policy's weights
    assert np.isfinite(np.asarray(found, np.float32)).all()


def test_one_that_waits_on_the_host_stays_there():
    waiting = move(tree(0), "pinned_host")
    found = make_refresh(1, 0.5, "pinned_host")(1, waiting, tree(1))
    assert found["w"].sharding.memory_kind == "pinned_host"
    on_device = make_refresh(1, 0.5, "device")(1, tree(0), tree(1))
    np.testing.assert_array_equal(found["w"], on_device["w"])


def test_of_adapters_the_base_stays():
    base = tree(2)
    old, new = Adapted(base, tree(0), 2.0), Adapted(base, tree(1), 2.0)
    found = make_refresh(1, 1.0, "device")(1, old, new)
    assert found.base is base
    assert found.scale == 2.0
    np.testing.assert_array_equal(found.adapters["w"], tree(1)["w"])
    assert moving_part(found) is found.adapters
