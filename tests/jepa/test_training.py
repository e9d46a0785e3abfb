"""Pretraining: exact resume after any kill, schedules, the target's rhythm, the watch."""

import copy
import logging
import math
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader, IterableDataset

from jepa.byol import BYOL
from jepa.diagnostics import feature_std, rankme
from jepa.encoder import VisionTransformer
from jepa.files import atomic_path, load_tensors_only
from jepa.frozen import Normalize
from jepa.guard import Guard, NonFiniteError
from jepa.masks import MultiBlockMasks
from jepa.metrics_log import MetricsLog, read_metrics
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.resume import ResumePoint, SafeCheckpointIO
from jepa.schedules import warmup_cosine
from jepa.sigreg import LeJEPA
from jepa.target import ema_update
from jepa.training import Optimisation, Pretraining, decay_groups
from jepa.vicreg import VICReg
from jepa.watch import CollapseWatch, watched
from tests.forked import Forked

STEPS = 14


class Batch(NamedTuple):
    images: torch.Tensor


class ViewBatch(NamedTuple):
    views: torch.Tensor


class Images(IterableDataset):
    """Made images, or views of them, a pure function of the step."""

    def __init__(self, start, views=False):
        self.start, self.views = start, views

    def __iter__(self):
        step = self.start
        while True:
            generator = torch.Generator().manual_seed(step)
            images = torch.randint(0, 256, (8, 1, 24, 24), generator=generator).byte()
            yield (
                ViewBatch(torch.stack([images, images.flip(-1)], 1))
                if self.views
                else Batch(images)
            )
            step += 1


class Data(lightning.LightningDataModule):
    def __init__(self, views=False):
        super().__init__()
        self.views = views

    def train_dataloader(self):
        start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return DataLoader(Images(start, self.views), batch_size=None)


def module(steps=STEPS, **changes):
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=24, patch_size=4, channels=1, dim=16, depth=2, heads=2)
    predictor = Predictor(encoder_dim=16, native_grid=(6, 6), dim=16, depth=1, heads=2)
    options = {"warmup_steps": 3, "gradient_clip": 1.0, "momentum": (0.9, 1.0)} | changes
    return Pretraining(
        model=JEPA(encoder=encoder, predictor=predictor),
        masks=MultiBlockMasks(),
        normalize=Normalize((0.5,), (0.25,)),
        optimisation=Optimisation(steps=steps, **options),
    )


