"""The bar tells which share of the time a run waited for data."""

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from jepa.recipes import progress
from jepa.recipes.progress import StepProgress


class Clock:
    """Stands in for `time`: however busy the machine is, only what is told takes time."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Steps(LightningModule):
    """Learns one number, and takes its time."""

    def __init__(self, seconds, clock):
        super().__init__()
        self.weight, self.seconds = torch.nn.Parameter(torch.ones(1)), seconds
        self.clock = clock

    def training_step(self, batch, index):
        self.clock.sleep(self.seconds)
        return (self.weight * batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Slow:
    def __init__(self, seconds, clock):
        self.seconds, self.clock = seconds, clock

    def __iter__(self):
        for _ in range(12):
            self.clock.sleep(self.seconds)
            yield torch.ones(1)


@pytest.mark.parametrize(("data", "step", "share"), [(0.06, 0.18, 0.25), (0.18, 0.06, 0.75)])
def test_waiting_is_the_time_between_a_batch_and_the_next(
    data, step, share, capsys, tmp_path, monkeypatch
):
    bar, clock = StepProgress("x"), Clock()
    monkeypatch.setattr(progress, "time", clock)
    trainer = Trainer(
        max_steps=10,
        accelerator="cpu",
        callbacks=[bar],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Steps(step, clock), Slow(data, clock))
    assert bar.waited == pytest.approx(share, abs=0.03)
    assert "waiting=" in capsys.readouterr().err
