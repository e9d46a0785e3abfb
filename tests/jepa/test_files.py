"""Files of the same content are the same files."""

import torch
from safetensors import safe_open

from jepa.files import write_safetensors


def test_the_same_weights_are_the_same_bytes_whatever_order_their_metadata_come_in(tmp_path):
    """safetensors itself leaves the order of the metadata to chance: 8 of 24 orders at least."""
    weights = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.int64)}
    told = {"format": "1", "name": '\u00e4 \n "x" \x01 \u2192', "other": "{}", "last": ""}
    files = set()
    for number in range(20):
        path = tmp_path / f"{number}.safetensors"
        write_safetensors(path, weights, told)
        files.add(path.read_bytes())
    assert len(files) == 1
    with safe_open(path, framework="pt") as read:
        assert read.metadata() == told
        assert all(torch.equal(read.get_tensor(name), weight) for name, weight in weights.items())
    write_safetensors(path, weights, {})
    with safe_open(path, framework="pt") as read:
        assert torch.equal(read.get_tensor("b"), weights["b"])
