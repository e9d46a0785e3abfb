"""Measure a frozen encoder on clips: what it knows of their class, and of numbers such as speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder, device_of

from ..datasets.clip_datamodule import ClipDataModule
from ..datasets.clips import ClipSet
from ..datasets.images import Split
from ..datasets.transforms import eval_transform
from ..probes.attentive_probe import AttentiveProbe, AttentiveRegressor
from ..probes.features import (
    TOKENS,
    Encoder,
    FeatureTable,
    Precision,
    extract,
    poolings_of,
    random_encoder,
)
from ..probes.frames import FrameByFrame, MiddleFrame
from ..probes.intervals import accuracy_interval
from ..probes.knn import KNNProbe
from ..probes.linear import LinearProbe
from ..probes.regression import RidgeProbe, r2_interval
from .measuring import apart, sample_of
from .results import Measured


@dataclass(frozen=True, kw_only=True)
class ClipProbes:
    """How frozen clips are probed.

    Args:
        label: what the classes are called in results: `direction` gives `direction_top1`.
        targets: numbers to be told from the features: `speed` gives `speed_r2`.
        depth: of the attentive probe; 1 is V-JEPA's, 4 is V-JEPA 2's.
        learning_rates: of the attentive probe's grid, all trained in one pass.
        weight_decays: the other side of that grid.
        halving: leave the worse half of the grid on the way; see AttentiveProbe.
        epochs: passes over the training clips.
    """

    label: str = "label"
    targets: tuple[str, ...] = ()
    depth: int = 1
    learning_rates: tuple[float, ...] = (3e-3, 1e-3, 3e-4)
    weight_decays: tuple[float, ...] = (0.01, 0.1)
    halving: bool = False
    epochs: int = 20

    def attentive(self, seed: int) -> dict[str, Any]:
        """Options of both attentive estimators."""
        return {
            "depth": self.depth,
            "learning_rates": self.learning_rates,
            "weight_decays": self.weight_decays,
            "halving": self.halving,
            "epochs": self.epochs,
            "random_state": seed,
        }


@dataclass(frozen=True)
class Known:
    """Tables of one encoder: features by pooling, [n, D], or tokens [n, N, D], and the truth.

    groups, test_groups: which training and which test clips are over one scene, where known.
    """

    train: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]
    labels: tuple[np.ndarray, np.ndarray]
    targets: Mapping[str, tuple[np.ndarray, np.ndarray]]
    groups: np.ndarray | None
    test_groups: np.ndarray | None


def encoders_of(
    frozen: FrozenEncoder, seed: int, single_frame: FrozenEncoder | None = None
) -> dict[str, Encoder]:
    """The encoder and its baselines, by the prefix of their numbers' names.

    An encoder of images sees every frame on its own. Baselines: the same architecture with random
    weights, if it is ours; and an image encoder `single_frame`: on every frame on its own, the
    probe then sees them all, and on the middle frame.
    """
    encoders = {"": frozen}
    if isinstance(frozen.encoder, VisionTransformer):
        encoders["random_encoder/"] = random_encoder(frozen, seed)
    video = getattr(frozen.encoder, "video", False)
    found: dict[str, Encoder] = {
        name: each if video else FrameByFrame(each) for name, each in encoders.items()
    }
    if single_frame is not None:
        found["single_frame/"] = FrameByFrame(single_frame)
        found["middle_frame/"] = MiddleFrame(single_frame)
    return found


def measure_clips(
    encoders: Mapping[str, Encoder],
    data: ClipDataModule,
    probes: ClipProbes,
    *,
    labelled: int | None = None,
    seed: int,
    cache: Path,
    precision: Precision = "float32",
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """Metrics of the first of `encoders_of`, and of the baselines under `<baseline>/<metric>`.

    `<label>_top1` and `<target>_r2` are the attentive probe's; `.../linear` (mean-pooled) and
    `.../knn` stand beside. Of several views of a video mean-pooled features are averaged, and
    attentive probes learn from one at a time and average what they say.
    """
    metrics: dict[str, Measured] = {}
    for prefix, encoder in encoders.items():
        known = known_clips(encoder, data, labelled=labelled, cache=cache, precision=precision)
        found = probed(known, probes, seed, str(device_of(encoder)))
        metrics |= {f"{prefix}{name}": value for name, value in found.items()}
    return apart(metrics, tuple(encoders)[1:])


def known_clips(
    encoder: Encoder,
    data: ClipDataModule,
    *,
    labelled: int | None,
    cache: Path,
    precision: Precision = "float32",
) -> Known:
    """Every pooling of both splits, and the tokens; a row for each video that could be read."""
    rows, _ = sample_of(data, labelled)
    train, test = data.images("train"), data.images("test")
    splits: tuple[tuple[Split, ClipSet, Tensor], ...] = (
        ("train", train, rows),
        ("test", test, torch.arange(len(test))),
    )
    tables = [
        extract(
            encoder,
            data.evaluation_loader(split, rows=some),
            [*poolings_of(encoder), TOKENS],
            cache=cache,
            data=f"{clips.fingerprint}-{data.channels}x{data.image_size}-{len(some)}",
            precision=precision,
            progress=True,
        )
        for split, clips, some in splits
    ]
    videos = [torch.from_numpy(rows_of(table)[:: data.views].copy()) for table in tables]
    return Known(
        train=of_videos(tables[0], data.views),
        test=of_videos(tables[1], data.views),
        labels=(tables[0].labels[:: data.views], tables[1].labels[:: data.views]),
        targets={
            name: (
                train.targets[name][videos[0]].double().numpy(),
                test.targets[name][videos[1]].double().numpy(),
            )
            for name in train.targets
        },
        groups=None if train.groups is None else train.groups[videos[0]].numpy(),
        test_groups=None if test.groups is None else test.groups[videos[1]].numpy(),
    )


def rows_of(table: FeatureTable) -> Int64[np.ndarray, "n"]:
    """The video of each row."""
    assert table.rows is not None
    return table.rows


def of_videos(table: FeatureTable, views: int) -> dict[str, np.ndarray]:
    """Features of each video out of those of its views: means, but of tokens, which stay apart."""
    if views == 1:
        return dict(table.features)
    apart = {name: x.reshape(-1, views, *x.shape[1:]) for name, x in table.features.items()}
    return {name: x if name == TOKENS else x.mean(axis=1) for name, x in apart.items()}


def probed(known: Known, probes: ClipProbes, seed: int, device: str) -> dict[str, Measured]:
    """Every probe on one encoder's tables; penalties, rates and poolings are chosen on held-out
    training clips."""
    state = seeds.derive(seed, "held_out") % 2**32
    top1, found = f"{probes.label}_top1", {}
    y, y_test = known.labels
    pooled = [name for name in known.train if name != TOKENS]

    def accuracy(probe: Any, table: str) -> Measured:
        said = probe.predict(np.asarray(known.test[table]))
        return Measured(**accuracy_interval(said == y_test, known.test_groups)._asdict())

    def r2(said: np.ndarray, truth: np.ndarray) -> Measured:
        found = r2_interval(truth, said, groups=known.test_groups, seed=seed)
        return Measured(**found._asdict())

    linear = {
        name: LinearProbe(random_state=state).fit(known.train[name], y, known.groups)
        for name in pooled
    }
    best = max(pooled, key=lambda name: max(linear[name].held_out_.values(), default=0.0))
    found[f"{top1}/linear"] = accuracy(linear[best], best)
    found[f"{top1}/knn"] = accuracy(KNNProbe().fit(np.asarray(known.train[best]), y), best)
    attentive = AttentiveProbe(**probes.attentive(state), device=device)
    attentive.fit(known.train[TOKENS], y, known.groups)
    found[top1] = accuracy(attentive, TOKENS)
    for target in probes.targets:
        truth, test_truth = known.targets[target]
        ridges = {
            name: RidgeProbe(random_state=state).fit(known.train[name], truth, known.groups)
            for name in pooled
        }
        best = max(pooled, key=lambda name: max(ridges[name].held_out_.values(), default=0.0))
        said = ridges[best].predict(np.asarray(known.test[best]))
        found[f"{target}_r2/linear"] = r2(said, test_truth)
        regressor = AttentiveRegressor(**probes.attentive(state), device=device)
        regressor.fit(known.train[TOKENS], truth, known.groups)
        said = np.asarray(regressor.predict(known.test[TOKENS]), dtype=np.float64)
        found[f"{target}_r2"] = r2(said, test_truth)
    return dict(sorted(found.items()))


def frames_of_clips(
    data: ClipDataModule, seed: int, count: int = 20_000
) -> UInt8[Tensor, "n C S S"]:
    """Single frames of random training clips, at random times, as evaluation shows them; for an
    encoder that never sees motion."""
    clips, draw = data.images("train"), seeds.generator(seed, "single_frames")
    rows = torch.randint(0, len(clips), (count,), generator=draw)
    times = torch.randint(0, clips.frames, (count,), generator=draw)
    places = torch.rand(count, generator=draw, dtype=torch.float64)
    square = eval_transform(
        data.image_size, given=clips.size, channels=(clips.channels, data.channels)
    )
    taken: list[UInt8[Tensor, "C S S"]] = [
        square(clips.clip(row, place)[:, time])
        for row, time, place in zip(rows.tolist(), times.tolist(), places.tolist(), strict=True)
    ]
    return torch.stack(taken)