def train(out, *, resume=False, callbacks=(), accumulate=1, pretraining=None, data=None, **changes):
    """One run; returns its module."""
    pretraining = pretraining or module()
    options = {
        "max_steps": pretraining.optimisation.steps,
        "max_epochs": -1,
        "accelerator": "cpu",
        "precision": "bf16-mixed",
        "accumulate_grad_batches": accumulate,
        "logger": MetricsLog(Path(out) / "metrics.jsonl"),
        "log_every_n_steps": 1,
        "callbacks": [*callbacks, ResumePoint(Path(out) / "last.ckpt", every_n_steps=4)],
        "plugins": [SafeCheckpointIO()],
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,
    }
    trainer = Trainer(**options | changes)
    last = Path(out) / "last.ckpt"
    ckpt = last if resume and last.exists() else None
    data = data or Data(views=pretraining.masks is None)
    trainer.fit(pretraining, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return pretraining


def weights(pretraining):
    return torch.cat([p.detach().flatten() for p in pretraining.model.parameters()])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return weights(train(tmp_path_factory.mktemp("undisturbed")))


class SlowDown(lightning.Callback):
    """Lets the test see the step, and gives it the time to kill."""

    def __init__(self, out):
        self.path = Path(out) / "step"

    def on_train_batch_start(self, trainer, *_):
        self.path.write_text(str(trainer.global_step))
        time.sleep(0.02)


@pytest.mark.parametrize("steps", [(2, 9), (6,)], ids=str)
def test_killed_at_any_step_and_resumed_the_end_is_bit_identical(tmp_path, undisturbed, steps):
    def live():
        trained = train(tmp_path, resume=True, callbacks=[SlowDown(tmp_path)])
        torch.save(weights(trained), tmp_path / "end.pt")

    for kill_at in steps:
        process = Forked(tmp_path / "printed", live)
        while process.is_alive():
            try:
                if int((tmp_path / "step").read_text() or 0) >= kill_at:
                    process.kill()
            except FileNotFoundError:
                pass
            time.sleep(0.005)
        process.ended(-signal.SIGKILL)
        assert not (tmp_path / "end.pt").exists()
        (tmp_path / "step").unlink()
    Forked(tmp_path / "printed", live).ended()
    assert torch.equal(torch.load(tmp_path / "end.pt", weights_only=True), undisturbed)


class SignalAt(lightning.Callback):
    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_the_running_step_and_goes_on_identically(
    tmp_path, undisturbed, number
):
    before = signal.getsignal(number)
    train(tmp_path, callbacks=[SignalAt(6, number)])
    assert load_tensors_only(tmp_path / "last.ckpt")["global_step"] == 7
    assert signal.getsignal(number) == before
    assert torch.equal(weights(train(tmp_path, resume=True)), undisturbed)


class AtBatch(lightning.Callback):
    """Does something before a batch, by its number, is learnt from."""

    def __init__(self, batch, act):
        self.batch, self.act = batch, act

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            self.act(batch)


def tell_to_stop(_):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory):
    return weights(train(tmp_path_factory.mktemp("whole"), accumulate=3, pretraining=module(6)))


@pytest.mark.parametrize("batch", [6, 7, 8])
def test_told_to_stop_while_gradients_accumulate_it_ends_the_step_first(
    tmp_path, accumulated, batch
):
    def run(**how):
        return train(tmp_path, accumulate=3, pretraining=module(6), **how)

    run(callbacks=[AtBatch(batch, tell_to_stop)])
    assert load_tensors_only(tmp_path / "last.ckpt")["global_step"] == 3
    assert torch.equal(weights(run(resume=True)), accumulated)


def test_nothing_is_saved_before_the_first_step_has_ended(tmp_path, accumulated):
    seen = []
    look = AtBatch(2, lambda _: seen.extend(tmp_path.glob("last.ckpt")))
    run = train(tmp_path, accumulate=3, pretraining=module(6), callbacks=[look])
    assert not seen
    assert torch.equal(weights(run), accumulated)


def test_a_run_of_epochs_is_saved_stopped_and_resumed_as_one_of_steps_is(tmp_path, monkeypatch):
    saved, save = [], SafeCheckpointIO.save_checkpoint

    def noted(self, checkpoint, *where, **how):
        saved.append(checkpoint["global_step"])
        save(self, checkpoint, *where, **how)

    def run(folder, epochs=2, **how):
        saved.clear()
        lengths = {"max_steps": -1, "max_epochs": epochs, "limit_train_batches": 5}
        lengths["reload_dataloaders_every_n_epochs"] = 1  # data go on with the step
        return weights(train(tmp_path / folder, pretraining=module(10), **lengths, **how))

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", noted)
    whole = run("whole")
    assert saved == [4, 8, 10]
    run("parts", callbacks=[AtBatch(1, tell_to_stop)])
    assert saved == [2]
    assert torch.equal(run("parts", resume=True), whole)
    run("longer", epochs=1)
    assert saved == [4, 5]
    assert torch.equal(run("longer", resume=True), whole)


