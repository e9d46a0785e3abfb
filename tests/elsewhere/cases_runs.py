"""Whole runs of the commands on a device that is not the processor."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from alike import HERE, THERE, images
from pytorch_lightning import Callback

from jepa.checkpoint import save_encoder
from jepa.frozen import FrozenEncoder
from jepa.planning.agent import PlanningAgent
from jepa.recipes.cli import main
from jepa.recipes.hardware import Hardware

sys.path += [str(Path(__file__).parent.parent / room) for room in ("recipes", "datasets")]
import small_run
import test_agent
import test_clip_road
import test_rooms
import test_task


class Stopped(Callback):
    """Ends a run in its middle."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 6:
            raise InterruptedError


def test_a_run_ends_with_the_same_weights_also_when_it_was_stopped(tmp_path):
    data = small_run.made_images(tmp_path / "images")
    here = small_run.run(tmp_path / "here", data)
    there = partial(small_run.run, data=data, accelerator="elsewhere")
    found = there(tmp_path / "there")
    torch.testing.assert_close(found, here, rtol=1e-3, atol=1e-3)
    with pytest.raises(Exception, match="stopped at step 6"):
        there(tmp_path / "stopped", callbacks=[Stopped()])
    assert torch.equal(there(tmp_path / "stopped"), found)


COMMANDS = {
    "pretrain": test_clip_road.CLIPS
    | {
        "labelled": 24,
        "single_frame": None,
        "online": {"every_n_steps": 3, "bank": 20, "held_out": 10},
    },
    "agent": test_agent.CONFIG,
    "rooms": test_rooms.ROOMS | test_rooms.FROZEN,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(test_clip_road.sprites_module, "CLIPS", {"train": 60, "test": 24})
    given, hardware = tmp_path / "config.yaml", {"accelerator": "elsewhere", "precision": "float32"}
    given.write_text(json.dumps(COMMANDS[command] | {"hardware": hardware}))
    arguments = [f"--config={given}", f"--out={tmp_path / 'run'}"]
    assert main([command, *arguments]) == 0, capsys.readouterr().err


def test_devices_of_hardware():
    assert Hardware(accelerator="cpu").device() == HERE
    assert Hardware(accelerator="elsewhere").device().type == "elsewhere"
    assert Hardware(accelerator="auto").device().type == "elsewhere"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_probing_finds_the_same_there(precision, tmp_path, capsys):
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, FrozenEncoder(images(), mean=[0.5] * 3, std=[0.2] * 3))
    data = small_run.made_images(tmp_path / "images")
    given = [f"--encoder={path}", f"--data.source=folder:{data}", "--data.image_size=24"]
    given += ["--data.workers=0", "--probes=[linear,mlp]"]
    found = {}
    for name in ("cpu", "elsewhere"):
        there = [f"--hardware.accelerator={name}", f"--hardware.precision={precision}"]
        out = tmp_path / name
        assert main(["probe", *given, *there, f"--out={out}"]) == 0, capsys.readouterr().err
        result = json.loads((out / "result.json").read_text())
        found[name] = result["metrics"]["linear_top1"]["value"]
    assert found["cpu"] == pytest.approx(found["elsewhere"], abs=0.05)


@pytest.mark.parametrize("kind", ["second_order", "gru"])
def test_tasks_are_played_there_and_simulators_here(kind, tmp_path, monkeypatch):
    act, devices = PlanningAgent.act, set()

    def seen(agent, observation):
        devices.add(agent.action_space.low.device)
        return act(agent, observation)

    monkeypatch.setattr(PlanningAgent, "act", seen)
    hardware = partial(Hardware, accelerator="elsewhere", precision="float32")
    monkeypatch.setattr(test_task, "Hardware", lambda **_: hardware())
    test_task.test_a_run_learns_plays_and_does_not_learn_twice(kind, tmp_path)
    assert devices == {HERE, THERE}
