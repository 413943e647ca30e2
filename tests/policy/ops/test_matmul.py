"""Products of tokens with weights, and their gradients, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from reskill_jax.policy.ops.matmul import dot_general, multiply


@pytest.mark.parametrize(
    ("inner", "outer"),
    [((3,), (5,)), ((5,), (3,)), ((4,), (4,)), ((2, 3), (4,)), ((4,), (2, 3))],
)
def test_values_and_gradients_are_those_of_the_product(inner, outer):
    rng = np.random.default_rng(0)
    x, kernel, d_out = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((7, *inner), (*inner, *outer), (7, *outer))
    )
    out, pull = jax.jit(lambda x, kernel: jax.vjp(multiply, x, kernel))(x, kernel)
    d_x, d_kernel = jax.jit(lambda pull, d_out: pull(d_out))(pull, d_out)
    flat_x, flat_kernel, flat_d_out = (
        x.reshape(7, -1),
        kernel.reshape(np.prod(inner), -1),
        d_out.reshape(7, -1),
    )
    for found, expected in (
        (out, flat_x @ flat_kernel),
        (d_x, flat_d_out @ flat_kernel.T),
        (d_kernel, flat_x.T @ flat_d_out),
    ):
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)
    assert (out.shape, d_x.shape, d_kernel.shape) == (
        d_out.shape,
        x.shape,
        kernel.shape,
    )


def test_types_are_those_of_the_operands_or_as_asked():
    x, kernel = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
    assert multiply(x, kernel).dtype == jnp.bfloat16
    out, pull = jax.vjp(lambda *both: multiply(*both, jnp.float32), x, kernel)
    assert out.dtype == jnp.float32
    assert {d.dtype for d in pull(out)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(("inner", "axis"), [((3,), -1), ((2, 3), (-2, -1))])
def test_linear_layers_of_flax_multiply_so(inner, axis):
    x = np.random.default_rng(0).normal(size=(5, *inner))
    layers = [
        nnx.LinearGeneral(inner, 4, axis=axis, rngs=nnx.Rngs(0), dot_general=product)
        for product in (dot_general, None)
    ]
    np.testing.assert_allclose(*(layer(x) for layer in layers), rtol=1e-6)


def test_other_products_are_refused():
    x, kernel = jnp.ones((2, 3)), jnp.ones((2, 3))
    with pytest.raises(ValueError, match="not a product of tokens"):
        dot_general(x, kernel, (((0,), (0,)), ((), ())))
    with pytest.raises(ValueError, match="precision"):
        dot_general(x, kernel.T, (((1,), (0,)), ((), ())), precision="highest")
