"""Shapes and types on public signatures are checked while tests run; and two ranks at once."""

import warnings

import pytest
import torch
from jaxtyping import install_import_hook
from torch import distributed

from tests.forked import Forked, all_ended

warnings.filterwarnings("ignore", message=".*PEP 585.*")
install_import_hook("jepa", "beartype.beartype")
torch.set_num_threads(1)  # small tensors, and a busy machine makes more threads wait


def pytest_collection_modifyitems(items):
    """The longest files first: begun last, they would keep one worker when the others are done."""
    long = ("elsewhere", "recipes")
    items.sort(key=lambda item: item.path.parent.name not in long)


@pytest.fixture
def on_two_ranks(tmp_path):
    """Runs `body(rank, out)` in two processes of one group; `out` is the test's own folder."""

    def on_one(body, rank):
        meet = f"file://{tmp_path / 'meet'}"
        distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
        body(rank, tmp_path)
        distributed.destroy_process_group()

    def run(body):
        all_ended([Forked(tmp_path / f"{rank}.txt", on_one, body, rank) for rank in (0, 1)])

    return run
