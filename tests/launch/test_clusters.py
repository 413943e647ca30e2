"""The launchers of clusters: what they print is what they run, with all flags."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    "tpu": {"TPU": "mine", "ZONE": "us-east5-b", "PROJECT": "p"},
    "slurm": {"ALFWORLD_DATA": "/shared/alf world", "PARTITION": "gpu"},
    "gke": {"IMAGE": "registry/me/reskill"},
}
TOOLS = {"gcloud", "git", "sbatch", "docker", "kubectl", "bash", "mkdir"}
# The worst that a flag may hold: blanks, quotes, a dollar sign.
OVERRIDES = ["--config.seed=1", "--config.eval.splits=('a b', \"c$HOME\")"]
CALL = """#!/bin/bash
if [ "$1 $2" = "rev-parse --short" ]; then echo 1234567; exit; fi
case "$*" in *tpu-vm\\ describe*) exit 1 ;; esac
{
    printf '%q ' "$(basename "$0")" "$@"
    case "$(basename "$0") $*" in
        sbatch* | "kubectl apply"*) printf ' <<END\\n%s\\nEND\\n' "$(cat)" ;;
        *) echo ;;
    esac
} >>"$LOG"
"""


def launch(tmp_path, name, *arguments, **settings):
    """Run a launcher where the tools of clusters write down their calls."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    for tool in TOOLS:
        (tools / tool).write_text(CALL)
        (tools / tool).chmod(0o755)
    return subprocess.run(
        ["/bin/bash", REPOSITORY / "launch" / f"{name}.sh", *arguments],
        env={
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LOG": str(tmp_path / "log"),
            **settings,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_printed_is_what_is_run(tmp_path, name):
    printed = launch(tmp_path, name, "--dry-run", *OVERRIDES, **SETTINGS[name])
    assert printed.returncode == 0, printed.stderr
    last = launch(tmp_path, name, *OVERRIDES, "--dry-run", **SETTINGS[name])
    assert last.stdout == printed.stdout
    assert not (tmp_path / "log").exists()
    done = launch(tmp_path, name, *OVERRIDES, **SETTINGS[name])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text() == printed.stdout


@pytest.mark.parametrize(
    ("name", "missing"), [("tpu", "ZONE"), ("slurm", "ALFWORLD_DATA"), ("gke", "IMAGE")]
)
def test_a_setting_that_is_missing_is_named(tmp_path, name, missing):
    done = launch(tmp_path, name, "--dry-run", **SETTINGS[name] | {missing: ""})
    assert done.returncode == 1
    assert f"error: {missing} is not set: see the top of" in done.stderr


def test_the_project_of_a_tpu_is_by_default_that_of_gcloud(tmp_path):
    settings = SETTINGS["tpu"]
    printed = launch(tmp_path, "tpu", "--dry-run", **settings)
    without = launch(tmp_path, "tpu", "--dry-run", **settings | {"PROJECT": ""})
    assert without.returncode == 0, without.stderr
    assert printed.stdout.count(" --project=p") == 3
    assert without.stdout == printed.stdout.replace(" --project=p", "")


def test_every_tpu_host_starts_the_program_with_all_flags(tmp_path):
    printed = launch(tmp_path, "tpu", "--dry-run", *OVERRIDES, **SETTINGS["tpu"])
    create, _, copy, start = printed.stdout.splitlines()
    assert "--accelerator-type=v6e-16" in create
    assert "--worker=all" in copy
    # bash reads the line, the host's shell the command in it.
    words = subprocess.run(
        ["/bin/bash", "-c", f"printf '%s\\0' {start}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    command = next(word for word in words if word.startswith("--command="))
    program = shlex.split(command.splitlines()[-1])
    assert program == [
        "./launch/process.sh",
        "alfworld,tpu",
        "--config=configs/alfworld.py",
        "--workdir=/shared/runs/alfworld",
        "--distributed",
        *OVERRIDES,
    ]


def test_the_slurm_job_starts_one_process_per_gpu(tmp_path):
    settings = SETTINGS["slurm"] | {"NODES": "2", "GPUS": "4"}
    printed = launch(tmp_path, "slurm", "--dry-run", *OVERRIDES, **settings).stdout
    job = printed.split("<<END\n")[1].removesuffix("\nEND\n")
    subprocess.run(["/bin/bash", "-n"], input=job, text=True, check=True)
    for line in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "partition=gpu"):
        assert f"#SBATCH --{line}\n" in job
    words = shlex.split(job.splitlines()[-1])
    assert words[:3] == ["srun", "--kill-on-bad-exit=1", "./launch/process.sh"]
    assert words[-2:] == OVERRIDES
    assert "export ALFWORLD_DATA=/shared/alf\\ world" in job


@pytest.mark.parametrize("colocate", [False, True])
def test_jax_takes_a_slurm_node_unless_servers_share_it(tmp_path, colocate):
    """Then the program gives both their shares."""
    words = (f"--config.engine.vllm.colocate={colocate}",)
    printed = launch(tmp_path, "slurm", "--dry-run", *words, **SETTINGS["slurm"]).stdout
    assert ("XLA_PYTHON_CLIENT_MEM_FRACTION=.92" in printed) != colocate


def test_with_vllm_a_slurm_node_has_one_process_and_servers_with_other_gpus(tmp_path):
    settings = SETTINGS["slurm"] | {"GPUS": "4", "CPUS": "6", "VLLM_GPUS": "1"}
    printed = launch(tmp_path, "slurm", "--dry-run", *OVERRIDES, **settings)
    assert printed.returncode == 0, printed.stderr
    job = printed.stdout.split("<<END\n")[1].removesuffix("\nEND\n")
    subprocess.run(["/bin/bash", "-n"], input=job, text=True, check=True)
    for line in ("ntasks-per-node=1", "gpus-per-node=4", "cpus-per-task=24"):
        assert f"#SBATCH --{line}\n" in job
    assert shlex.split(job.splitlines()[-1]) == [
        "srun",
        "--kill-on-bad-exit=1",
        "env",
        "CUDA_VISIBLE_DEVICES=0,1,2",
        "JAX_LOCAL_DEVICE_IDS=0,1,2",
        "./launch/process.sh",
        "alfworld,cuda,vllm",
        "--config=configs/alfworld.py",
        "--workdir=runs/alfworld",
        "--distributed",
        "--config.engine.name=vllm",
        "--config.engine.vllm.replicas=1",
        "--config.engine.vllm.devices=('3',)",
        *OVERRIDES,
    ]
    assert "set_up\\ alfworld\\,cuda\\,vllm" in printed.stdout
    assert not (tmp_path / "log").exists()
    done = launch(tmp_path, "slurm", *OVERRIDES, **settings)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text() == printed.stdout


@pytest.mark.parametrize("servers", ["4", "-1"])
def test_gpus_of_a_slurm_node_are_the_trainers_and_the_servers(tmp_path, servers):
    settings = SETTINGS["slurm"] | {"GPUS": "4", "VLLM_GPUS": servers}
    done = launch(tmp_path, "slurm", "--dry-run", **settings)
    assert done.returncode == 1
    assert f"error: VLLM_GPUS={servers} of GPUS=4: servers and trainer" in done.stderr


def test_the_gke_job_is_a_jobset_with_one_pod_per_host(tmp_path):
    printed = launch(tmp_path, "gke", "--dry-run", *OVERRIDES, **SETTINGS["gke"]).stdout
    text = printed.split("<<END\n")[1].removesuffix("\nEND\n")
    job = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    (container,) = pod["containers"]
    assert container["image"] == "registry/me/reskill:1234567"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["args"][-3:] == ["--distributed", *OVERRIDES]
    assert "docker build" in printed
