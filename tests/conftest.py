"""Shapes and types on public signatures are checked while tests run."""

import warnings

import torch
from jaxtyping import install_import_hook

warnings.filterwarnings("ignore", message=".*PEP 585.*")
install_import_hook("jepa", "beartype.beartype")
torch.set_num_threads(1)  # small tensors, and a busy machine makes more threads wait
