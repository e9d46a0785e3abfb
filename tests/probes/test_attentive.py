"""Attentive heads: equal to the published classifiers, and to attention written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from jepa import seeds
from jepa.probes.attentive import AttentiveHead, look, side_by_side
from jepa.probes.attentive_official import load_attentive_classifier

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("vjepa", "vjepa2", "vjepa2_sincos")


def normal(*shape, name="tokens"):
    return torch.randn(shape, generator=seeds.generator(0, name))


def rewritten(tmp_path, name, change):
    """The published file after `change` of its state dict."""
    checkpoint = torch.load(FIXTURES / f"{name}_classifier.pt", weights_only=True)
    change(checkpoint["classifier"] if "classifier" in checkpoint else checkpoint["classifiers"][0])
    torch.save(checkpoint, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_reference_classifiers(name):
    expected = load_file(FIXTURES / f"{name}_io.safetensors")
    head = load_attentive_classifier(FIXTURES / f"{name}_classifier.pt", heads=2)
    assert head.pooler.depth == (1 if name == "vjepa" else 4)
    with torch.no_grad():
        logits = head(expected["encoder_full"])
    torch.testing.assert_close(logits, expected["classifier_logits"], atol=1e-5, rtol=0)


def test_a_query_that_looks_is_cross_attention_with_keys_and_values():
    head = AttentiveHead(24, 5, heads=3).double()
    for p in head.parameters():
        torch.nn.init.normal_(p, std=0.5, generator=seeds.generator(0, "weights", *p.shape))
    tokens, block = normal(4, 7, 24).double() * 3 + 1, head.pooler.cross_attention_block
    x = block.norm1(tokens)
    k, v = block.xattn.kv(x).unflatten(-1, (2, 3, 8)).permute(2, 0, 3, 1, 4)
    q = block.xattn.q(head.pooler.query_tokens).expand(4, -1, -1).unflatten(-1, (3, 8))
    seen = F.scaled_dot_product_attention(q.transpose(1, 2), k, v).transpose(1, 2).flatten(2)
    pooled = head.pooler.query_tokens + seen
    truth = head.linear(pooled + block.mlp(block.norm2(pooled)))[:, 0]
    torch.testing.assert_close(head(tokens), truth, atol=1e-12, rtol=0)


def test_depth_counts_blocks_over_all_tokens_before_the_query():
    head = AttentiveHead(24, 5, heads=3, depth=3)
    tokens = normal(2, 6, 24)
    changed = tokens
    for block in head.pooler.blocks:
        changed = block(changed)
    shallow = AttentiveHead(24, 5, heads=3)
    shallow.load_state_dict({k: v for k, v in head.state_dict().items() if ".blocks." not in k})
    torch.testing.assert_close(head(tokens), shallow(changed))
    norms = [m for m in head.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}


def test_a_sharp_direction_picks_one_token():
    tokens = normal(3, 8, 5)
    direction = 1e4 * tokens[1, 6]
    best = (tokens @ tokens[1, 6]).argmax(dim=1)
    torch.testing.assert_close(look(tokens, direction[None])[:, 0], tokens[torch.arange(3), best])


@pytest.mark.parametrize(("depth", "heads"), [(1, (3, 3, 3)), (1, (3, 2)), (2, (3, 3))])
def test_reading_together_is_reading_alone_and_so_are_the_gradients(depth, heads):
    readers = [AttentiveHead(24, 5, heads=h, depth=depth).double() for h in heads]
    parameters = [p for reader in readers for p in reader.parameters()]
    with torch.no_grad():  # every norm and bias is another one
        for number, parameter in enumerate(parameters):
            parameter += 0.3 * normal(*parameter.shape, name=str(number)).double()
    tokens, weights = normal(2, 9, 24).double(), normal(len(heads), 2, 5).double()
    alone = torch.stack([reader(tokens) for reader in readers])
    (alone * weights).sum().backward()
    wanted = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    with side_by_side(readers) as read:
        together = read(tokens)
        (together * weights).sum().backward()
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close([parameter.grad for parameter in parameters], wanted)


def test_weights_lie_together_only_while_heads_are_read_together():
    """A head whose weights were still rows would take all others to disk with it."""
    heads = [AttentiveHead(24, 5, heads=3) for _ in range(3)]
    before = [head.linear.weight.clone() for head in heads]

    def held(head):
        return head.linear.weight.untyped_storage().nbytes() // head.linear.weight.nbytes

    with side_by_side(heads), torch.no_grad():
        assert {held(head) for head in heads} == {3}
        heads[1].linear.weight += 1
    assert {held(head) for head in heads} == {1}
    torch.testing.assert_close(heads[1].linear.weight, before[1] + 1)
    torch.testing.assert_close(heads[2].linear.weight, before[2])
    with side_by_side(heads[:1]):
        assert held(heads[0]) == 1


def test_files_that_do_not_fit_are_refused(tmp_path):
    linear = "module.linear.bias"
    missing = rewritten(tmp_path, "vjepa", lambda w: w.pop(linear))
    with pytest.raises(ValueError, match=r"missing 'linear\.bias'"):
        load_attentive_classifier(missing, heads=2)
    extra = rewritten(tmp_path, "vjepa2", lambda w: w.update({"module.more": torch.ones(1)}))
    with pytest.raises(ValueError, match="unexpected 'more'"):
        load_attentive_classifier(extra, heads=2)
    shape = rewritten(tmp_path, "vjepa2", lambda w: w.update({linear: torch.ones(4)}))
    with pytest.raises(ValueError, match=r"\(4,\), expected \(5,\)"):
        load_attentive_classifier(shape, heads=2)
    proj = "module.pooler.cross_attention_block.xattn.proj."
    both = {proj + "weight": torch.ones(64, 64), proj + "bias": torch.ones(64)}
    with pytest.raises(ValueError, match=r"unexpected .*xattn\.proj"):
        load_attentive_classifier(rewritten(tmp_path, "vjepa2", lambda w: w.update(both)), heads=2)


def test_what_to_type_is_said():
    path = FIXTURES / "vjepa2_classifier.pt"
    with pytest.raises(ValueError, match="pass heads="):
        load_attentive_classifier(path)
    with pytest.raises(ValueError, match=r"holds 1 classifier.*got 1"):
        load_attentive_classifier(path, heads=2, index=1)
    with pytest.raises(ValueError, match="no attentive classifier"):
        load_attentive_classifier(FIXTURES / "vjepa2_checkpoint.pt", heads=2)
    with pytest.raises(ValueError, match="heads that divide"):
        AttentiveHead(24, 5, heads=5)
