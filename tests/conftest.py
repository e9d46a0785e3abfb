"""Shapes and types on public signatures are checked while tests run; and two ranks at once."""

import subprocess
import sys
import warnings

import pytest
import torch
from jaxtyping import install_import_hook

warnings.filterwarnings("ignore", message=".*PEP 585.*")
install_import_hook("jepa", "beartype.beartype")
torch.set_num_threads(1)  # small tensors, and a busy machine makes more threads wait

RANK = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
import torch
from torch import distributed
out, rank = Path({out!r}), int(sys.argv[1])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{{out}}/meet", rank=rank, world_size=2)
{body}
distributed.destroy_process_group()
"""


@pytest.fixture
def on_two_ranks(request, tmp_path):
    """Runs a body in two processes of one group, which may import the test's module; it finds
    `rank`, and `out`, the test's own folder."""

    def run(body):
        script = RANK.format(here=str(request.path.parent), out=str(tmp_path), body=body)
        command = [sys.executable, "-c", script]
        processes = [
            subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE) for rank in (0, 1)
        ]
        for process in processes:
            _, printed = process.communicate(timeout=300)
            assert process.returncode == 0, printed.decode()

    return run
