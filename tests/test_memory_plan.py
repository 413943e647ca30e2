"""Programs compiled ahead, for this machine and for TPUs where libtpu is installed."""

import dataclasses
import importlib.util
import json

import jax
import pytest
from programs import get_config

from reskill_jax import memory_plan as ahead
from reskill_jax.gpu_topology import CARDS, gpus
from reskill_jax.memory_plan import compile_run, model_flops
from reskill_jax.memory_report import MemoryPhase, Program, Report, render
from reskill_jax.policy.decoder import abstract_params
from reskill_jax.policy.decoder_config import DecoderConfig, to_hf
from reskill_jax.policy.ops.attention import attention, check_row_lengths
from reskill_jax.policy.presets import PRESETS, find_shape

DECODER = DecoderConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=128,
)
COUNT = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(DECODER)))
LIBTPU = importlib.util.find_spec("libtpu")
CUDA = importlib.util.find_spec("jax_cuda13_plugin")


@pytest.fixture
def config(tmp_path):
    config = get_config("")
    config.policy.path = str(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(to_hf(DECODER)))
    config.grpo.buckets = (128,)
    config.grpo.tokens_per_microbatch = 256
    return config


def test_tells_what_an_update_needs_of_this_machine(config):
    config.mesh.fsdp = 1
    report = compile_run(config)
    assert report.resident["parameters"] == 4 * COUNT
    assert 8 * COUNT <= report.resident["optimiser"] < 8 * COUNT + 100
    assert report.resident["reference"] == 2 * COUNT  # bfloat16
    rollout, update = report.phases
    assert rollout.arrays["engine's parameters"] == 2 * COUNT
    # 32 slots of 36 blocks of 128 tokens; 2 layers, 2 heads, keys and values
    kept = 32 * 36 * 128 * 2 * 2 * 128 * 2 * 2
    assert rollout.arrays["engine's keys and values"] == kept
    assert update.arrays == {"gradients": 4 * COUNT}
    assert [program.name for program in (*rollout.programs, *update.programs)] == [
        "prefill",
        "decode",
        "gradients of a micro-batch",
        "optimiser step",
        "reference",
    ]
    # The cache goes in and comes out where it was.
    for program in rollout.programs:
        assert program.arguments >= kept + 2 * COUNT
        assert program.new < COUNT
    # Parameters and gradients go in, and these come out where they were.
    first = update.programs[0]
    assert first.arguments >= 8 * COUNT
    assert first.new < COUNT
    assert report.peak >= sum(report.resident.values()) + update.peak
    assert report.limit is None
    text = render(report)
    assert "2 x 128 tokens" in text
    assert "peak of the rollout" in text


def test_with_overlap_rollout_and_update_need_memory_at_once(config):
    config.mesh.fsdp = 1
    apart = compile_run(config)
    config.rollout.overlap = 1
    together = compile_run(config)
    (phase,) = together.phases
    rollout, update = apart.phases
    assert phase.arrays == {**rollout.arrays, **update.arrays}
    assert together.resident == apart.resident
    held = sum(rollout.arrays.values()), sum(update.arrays.values())
    assert together.peak == max(
        sum(apart.resident.values()) + rollout.peak + held[1],
        sum(apart.resident.values()) + update.peak + held[0],
    )
    assert "peak of the rollout beside the update" in render(together)


@pytest.mark.slow
def test_programs_are_not_longer_for_deeper_models(config, tmp_path):
    config.mesh.fsdp = 1
    lines = []
    for layers in (2, 5):
        decoder = dataclasses.replace(DECODER, num_hidden_layers=layers)
        (tmp_path / "config.json").write_text(json.dumps(to_hf(decoder)))
        programs = [p for phase in compile_run(config).phases for p in phase.programs]
        lines.append({program.name: program.lines for program in programs})
    assert lines[0] == lines[1]
    assert min(lines[0].values()) > 50


@pytest.mark.slow
@pytest.mark.skipif(LIBTPU is None, reason="needs libtpu: pip install '.[tpu]'")
@pytest.mark.parametrize(
    ("topology", "devices", "tensor"), [("v6e:2x2", 4, 2), ("v6e:4x4", 16, 1)]
)
def test_compiles_for_tpus_that_are_not_here(config, topology, devices, tensor):
    config.mesh.topology = topology
    config.mesh.tensor = tensor
    report = compile_run(config)
    assert report.limit == 31.25 * 2**30
    # All matrices are split over all devices, norms are not.
    whole = 4 * COUNT / devices
    assert whole < report.resident["parameters"] < 1.05 * whole
    rollout, update = report.phases
    assert update.programs[0].collectives["all-gather"] > 0
    # The engine has the four devices of a host, and splits both heads over two.
    assert rollout.arrays["engine's parameters"] < 1.01 * COUNT
    # Neither program makes another cache beside the one that it updates.
    kept = rollout.arrays["engine's keys and values"]
    assert all(program.temporary < kept / 4 for program in rollout.programs)
    assert report.fits


