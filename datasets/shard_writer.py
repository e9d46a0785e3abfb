"""Writing WebDataset shards of any set of images, each with a list of what is where in it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from PIL import Image

from jepa.progress import track

from .folders import FolderImages
from .images import ImageSet
from .tar_shards import Sample, list_beside

ABOUT = "about.json"


def write_shards(images: ImageSet, place: str, *, per_shard: int, title: str = "shards") -> int:
    """Writes PLACE/00000.tar, ... and their lists; returns how many shards there are.

    Samples are `000000012.jpg` and `000000012.cls`; image files keep their bytes, all else becomes
    PNG. The same images give the same bytes. A shard whose list is there is whole, and kept.
    `about.json` says what they are made of.

    Args:
        images: in their order.
        place: a folder, or a URL for fsspec.
        per_shard: images in each; fewer in the last.
        title: of the progress bar.

    Raises ValueError where the place has shards of other images, or with another number of them.
    """
    if per_shard < 1:
        raise ValueError(f"a shard has at least one image; got per_shard={per_shard}")
    files, root = url_to_fs(place)
    files.makedirs(root, exist_ok=True)
    begin(files, root, {"images": images.fingerprint, "per_shard": per_shard})
    firsts = range(0, len(images), per_shard)
    for number, first in enumerate(track(firsts, title, "shard")):
        path = f"{root}/{number:05d}.tar"
        if files.exists(list_beside(path)):
            continue
        rows = range(first, min(first + per_shard, len(images)))
        with files.open(path, "wb") as file:
            samples = write_shard(images, rows, file)
        about = {"size": files.size(path), "samples": samples}
        files.pipe_file(list_beside(path), json.dumps(about).encode())
    return len(firsts)


def begin(files: AbstractFileSystem, root: str, made_of: Mapping[str, Any]) -> None:
    """Write what shards are made of, or see that those that are there are made of the same."""
    path = f"{root}/{ABOUT}"
    if not files.exists(path):
        files.pipe_file(path, json.dumps(made_of).encode())
    elif (begun := json.loads(files.cat_file(path))) != made_of:
        raise ValueError(
            f"{root} has shards of {begun}, asked for are {made_of}: go on as they were begun, or "
            "choose another place"
        )


def write_shard(images: ImageSet, rows: Sequence[int], file: Any) -> list[Sample]:
    """One tar of some images into a file for bytes, and where each of them is in it."""
    samples, end = [], 0
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for row in rows:
            label, (suffix, content) = int(images.labels[row]), stored(images, row)
            key, offset = f"{row:09d}", end + tarfile.BLOCKSIZE
            samples.append(Sample(key + suffix, offset, len(content), label))
            for name, body in ((key + suffix, content), (key + ".cls", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
                end += tarfile.BLOCKSIZE * (1 - -len(body) // tarfile.BLOCKSIZE)
    return samples


def stored(images: ImageSet, row: int) -> tuple[str, bytes]:
    """The ending of an image's file, and its bytes."""
    if isinstance(images, FolderImages):
        path = images.paths[row]
        return path.suffix.lower(), path.read_bytes()
    pixels = images[row][0].permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return ".png", buffer.getvalue()
