"""The bar tells which share of the time a run waited for data."""

import time

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from jepa.recipes.progress import StepProgress


class Steps(LightningModule):
    """Learns one number, and takes its time."""

    def __init__(self, seconds):
        super().__init__()
        self.weight, self.seconds = torch.nn.Parameter(torch.ones(1)), seconds

    def training_step(self, batch, index):
        time.sleep(self.seconds)
        return (self.weight * batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Slow:
    def __init__(self, seconds):
        self.seconds = seconds

    def __iter__(self):
        for _ in range(12):
            time.sleep(self.seconds)
            yield torch.ones(1)


@pytest.mark.parametrize(("data", "step", "share"), [(0.06, 0.18, 0.25), (0.18, 0.06, 0.75)])
def test_waiting_is_the_time_between_a_batch_and_the_next(data, step, share, capsys, tmp_path):
    bar = StepProgress("x")
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
    trainer.fit(Steps(step), Slow(data))
    assert bar.waited == pytest.approx(share, abs=0.15)
    assert "waiting=" in capsys.readouterr().err