@pytest.mark.slow
@pytest.mark.skipif(LIBTPU is None, reason="needs libtpu: pip install '.[tpu]'")
def test_advises_where_the_compiler_refuses_a_program(config):
    config.mesh.topology = "v6e:2x2"
    config.grpo.tokens_per_microbatch = 2**24
    report = compile_run(config)
    gradients = report.phases[1].programs[0]
    assert gradients.collectives is None
    assert gradients.temporary > report.limit - gradients.arguments
    assert not report.fits
    text = render(report)
    assert "gradients of a micro-batch: " in text
    assert "too large for a device, refused after" in text
    assert "Lower config.grpo.tokens_per_microbatch" in text


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (32.98G) exceeds available HBM (31.25G).",
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
        "memory space hbm. Used 32.98G of 31.25G hbm. Exceeded hbm capacity by 1.73G.",
    ],
)
def test_reads_what_compilers_say_a_program_needs(message):
    assert ahead._REFUSAL.search(message).groups() == ("32.98", "G")
    assert not ahead._REFUSAL.search(message.replace("RESOURCE_EXHAUSTED", "INTERNAL"))


@pytest.mark.skipif(LIBTPU is not None, reason="libtpu is installed")
def test_says_what_to_install_for_a_topology(config):
    for topology in ("v6e:2x2", "a100:8"):  # what is unknown may be a card
        config.mesh.topology = topology
        with pytest.raises(
            ValueError, match=rf"'{topology}' needs libtpu, .*known are h100, h200, as"
        ):
            compile_run(config)


@pytest.mark.slow
@pytest.mark.skipif(CUDA is None, reason="needs JAX's plugin: pip install '.[cuda]'")
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize(("topology", "devices"), [("h100:1", 1), ("h200:8", 8)])
def test_compiles_for_gpus_that_are_not_here(config, topology, devices, rank):
    config.mesh.topology = topology
    config.policy.lora.rank = rank
    report = compile_run(config)
    assert report.limit == CARDS[topology[:4]].memory
    name, size = ("frozen parameters", 2) if rank else ("parameters", 4)
    whole = size * COUNT / devices
    assert whole <= report.resident[name] < 1.05 * whole
    _, update = report.phases
    assert bool(update.programs[0].collectives) == (devices > 1)
    assert report.fits
    text = render(report)
    assert "workspace of cuDNN" in text
    assert f"on {devices} x {topology[:4].upper()}" in text


@pytest.mark.skipif(CUDA is None, reason="needs JAX's plugin: pip install '.[cuda]'")
def test_cudnn_is_told_that_masks_are_causal_and_have_no_gradient():
    device = gpus("h100:1")[0]
    place = jax.sharding.SingleDeviceSharding(device)

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    rows = array("bfloat16", 1, 256, 4, 64)
    ends = array("int32", 1, 256)

    def gradients(*arguments):
        def total(query, key, value, ends):
            out = attention(query, key, value, ends, backend="cudnn")
            return out.astype("float32").sum()

        return jax.grad(total, (0, 1, 2))(*arguments)

    text = jax.jit(gradients).lower(rows, rows, rows, ends).compile().as_text()
    calls = [line for line in text.splitlines() if "__cudnn$fmha" in line]
    assert len(calls) >= 2  # forward and backward
    assert all('"mask_type": "CAUSAL"' in line for line in calls)
    (backward,) = (line for line in calls if "Backward" in line)
    assert "256,256]" not in backward.partition(" custom-call(")[0]


@pytest.mark.skipif(CUDA is not None, reason="the plugin is installed")
def test_says_what_to_install_for_gpus(config):
    config.mesh.topology = "h100:8"
    with pytest.raises(ValueError, match=r"config.mesh.topology='h100:8' needs JAX's"):
        compile_run(config)


def test_a_topology_of_gpus_without_a_number_is_named(config):
    config.mesh.topology = "h100"
    with pytest.raises(ValueError, match=r"'h100': name a number .* h100:8"):
        compile_run(config)


def test_long_rows_by_xla_are_refused_on_gpus():
    check_row_lengths((1024, 4096), "xla", "gpu")
    check_row_lengths((16384,), "xla", "cpu")
    check_row_lengths((16384,), "cudnn", "gpu")
    with pytest.raises(ValueError, match=r"buckets=\(16384,\): .*attention='cudnn'"):
        check_row_lengths((16384,), "xla", "gpu")


