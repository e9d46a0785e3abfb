"""The Hugging Face hub: downloads of safetensors and JSON, never of code; uploads of folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from jepa.files import atomic_path
from jepa.frozen import FrozenEncoder

FAILED = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)
SAFE = ("*.json", "*.safetensors")

CARD = """---
library_name: jepa-toolkit
tags: [jepa, image-feature-extraction]
{licence}---

# {name}

A frozen encoder of jepa-toolkit: {kind} {config}. Features [batch, tokens, {dim}] of pixels in
[0, 1], uint8 or float:

    from jepa.checkpoint import from_pretrained
    encoder = from_pretrained("OWNER/NAME")
"""


def fetched(repository: str, *, patterns: Sequence[str] = SAFE) -> Path:
    """The folder of a repository OWNER/NAME, or OWNER/NAME@REVISION, in huggingface_hub's cache.

    Raises ValueError if it cannot be had.
    """
    name, _, revision = repository.partition("@")
    try:
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=list(patterns))
        )
    except FAILED as error:
        raise ValueError(f"cannot fetch hf-hub:{repository}: {first_line(error)}") from error


def pushed(
    folder: str | Path, repository: str, *, private: bool = False, but: Sequence[str] = ()
) -> str:
    """Upload a folder to OWNER/NAME, which is made if need be; the address of the commit.

    `but`: names of files that stay here. Who uploads is huggingface_hub's affair: `hf auth login`,
    or HF_TOKEN.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repository, folder_path=str(folder), ignore_patterns=list(but)
            )
        )
    except FAILED as error:
        raise ValueError(f"cannot upload {folder} to {repository}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Of what it says; its kind, if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def write_card(folder: Path, frozen: FrozenEncoder, licence: str | None) -> None:
    """README.md as the hub reads it; `licence` is the hub's word, e.g. `cc-by-nc-4.0`."""
    card = CARD.format(
        licence=f"license: {licence}\n" if licence else "",
        name=frozen.name,
        kind=type(frozen.encoder).__name__,
        config=json.dumps(getattr(frozen.encoder, "config", {})),
        dim=frozen.dim,
    )
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(card)