def test_the_trainers_clipping_holds_where_the_schedules_have_none(tmp_path):
    norms = []

    class Norms(lightning.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            gradients = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            norms.extend([torch.stack(gradients).norm().item()] if gradients else [])

    pretraining = module(3, gradient_clip=None)
    train(tmp_path, pretraining=pretraining, gradient_clip_val=0.1, callbacks=[Norms()])
    assert norms == pytest.approx([0.1] * 2, rel=1e-4)


def test_gradients_are_clipped_as_they_are_where_float16_has_them_scaled(tmp_path):
    def norm(**how):
        train(tmp_path, pretraining=module(1, warmup_steps=0), **how)
        return read_metrics(tmp_path / "metrics.jsonl")[0]["gradient_norm"]

    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    float16 = norm(precision=None, plugins=[SafeCheckpointIO(), scaled])
    assert float16 == pytest.approx(norm(precision="32-true"), rel=0.02)


def spoil(batch):
    batch.images.fill_(torch.nan)


def test_each_of_the_batches_of_a_step_is_kept_and_counted(tmp_path):
    class Floats(Data):
        def on_before_batch_transfer(self, batch, _):
            return Batch(batch.images / 255)

    def run(*bad, steps=3):
        pretraining = module(steps)
        pretraining.guard = Guard(tmp_path, most=3)
        train(
            tmp_path,
            accumulate=3,
            pretraining=pretraining,
            data=Floats(),
            callbacks=[AtBatch(batch, spoil) for batch in bad],
        )

    with pytest.raises(NonFiniteError, match="the loss of 4 batches"):
        run(0, 1, 2, 3)
    names = ["step_0_batch_1_rank_0", "step_0_batch_2_rank_0", "step_0_rank_0", "step_1_rank_0"]
    assert [path.stem for path in sorted(tmp_path.glob("*.safetensors"))] == names
    (tmp_path / "step_1_rank_0.safetensors").unlink()
    run(0, 1, 2)  # the same again


def joint(objective, schedule=None, **options):
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=24, patch_size=4, channels=1, dim=16, depth=1, heads=2)
    return Pretraining(
        model=objective(encoder, projector=(12, 8), **options),
        normalize=Normalize((0.5,), (0.25,)),
        optimisation=Optimisation(
            **{"steps": 6, "learning_rate": 3e-3, "momentum": (0.9, 1.0)} | (schedule or {})
        ),
    )


@pytest.mark.parametrize(
    ("objective", "options"),
    [(VICReg, {}), (BYOL, {"predictor": 12}), (LeJEPA, {"directions": 8})],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_joint_embeddings_are_trained_watched_and_resumed_as_jepas_are(
    tmp_path, objective, options
):
    def run(folder, **how):
        return train(tmp_path / folder, pretraining=joint(objective, **options), **how)

    whole = run("whole", callbacks=[CollapseWatch(every_n_steps=2)])
    run("parts", callbacks=[SignalAt(2, signal.SIGTERM)])
    assert load_tensors_only(tmp_path / "parts" / "last.ckpt")["global_step"] == 3
    resumed = run("parts", resume=True).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in whole.state_dict().items())
    rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    has_target = objective is BYOL
    assert any("watch/context_rank" in row for row in rows)
    assert any("watch/target_std" in row for row in rows) == has_target
    assert all(("momentum" in row) == has_target for row in rows if "learning_rate" in row)
    untrained = weights(joint(objective, **options))
    assert not torch.equal(weights(whole), untrained)


@pytest.mark.parametrize(
    "made",
    [module, lambda: joint(LeJEPA), lambda: joint(BYOL, predictor=12)],
    ids=["jepa", "lejepa", "byol"],
)
def test_weights_may_be_of_bfloat16_alone(tmp_path, made):
    begun = made()
    trained = train(tmp_path, pretraining=made(), precision="bf16-true").model
    learnt = {name for name, weight in trained.named_parameters() if weight.requires_grad}
    assert {trained.get_parameter(name).dtype for name in learnt} == {torch.bfloat16}
    for name, weight in trained.named_parameters():
        assert weight.isfinite().all()
        assert weight.dtype == (torch.bfloat16 if name in learnt else torch.float32)
    before = torch.cat([begun.model.get_parameter(name).flatten() for name in learnt])
    after = torch.cat([trained.get_parameter(name).flatten() for name in learnt])
    assert not torch.equal(before.bfloat16(), after)


