"""What may happen to a run: it goes on to the identical result, or ends with the cause."""

import multiprocessing
import os
import resource
import signal
import stat
import time

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from safetensors.torch import load_file

from jepa.files import load_tensors_only
from jepa.metrics_log import read_metrics
from jepa.recipes.cli import main
from jepa.recipes.commands import command
from jepa.recipes.fit import Interrupted, StoppedError
from jepa.recipes.parsing import parser_of
from tests.forked import FORK, Forked
from tests.recipes.small_run import arguments, made_images, run


@pytest.fixture
def data(tmp_path):
    return made_images(tmp_path / "images")


class At(Callback):
    """Does something before the batch of a step is learnt from."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.act(trainer, pl_module, batch)


def spoil(trainer, pl_module, batch):
    """The next pass gives NaN: one weight is so, for as long as that pass takes."""
    bias = pl_module.model.predictor.predictor_proj.bias.data
    kept = bias.clone()
    bias.fill_(float("nan"))
    handle = pl_module.model.register_forward_hook(
        lambda *_: (bias.copy_(kept), handle.remove(), None)[-1]
    )


class Weights(Callback):
    """Those of the encoder after each step."""

    def on_train_start(self, trainer, pl_module):
        self.seen = {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        parts = pl_module.model.encoder.parameters()
        self.seen[trainer.global_step] = torch.cat([p.detach().flatten() for p in parts])


def test_a_loss_that_is_no_number_is_passed_over_and_its_batch_kept(data, tmp_path, caplog):
    watch, shown = Weights(), {}

    def spoilt(trainer, pl_module, batch):
        shown["images"] = batch.images.clone()
        spoil(trainer, pl_module, batch)

    whole = run(tmp_path / "whole", data, callbacks=[At(5, spoilt), watch])
    assert whole.isfinite().all()
    assert torch.equal(watch.seen[5], watch.seen[6])
    assert not torch.equal(watch.seen[6], watch.seen[7])
    (path,) = (tmp_path / "whole" / "not_finite").iterdir()
    assert path.name == "step_5_rank_0.safetensors"
    assert "step 5 is passed over" in caplog.text
    kept = load_file(path)
    assert torch.equal(kept["images"], shown["images"])
    assert kept["loss/prediction"].isnan()
    losses = [row["loss"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert [step for step, loss in enumerate(losses) if np.isnan(loss)] == [5]
    stop = At(6, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", data, callbacks=[At(5, spoil), stop])
    assert torch.equal(run(tmp_path / "parts", data), whole)


def test_too_many_losses_that_are_no_numbers_end_the_run(data, tmp_path):
    spoilt = [At(step, spoil) for step in (3, 5, 9)]
    with pytest.raises(StoppedError, match=r"step 9 of 14: the loss of 3 batches .* more than 2;"):
        run(tmp_path / "out", data, callbacks=spoilt, most_not_finite=2)
    assert load_tensors_only(tmp_path / "out" / "last.ckpt")["global_step"] == 8
    # those before a resume count too
    with pytest.raises(StoppedError, match="the loss of 3 batches"):
        run(tmp_path / "out", data, callbacks=[At(9, spoil)], most_not_finite=2)


def test_weights_that_are_no_numbers_are_never_saved(data, tmp_path):
    def ruin(trainer, pl_module, batch):
        pl_module.model.encoder.norm.bias.data[3] = float("inf")

    with pytest.raises(StoppedError, match=r"at step 8 there is NaN or infinity in \d+ weights"):
        run(tmp_path / "out", data, callbacks=[At(6, ruin)], most_not_finite=10)
    assert load_tensors_only(tmp_path / "out" / "last.ckpt")["global_step"] == 4
    assert torch.equal(run(tmp_path / "out", data), run(tmp_path / "whole", data))


def test_a_full_disk_keeps_the_resume_point_before(data, tmp_path):
    """The system refuses files above a size, in the middle of writing."""
    whole, out = run(tmp_path / "whole", data), tmp_path / "out"
    before = {}

    def fill(*_):
        before["bytes"] = (out / "last.ckpt").read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    try:
        with pytest.raises(StoppedError, match=r"cannot write .*last\.ckpt, with \d+ MiB free"):
            run(out, data, callbacks=[At(6, fill)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert (out / "last.ckpt").read_bytes() == before["bytes"]
    assert not list(out.glob(".*.part"))
    assert torch.equal(run(out, data), whole)


def test_a_reading_process_that_the_system_kills_ends_the_run_with_the_cause(data, tmp_path):
    def kill(*_):
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        time.sleep(0.5)

    whole, out = run(tmp_path / "whole", data), tmp_path / "out"
    with pytest.raises(StoppedError, match=r"reads data has died .*--data\.workers=1"):
        run(out, data, workers=2, callbacks=[At(6, kill)])
    assert torch.equal(run(out, data, workers=2), whole)


def test_files_that_vanish_under_a_run_are_named_and_too_many_end_it(data, tmp_path, caplog):
    def remove(count):
        def act(*_):
            for path in sorted((data / "train" / "a").iterdir())[:count]:
                path.unlink()

        return act

    assert run(tmp_path / "few", data, callbacks=[At(2, remove(2))]).isfinite().all()
    assert caplog.text.count("unreadable images skipped") == 2
    with pytest.raises(StoppedError, match=r"of 46 images are unreadable, more than the accepted"):
        run(tmp_path / "many", data, callbacks=[At(2, remove(20))])


def test_a_run_is_not_gone_on_with_on_other_data(data, tmp_path):
    stop = At(6, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(tmp_path / "out", data, callbacks=[stop])
    (data / "train" / "a" / "3.png").rename(tmp_path / "3.png")
    with pytest.raises(ValueError, match=r"has changed since the run began: 48 samples then, 47"):
        run(tmp_path / "out", data)
    (tmp_path / "3.png").rename(data / "train" / "a" / "3.png")
    assert torch.equal(run(tmp_path / "out", data), run(tmp_path / "whole", data))


def test_a_clock_that_jumps_changes_nothing(data, tmp_path, monkeypatch):
    whole, real, jumps = run(tmp_path / "whole", data), time.time, iter(range(10**6))

    def jumping():
        return real() + 86_400 * (-1) ** next(jumps)

    for place in ("time.time", "tqdm.std.time"):
        monkeypatch.setattr(place, jumping)
    assert torch.equal(run(tmp_path / "out", data), whole)
    seconds = [row["seconds"] for row in read_metrics(tmp_path / "out" / "metrics.jsonl")]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] < 600


def test_an_output_that_cannot_be_written_is_refused_before_any_work(data, tmp_path, capfd):
    parser_of(command("pretrain"))  # imported now: somebody else may not read Python's files

    def somebody_else():
        if os.getuid() == 0:  # root may write anywhere
            os.setuid(65534)
        os._exit(main(arguments(tmp_path / "locked" / "out", data)))

    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o555)
    process = FORK.Process(target=somebody_else)
    process.start()
    process.join()
    assert process.exitcode == 1
    assert "jepa pretrain: error: cannot write in" in capfd.readouterr().err


class Mortal(Callback):
    """Ends the process, by SIGKILL, at so many moments from now: before a batch, before and after
    the optimiser's step, while a file is half written, before it is on disk, before it has its
    name. However busy the machine is, these are the same moments."""

    def __init__(self, moments):
        self.left = moments
        save, fsync, replace = torch.save, os.fsync, os.replace

        def halved(checkpoint, path):
            path.write_bytes(b"half")
            self.moment()
            save(checkpoint, path)

        torch.save = halved
        os.fsync = lambda *given: (self.moment(), fsync(*given))
        os.replace = lambda *given: (self.moment(), replace(*given))

    def moment(self, *_):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    on_train_batch_start = on_before_optimizer_step = on_train_batch_end = moment


def test_killed_at_20_random_moments_the_end_is_bit_identical(data, tmp_path):
    """Kills of all kinds: before the first step, in a step, while a resume point is written."""
    steps, out, random = 120, tmp_path / "out", np.random.default_rng(0)
    whole = run(tmp_path / "whole", data, steps=steps, every=2)

    def live(moments):
        run(out, data, steps=steps, every=2, callbacks=[Mortal(moments)])

    interrupted = 0
    for moments in random.integers(1, 40, 20).tolist():
        Forked(tmp_path / "printed", live, moments).ended(-signal.SIGKILL)
        interrupted += bool(list(out.glob(".last.ckpt.*.part")))
    assert interrupted >= 3
    assert 0 < load_tensors_only(out / "last.ckpt")["global_step"] < steps
    assert torch.equal(run(out, data, steps=steps, every=2), whole)
    assert not list(out.glob(".*.part"))
    rows = [row["step"] for row in read_metrics(out / "metrics.jsonl")]
    assert rows == list(range(steps))
