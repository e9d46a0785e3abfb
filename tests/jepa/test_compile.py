"""torch.compile sees a network whole: pieces run into its limit of recompilations."""

import subprocess
import sys

# in a process of its own: here beartype, which checks shapes in tests, would be traced as well
SCRIPT = """
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


def test_a_model_of_images_is_one_graph():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"], done.stdout + done.stderr