class Kept(lightning.Callback):
    """What the student was at the start and after every step."""

    def __init__(self):
        self.students = []

    def keep(self, trainer, module, *_):
        student = module.model.encoders["student"]
        self.students.append([p.detach().double() for p in student.parameters()])

    on_train_start = on_train_batch_end = keep


@pytest.mark.parametrize(
    "made", [module, lambda **o: joint(BYOL, predictor=12, schedule=o)], ids=["jepa", "byol"]
)
def test_the_target_of_a_student_of_bfloat16_moves_as_in_float64_and_is_resumed(tmp_path, made):
    """A step is a thousandth of the way, and less than the last digit of most weights."""
    kept, options = Kept(), {"steps": 6, "momentum": (0.999, 0.999)}

    def run(folder, **how):
        new = made(**options)
        return train(tmp_path / folder, pretraining=new, precision="bf16-true", **how).model

    start = made(**options).model.target.encoder
    target = [p.detach().double() for p in start.parameters()]
    whole = run("whole", callbacks=[kept])
    for student in kept.students[1:]:
        target = [0.999 * slow + 0.001 * fast for slow, fast in zip(target, student, strict=True)]
    for found, true in zip(whole.target.encoder.parameters(), target, strict=True):
        torch.testing.assert_close(found.double(), true, rtol=1e-6, atol=1e-7)
    run("parts", callbacks=[SignalAt(2, signal.SIGTERM)])
    resumed = run("parts", resume=True).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in whole.state_dict().items())


def test_an_average_in_half_precision_is_refused():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="bf16-mixed"):
        ema_update(copy.deepcopy(layer).bfloat16(), layer, 0.9)


def test_directions_are_drawn_at_each_step_and_not_for_each_rank(monkeypatch):
    pretraining, drawn = joint(LeJEPA, directions=4), []
    pretraining.model.register_forward_pre_hook(lambda _, given: drawn.append(given[1].get_state()))
    batch = next(iter(Images(0, views=True)))
    for micro_batch, rank in ((0, 0), (1, 0), (0, 1)):
        pretraining._micro_batch = micro_batch
        monkeypatch.setattr(Pretraining, "global_rank", rank)
        pretraining.outcome(batch)
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_a_watched_run_is_the_same_run(tmp_path, undisturbed):
    watched = train(tmp_path, callbacks=[CollapseWatch(every_n_steps=2)])
    assert torch.equal(weights(watched), undisturbed)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert {"loss", "learning_rate", "momentum", "gradient_norm"} <= rows[0].keys()
    assert any("watch/context_rank" in row for row in rows)


def test_the_target_moves_once_an_optimiser_step_not_once_a_batch(tmp_path):
    """With momentum 0 the target equals the encoder after each update."""
    seen = []

    class Compare(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            pairs = zip(
                pl_module.model.target.encoder.parameters(),
                pl_module.model.encoder.parameters(),
                strict=True,
            )
            seen.append((trainer.global_step, all(torch.equal(a, b) for a, b in pairs)))

    train(
        tmp_path,
        callbacks=[Compare()],
        accumulate=3,
        pretraining=module(steps=2, momentum=(0.0, 0.0), warmup_steps=0),
    )
    assert [step for step, _ in seen] == [0, 0, 1, 1, 1, 2]
    assert all(same for _, same in seen)


def test_two_half_batches_draw_different_masks():
    pretraining = module()
    images = torch.zeros(4, 1, 24, 24)
    first = pretraining.draw_masks(images)
    pretraining._micro_batch += 1
    assert not torch.equal(first.targets, pretraining.draw_masks(images).targets)


def test_learning_rate_follows_its_formula():
    schedule = Optimisation(steps=100, warmup_steps=10, learning_rate=1.0, start_learning_rate=0.2)
    assert schedule.learning_rate_at(0) == 0.2
    assert schedule.learning_rate_at(5) == pytest.approx(0.6)
    for step in (10, 37, 99):
        expected = 1e-6 + (1 - 1e-6) * (1 + math.cos(math.pi * (step - 10) / 90)) / 2
        assert schedule.learning_rate_at(step) == pytest.approx(expected)
    assert schedule.weight_decay_at(0) == pytest.approx(0.04)
    assert schedule.weight_decay_at(100) == pytest.approx(0.4)
    assert schedule.momentum_at(50) == pytest.approx(0.998)
    assert warmup_cosine(500, steps=100, warmup=10, start=0.0, peak=1.0, end=0.1) == 0.1


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"steps": 5, "warmup_steps": 6}, {"steps": 5, "momentum": (0.9, 1.1)}]
)
def test_impossible_schedules_are_refused(bad):
    with pytest.raises(ValueError, match="got"):
        Optimisation(**bad)