def test_shipped_variants_need_no_model_to_be_named():
    default = ahead.decoder_of(get_config(""))
    published = PRESETS["Qwen3-4B-Instruct-2507"]
    assert default == dataclasses.replace(published, dtype="bfloat16")
    laboratory = ahead.decoder_of(get_config("cpu"))
    assert (laboratory.hidden_size, laboratory.dtype) == (160, "float32")


def test_a_random_policy_is_compiled_for_like_any_other(config, tmp_path, monkeypatch):
    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path))
    config.policy.path = "random:tiny"
    assert ahead.decoder_of(config).hidden_size == 32


def test_a_model_that_is_nowhere_is_named(config):
    config.policy.path = "Qwen9-1T"
    with pytest.raises(ValueError, match=r"policy.path='Qwen9-1T' .* Qwen3-8B"):
        compile_run(config)


def test_published_models_have_their_published_sizes():
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(abstract_params(shape)))
        for name, shape in PRESETS.items()
    }
    assert sizes["Qwen3-4B-Instruct-2507"] == 4_022_468_096
    assert sizes["Qwen3-8B"] == 8_190_735_360
    assert find_shape("Qwen3-8B") is PRESETS["Qwen3-8B"]


def test_flops_are_those_of_the_formula():
    attention = 64 * 128 * (4 + 2 + 2 + 4)
    matrices = 2 * (attention + 3 * 64 * 128) + 64 * 256
    pairs = 2 * 10 * 4 * 128  # layers, keys, channels
    assert model_flops(DECODER, 3, 10) == 6 * 30 * (matrices + pairs)


def report(resident, temporary, phase="update"):
    program = Program("program", 0, temporary, 0, {"all-gather": 3}, 9, 1.0)
    phases = [MemoryPhase("rollout", {}, []), MemoryPhase("update", {}, [])]
    phases = [
        dataclasses.replace(p, programs=[program])
        if p.name == phase
        else dataclasses.replace(
            p, programs=[dataclasses.replace(program, temporary=0)]
        )
        for p in phases
    ]
    return Report("title", {"parameters": resident}, phases, 100, 1e12)


def test_advises_when_it_does_not_fit():
    assert report(60, 40).fits
    assert "does not fit" not in render(report(60, 40))
    assert "over 3 times as many devices" in render(report(150, 40))
    assert "tokens_per_microbatch" in render(report(60, 110))
    assert "config.engine.max_sequences" in render(report(60, 50, "rollout"))


def colocated(config, share, trainer):
    config.mesh.fsdp = 1
    config.engine.name = "vllm"
    config.engine.vllm.update(
        {
            "colocate": True,
            "gpu_memory_utilization": share,
            "trainer_memory": trainer,
        }
    )
    return config


def test_servers_on_their_own_devices_take_nothing_of_the_trainers(config):
    config.mesh.fsdp = 1
    config.engine.name = "vllm"
    config.rollout.overlap = 1
    report = compile_run(config)
    assert [phase.name for phase in report.phases] == ["update"]
    assert report.server is None


def test_a_server_beside_the_trainer_has_its_share_of_a_device(config, monkeypatch):
    """Here a device of 1 GiB."""
    kind = jax.devices()[0].device_kind
    monkeypatch.setitem(ahead._MEMORY, kind, 1.0)
    fixed = compile_run(colocated(config, 0.5, 0.25))
    assert fixed.limit == 2**28
    assert [phase.name for phase in fixed.phases] == ["update"]
    server = fixed.server
    assert server.weights == 2 * COUNT
    assert server.weights + server.cache == 2**29
    assert server.per_token == 2 * 2 * 2 * 128 * 2  # layers, heads, bfloat16
    assert server.fits
    assert f"{server.tokens:,} tokens" in render(fixed)
    dynamic = compile_run(colocated(config, 0.5, 0.0))
    assert dynamic.limit == int(0.95 * 2**30)
    rollout, update = dynamic.phases
    assert rollout.peak == 2**29
    assert update.peak == fixed.phases[0].peak
    small = dataclasses.replace(fixed, server=dataclasses.replace(server, cache=-1))
    assert not small.fits
    assert "config.engine.vllm.gpu_memory_utilization" in render(small)
    tight = dataclasses.replace(fixed, limit=fixed.peak - 1)
    assert "raise config.engine.vllm.trainer_memory" in render(tight)


def test_collectives_are_counted_once_each():
    text = "x = f32[2] all-gather-start(y)\n z = f32[2] all-gather-done(x)\n"
    text += " w = f32[4] all-reduce(z), to_apply=add\n"
    assert list(ahead._collectives(text)) == ["all-gather", "all-reduce"]
