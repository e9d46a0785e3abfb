"""Shards: a set of images as WebDataset's tar files, for training from few large files."""

from __future__ import annotations

import json
from typing import get_args

from fsspec.core import url_to_fs

from ..datasets.images import Split, open_images
from ..datasets.shard_writer import write_shards


def shards(*, data: str, into: str, per_shard: int = 1000, image_size: int = 32) -> None:
    """Write a source of images as WebDataset shards; `--data.source=shards:PLACE` trains on them.

    A killed run goes on when the same command is given again.

    Args:
        data: whatever --data.source takes: folder:DIR, torchvision:CIFAR10, fashion-mnist, ...
        into: a folder, or a URL for fsspec, such as s3://bucket/name; gets train/, test/ and
            classes.json.
        per_shard: images in each shard.
        image_size: side of the crops that `photographs` makes.
    """
    files, root = url_to_fs(into)
    for split in get_args(Split):
        images = open_images(data, split, image_size=image_size)
        count = write_shards(
            images, f"{into.rstrip('/')}/{split}", per_shard=per_shard, title=f"{split} shards"
        )
        files.pipe_file(f"{root}/classes.json", json.dumps(images.classes).encode())
        print(f"{into}: {len(images)} {split} images in {count} shards")
    print(f"To train on them: --data.source=shards:{into}")
