"""torch.compile sees a network whole: pieces run into its limit of recompilations."""

import subprocess
import sys

import pytest

# in a process of its own: here beartype, which checks shapes in tests, would be traced as well
IMAGES = """
import torch
from jepa import seeds
from jepa.encoder import VisionTransformer
from jepa.masks import MultiBlockMasks
from jepa.model import JEPA
from jepa.predictor import Predictor

encoder = VisionTransformer(image_size=28, patch_size=7, channels=1, dim=32, depth=2, heads=2)
predictor = Predictor(encoder.dim, encoder.native_grid, dim=16, depth=1, heads=2)
model = JEPA(encoder=encoder, predictor=predictor)
masks = MultiBlockMasks(min_keep=4).sample(encoder.native_grid, 2, seeds.generator(0, "masks"))
seen = torch._dynamo.explain(model)(torch.randn(2, 1, 28, 28), masks)
print(seen.graph_count, *(str(reason.reason) for reason in seen.break_reasons[:1]))
"""


CLIPS = """
import torch
from jepa.encoder import VisionTransformer

def gradients(call):
    encoder.zero_grad()
    out = call(clips, keep)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in encoder.parameters())]

torch.manual_seed(0)
size = dict(image_size=16, patch_size=8, frames=4, tubelet_size=2, channels=1)
encoder = VisionTransformer(**size, dim=24, depth=2, heads=2, positions="rope")
clips, keep = torch.randn(2, 1, 4, 16, 16), torch.tensor([[0, 3, 5], [1, 2, 7]])
seen = torch._dynamo.explain(encoder)(clips, keep)
torch._dynamo.reset()
compiled = gradients(torch.compile(encoder, backend="aot_eager"))
for a, b in zip(gradients(encoder), compiled, strict=True):
    assert torch.allclose(a, b, atol=1e-5), (a - b).abs().max()
print(seen.graph_count, *(str(reason.reason) for reason in seen.break_reasons[:1]))
"""


@pytest.mark.parametrize("script", [IMAGES, CLIPS], ids=["images", "clips"])
def test_a_model_is_one_graph(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"], done.stdout + done.stderr
