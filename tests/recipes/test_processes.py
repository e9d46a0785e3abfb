"""Runs in several processes, killed and told to go: they end as one that nobody disturbed."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities import rank_zero_only
from safetensors.torch import load_file

from jepa.files import load_tensors_only
from jepa.metrics_log import read_metrics
from jepa.ranks import world_size
from jepa.recipes.cli import main
from jepa.training import Pretraining
from tests.forked import Forked, all_ended
from tests.recipes.small_run import STEPS, arguments, made_images

TWO = ["--hardware.devices=2", "--hardware.strategy=ddp"]
SHARDS = ["--hardware.devices=2", "--hardware.strategy=fsdp"]
PORTS = itertools.count(20_000 + os.getpid() % 10_000)


@pytest.fixture
def data(tmp_path):
    return made_images(tmp_path / "images")


def free_port():
    """Each time another one, and none that the system gives to connections: those of another run
    may take it before its own does."""
    for port in PORTS:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):  # nobody listens there
                return str(port)


def started(arguments):
    """The command, whose first process starts the second one, as Lightning does it."""
    return subprocess.Popen(
        [sys.executable, "-m", "jepa.recipes.cli", *arguments],
        env=os.environ | {"MASTER_PORT": free_port()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process):
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed


def one_rank(arguments):
    rank_zero_only.rank = int(os.environ["RANK"])  # as Lightning finds it when it is imported
    return main(arguments)


class Ranks:
    """The command on two ranks, as torchrun starts them."""

    def __init__(self, folder, arguments):
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "GROUP_RANK": "0"}
        told |= {"TORCHELASTIC_RUN_ID": "here", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        self.ranks = [
            Forked(folder / f"{rank}.txt", one_rank, arguments, **told, RANK=rank, LOCAL_RANK=rank)
            for rank in "01"
        ]

    def alive(self):
        return all(rank.is_alive() for rank in self.ranks)

    def killed(self):
        for rank in self.ranks:
            rank.kill()
        for rank in self.ranks:
            rank.join()

    def ended(self):
        all_ended(self.ranks)


def weights(out):
    return (out / "encoder.safetensors").read_bytes(), (out / "student.safetensors").read_bytes()


def same_weights(one, other):
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, atol=1e-5, rtol=0)


def test_two_processes_learn_what_one_does_from_the_same_batches(data, tmp_path):
    """Two of 8 images each, and one that accumulates the gradients of two times 8."""
    two = started([*arguments(tmp_path / "two", data), *TWO])
    assert main([*arguments(tmp_path / "one", data), "--accumulate=2"]) == 0
    ended(two)
    same_weights(tmp_path / "one", tmp_path / "two")


def test_weights_in_shards_learn_what_one_process_does(data, tmp_path):
    Ranks(tmp_path, [*arguments(tmp_path / "two", data), *SHARDS]).ended()
    assert main([*arguments(tmp_path / "one", data), "--accumulate=2"]) == 0
    same_weights(tmp_path / "one", tmp_path / "two")


def test_weights_in_shards_survive_a_kill_and_begin_a_next_stage(data, tmp_path):
    """With probes on the way, clipping and activations computed again; the stage after on one
    process too."""
    probes = ["--online.every_n_steps=5", "--online.bank=24", "--online.held_out=12"]
    options = ["--optimisation.gradient_clip=0.1", "--hardware.activation_checkpointing=true"]
    command = [*SHARDS, *options, *probes]
    Ranks(tmp_path, [*arguments(tmp_path / "whole", data), *command]).ended()
    resumed = [*arguments(tmp_path / "out", data), *command, "--resume"]
    two = Ranks(tmp_path, resumed)
    while not (tmp_path / "out" / "last.ckpt").exists():
        assert two.alive(), two.ended()
        time.sleep(0.01)
    two.killed()
    Ranks(tmp_path, resumed).ended()
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    for name in ("out", "whole"):
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        seen = {row["step"] for row in rows if "online/target/knn_top1" in row}
        assert seen == {0, 5, 10, STEPS}
        assert all(row["gradient_norm"] > 0 for row in rows if "loss" in row)
    stage = [*options, f"--stage_from={tmp_path / 'whole'}", "--optimisation.learning_rate=1e-4"]
    Ranks(tmp_path, [*arguments(tmp_path / "two", data), *SHARDS, *stage]).ended()
    assert main([*arguments(tmp_path / "one", data), *stage, "--accumulate=2"]) == 0
    same_weights(tmp_path / "one", tmp_path / "two")


def spoil(monkeypatch):
    """The second of all batches of step 5 gives NaN, whoever has it."""
    outcome = Pretraining.outcome

    def spoilt(self, batch):
        found = outcome(self, batch)
        part = self._micro_batch * world_size() + self.global_rank
        if (self.global_step, part) == (5, 1):
            found.losses["prediction"] = found.losses["prediction"] * torch.nan
        return found

    monkeypatch.setattr(Pretraining, "outcome", spoilt)


@pytest.mark.parametrize(
    ("strategy", "accumulate"),
    [
        ("ddp", 1),
        pytest.param("ddp", 2, marks=pytest.mark.slow),
        pytest.param("fsdp", 1, marks=pytest.mark.slow),
    ],
)
def test_all_ranks_pass_over_the_step_that_one_process_passes_over(
    data, tmp_path, monkeypatch, strategy, accumulate
):
    spoil(monkeypatch)
    two = [f"--accumulate={accumulate}", "--hardware.devices=2", f"--hardware.strategy={strategy}"]
    some = ["--optimisation.steps=8", "--optimisation.learning_rate=2e-4"]
    Ranks(tmp_path, [*arguments(tmp_path / "two", data), *two, *some]).ended()
    one = f"--accumulate={2 * accumulate}"
    assert main([*arguments(tmp_path / "one", data), one, *some]) == 0
    for name, kept in (("two", "step_5_rank_1"), ("one", "step_5_batch_1_rank_0")):
        (path,) = (tmp_path / name / "not_finite").iterdir()
        assert path.stem == kept
    same_weights(tmp_path / "one", tmp_path / "two")


def test_two_ranks_of_which_one_is_told_to_stop_end_the_same_step(data, tmp_path, monkeypatch):
    """While gradients accumulate, too: nothing is saved in the middle of a step."""

    def tell(self, batch, batch_idx):
        if self.global_rank == 1 and batch_idx == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    two = [*TWO, "--accumulate=3", "--optimisation.steps=5", "--optimisation.warmup_steps=1"]
    Ranks(tmp_path, [*arguments(tmp_path / "whole", data), *two]).ended()
    monkeypatch.setattr(Pretraining, "on_train_batch_start", tell)
    resumed = [*arguments(tmp_path / "out", data), *two, "--resume"]
    for rank in Ranks(tmp_path, resumed).ranks:
        rank.ended(128 + signal.SIGTERM)
    assert load_tensors_only(tmp_path / "out" / "last.ckpt")["global_step"] == 3
    Ranks(tmp_path, resumed).ended()
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_two_ranks_killed_at_random_moments_end_bit_identical(data, tmp_path):
    command, random = [*arguments(tmp_path / "out", data), *TWO], np.random.default_rng(1)
    began = time.monotonic()
    ended(started([*arguments(tmp_path / "whole", data), *TWO]))
    length, kills = time.monotonic() - began, 0
    while kills < 5:
        process = started([*command, "--resume", "--checkpoint_every=1"])
        time.sleep(random.uniform(0.3, 1.0) * length)
        if process.poll() is None:
            kills += 1
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    ended(started([*command, "--resume", "--checkpoint_every=1"]))
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def test_a_job_of_slurm_that_is_told_to_go_is_queued_again_and_goes_on(data, tmp_path):
    """With a stand-in for SLURM's scontrol, which writes down what it was asked."""
    asked, tools = tmp_path / "asked", tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (tools / "scontrol").chmod(0o755)
    slurm = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "4242",
        "SLURM_JOB_NAME": "jepa-pretrain",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "1",
        **dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0"),
        "SLURM_NODELIST": "localhost",
    }
    long = [*arguments(tmp_path / "out", data), "--resume", "--optimisation.steps=4000"]
    process = Forked(tmp_path / "printed", main, [*long, "--log_every=1"], **slurm)
    while not (tmp_path / "out" / "last.ckpt").exists():
        assert process.is_alive(), process.ended()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGUSR1)
    printed = process.ended(128 + signal.SIGUSR1)
    assert asked.read_text() == "requeue 4242\n"
    step = load_tensors_only(tmp_path / "out" / "last.ckpt")["global_step"]
    assert f"Stopped by SIGUSR1 and saved at step {step} of 4000" in printed