def test_only_parameters_of_several_dimensions_decay():
    pretraining = module()
    decayed, free = decay_groups(pretraining.model)
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim <= 1 for p in free["params"])
    learnt = [p for p in pretraining.model.parameters() if p.requires_grad]
    assert len(decayed["params"]) + len(free["params"]) == len(learnt)
    assert any(p is pretraining.model.predictor.mask_tokens[0] for p in decayed["params"])


def test_rankme_of_known_spectra():
    assert rankme(torch.eye(16)).item() == pytest.approx(16, rel=1e-3)
    assert rankme(torch.ones(50, 8)).item() == pytest.approx(1, rel=1e-3)
    features = torch.randn(100, 20, generator=torch.Generator().manual_seed(0)).double()
    share = torch.linalg.eigvalsh(features.T @ features).clamp_min(0).sqrt()
    share = share / share.sum()
    expected = torch.exp(-(share * share.log()).sum())
    assert rankme(features).item() == pytest.approx(expected.item(), rel=1e-4)
    assert rankme(torch.zeros(5, 3)).isfinite()
    assert feature_std(torch.ones(50, 8)) == 0


def test_collapse_is_said_once_with_a_remedy(caplog):
    watch = CollapseWatch(share=0.1)
    with caplog.at_level(logging.WARNING):
        watch.judge({"context_std": 1.0}, 0)
        watch.judge({"context_std": 0.5}, 50)
        assert not caplog.records
        watch.judge({"context_std": 0.05}, 100)
        watch.judge({"context_std": 0.04}, 150)
        watch.judge({"target_std": math.nan}, 150)
    assert [record.args[0] for record in caplog.records] == ["context_std", "target_std"]
    assert "momentum" in caplog.text


def test_features_that_are_no_numbers_are_warned_of(caplog):
    watch, features = CollapseWatch(), torch.randn(4, 3, 8)
    assert rankme(torch.full((5, 3), math.nan)).isnan()
    with caplog.at_level(logging.WARNING):
        watch.judge(watched(features, None), 0)
        watch.judge(watched(features * math.nan, None), 50)
    told = [record.args for record in caplog.records]
    assert [name for name, *_ in told] == ["context_std", "context_rank"]
    assert all(math.isnan(value) and highest > 0 for _, value, _, highest, _ in told)


def test_metrics_continue_where_the_checkpoint_was(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "seconds": 5.0, "loss": 1.0}\n{"step": 9, "seconds": 60.0}\n{"st')
    log = MetricsLog(path, start_step=4)
    assert log.seconds >= 5.0
    log.log_metrics({"loss": 0.5, "epoch": 0}, step=5)
    assert [row["step"] for row in read_metrics(path)] == [1, 5]
    MetricsLog(path)
    assert read_metrics(path) == []


def test_a_failed_write_leaves_the_previous_file(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"whole")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
