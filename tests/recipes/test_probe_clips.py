"""`jepa probe --clips...`: labelled videos, by encoders of clips and of images."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from jepa.checkpoint import save_encoder
from jepa.datasets.clip_datamodule import ClipDataModule
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.probes.features import TOKENS, extract
from jepa.recipes.cli import main
from jepa.recipes.probe_clips import encoders_of, known_clips

SIZES = {"image_size": 16, "patch_size": 8, "channels": 3, "dim": 16, "depth": 1, "heads": 2}
OF_CLIPS = {"frames": 4, "tubelet_size": 2, "positions": "rope"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes, dark and light, as folders of frames: 10 training and 3 test videos of each,
    of which one cannot be read."""
    folder, draw = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 3)):
        for name, low in (("dark", 0), ("light", 100)):
            for number in range(count):
                place = folder / split / name / f"{number}"
                place.mkdir(parents=True)
                for time in range(12):
                    pixels = draw.integers(low, low + 155, (16, 24, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(place / f"{time:02}.png")
    for file in (folder / "train" / "dark" / "3").iterdir():
        file.write_bytes(b"no picture")
    return folder


def ours(folder, **more):
    encoder = VisionTransformer(**SIZES | more)
    return save_encoder(
        folder / "encoder.safetensors", FrozenEncoder(encoder, mean=(0.5,) * 3, std=(0.2,) * 3)
    )


def probed(encoder, videos, out, *more):
    return main(
        [
            "probe",
            f"--encoder={encoder}",
            f"--clips.source=frames:{videos}",
            "--clips.image_size=16",
            "--clips.frames=4",
            "--clips.step=1",
            "--clips.workers=0",
            "--clip_probes.epochs=2",
            f"--out={out}",
            *more,
        ]
    )


@pytest.mark.parametrize("more", [OF_CLIPS, {}], ids=["of clips", "of images"])
@pytest.mark.parametrize("views", [1, 3])
def test_both_kinds_of_encoders_tell_dark_from_light(more, views, videos, tmp_path, capsys):
    encoder, out = ours(tmp_path, **more), tmp_path / "run"
    assert probed(encoder, videos, out, f"--clips.clips_per_video={views}") == 0
    printed = capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    metrics = result["metrics"]
    assert {"label_top1", "label_top1/linear", "label_top1/knn"} == set(metrics)
    assert metrics["label_top1/linear"]["value"] == 1
    assert {f"random_encoder/{name}" for name in metrics} == set(result["baselines"])
    assert "label_top1" in printed


def test_views_of_a_video_are_one_row_and_unreadable_videos_none(videos, tmp_path):
    sizes = {"frames": 4, "step": 1, "image_size": 16, "workers": 0, "clips_per_video": 2}
    data = ClipDataModule(source=f"frames:{videos}", squares_per_clip=2, **sizes)
    frozen = FrozenEncoder(VisionTransformer(**SIZES | OF_CLIPS), mean=(0.5,) * 3, std=(0.2,) * 3)
    data.images("test").groups = torch.tensor([5, 5, 6, 7, 7, 7])
    known = known_clips(encoders_of(frozen, 0)[""], data, labelled=None, cache=tmp_path)
    assert known.test_groups is not None
    assert known.test_groups.tolist() == [5, 5, 6, 7, 7, 7]
    table = extract(frozen, data.evaluation_loader("train"), ("last", TOKENS))
    assert known.labels[0].tolist() == [0] * 9 + [1] * 10
    assert known.train[TOKENS].shape == (19, 4, 8, 16)
    for number in range(19):
        rows = slice(4 * number, 4 * number + 4)
        np.testing.assert_allclose(
            known.train["last"][number], table.features["last"][rows].mean(axis=0), rtol=1e-5
        )
        np.testing.assert_array_equal(known.train[TOKENS][number], table.features[TOKENS][rows])


def test_what_does_not_go_together_is_said(videos, tmp_path, capsys):
    encoder = ours(tmp_path, channels=1)
    assert probed(encoder, videos, tmp_path / "a") == 1
    assert "set --clips.channels=1" in capsys.readouterr().err
    assert probed(encoder, videos, tmp_path / "b", "--data.source=photographs") == 1
    assert "not both" in capsys.readouterr().err
