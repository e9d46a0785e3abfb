"""JEPA: the place where encoder, predictor and target meet."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.encoder import VisionTransformer
from jepa.patches import take
from jepa.predictor import Predictor
from jepa.shapes import Images, Masks
from jepa.target import EMATarget


@dataclass(frozen=True)
class JEPAOutput:
    """One forward pass.

    losses: named, reduced to scalars; training minimises their sum.
    context: what the encoder said of the visible tokens.
    predicted, target: the predictor's and the target encoder's latents at the target tokens.
    """

    losses: dict[str, Float[Tensor, ""]]
    context: Float[Tensor, "B Nc D"]
    predicted: Float[Tensor, "B M Nt D"]
    target: Float[Tensor, "B M Nt D"]


class JEPA(nn.Module):
    """I-JEPA (Assran et al. 2023): foresee the target encoder's latents of hidden blocks.

    The loss is the smooth L1 distance (beta 1), mean over all target tokens, to the
    layer-normalised latents of the target encoder, which sees the whole image.
    """

    def __init__(self, *, encoder: VisionTransformer, predictor: Predictor) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.target = EMATarget(encoder)

    def forward(self, images: Images, masks: Masks) -> JEPAOutput:
        target = take(self.target(images), masks.targets)
        context = self.encoder(images, masks.context)
        predicted = self.predictor(context, masks.context, masks.targets, self.encoder.grid(images))
        loss = F.smooth_l1_loss(predicted.float(), target)
        return JEPAOutput({"prediction": loss}, context, predicted, target)
