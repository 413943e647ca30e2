"""What the speed benchmark counts and compares."""

import jax
import numpy as np
import pytest

from reskill_jax.benchmarks import policy
from reskill_jax.policy.weights import load


def test_flops_are_those_of_the_matrix_products():
    """One layer by hand: D=8, F=16, 2 heads of 64 on 1, 10 tokens, vocabulary 32."""
    config = policy.decoder(32, 8, 16, 1, 2, 1)
    weights = 8 * 128 + 2 * 8 * 64 + 128 * 8 + 3 * 8 * 16 + 8 * 32
    attention = 2 * (2 * 64 * 10 * 10) / 2  # scores and values; half is masked
    assert policy.flops(config, 1, 10) == 3 * 2 * (10 * weights + attention)
    assert policy.flops(config, 5, 10) == 5 * policy.flops(config, 1, 10)


def test_the_shapes_have_the_parameters_that_their_names_say():
    for name, shape in policy.SHAPES.items():
        params = jax.eval_shape(
            lambda shape=shape: policy.init(policy.decoder(*shape), jax.random.key(0))
        )
        count = sum(x.size for x in jax.tree.leaves(params))
        assert count == pytest.approx(1e6 * float(name.split("M")[0]), rel=0.25)


def test_both_libraries_compute_the_same_loss_and_gradients(tmp_path):
    pytest.importorskip(
        "torch", reason="needs the extra parity: pip install '.[parity]'"
    )
    config = policy.decoder(64, 32, 48, 2, 2, 1)
    tokens = np.random.default_rng(0).integers(0, 64, (2, 24))
    model = policy.torch_model(config)
    model.save_pretrained(tmp_path)
    config, params = load(tmp_path)
    ours, grads = policy.jax_step(config, params, tokens)()
    theirs = policy.torch_step(model, tokens)()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    norm = model.model.norm.weight.grad.numpy()
    np.testing.assert_allclose(grads["norm"]["scale"], norm, atol=1e-6)
