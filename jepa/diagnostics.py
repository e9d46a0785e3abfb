"""Is the representation collapsing, and how rich is it? Numbers that need no labels.

What rests on small eigenvalues is computed in float64, on the CPU (not every device has it), from
the distances or covariances of all the features that are given: nothing is drawn.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 4_000_000  # distances in one block of `uniformity`


def feature_std(features: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Standard deviation over samples, mean over dimensions; 0 when all features are one point."""
    return features.float().std(dim=0, correction=0).mean()


def rankme(features: Float[Tensor, "N D"], epsilon: float = 1e-7) -> Float[Tensor, ""]:
    """Effective rank: exp of the entropy of the singular values, normalised to sum 1.

    RankMe (Garrido et al. 2023, arXiv:2210.02885, equation 1), on uncentred features. Between
    1 and min(N, D); NaN where a feature is NaN or infinite.
    """
    if not features.isfinite().all():
        return features.new_full((), torch.nan, dtype=torch.float32)
    return _effective_rank(torch.linalg.svdvals(features.float()), epsilon)


def lidar(
    views: Float[Tensor, "N V D"], *, delta: float = 1e-4, epsilon: float = 1e-7
) -> Float64[Tensor, ""]:
    """Effective rank of what tells images apart, measured against what augmentation changes.

    LiDAR (Thilak et al. 2024, arXiv:2312.04000, section 4): each image is a class of its own and
    its augmented views are the samples. With Sigma_b the covariance of the class means and
    Sigma_w that within the classes, plus `delta` on its diagonal, it is the exp of the entropy of
    the eigenvalues of Sigma_w^-1/2 Sigma_b Sigma_w^-1/2, normalised to sum 1. Between 1 and
    min(N - 1, D). All means are plain means (over N, and over N V).

    Args:
        views: features of V >= 2 augmented views of each of N >= 2 images; the paper takes
            N = 1000 and V = 50, or 10 where the features are of a JEPA.
        delta: a variance, in the units of the features squared.
        epsilon: added to each normalised eigenvalue.
    """
    images, count, dim = views.shape
    if images < 2 or count < 2 or delta <= 0:
        raise ValueError(
            "LiDAR needs at least 2 images of at least 2 views and delta > 0; "
            f"got {images} images of {count} views, delta={delta}"
        )
    x = _exact(views)
    means = x.mean(dim=1)
    spread = (x - means[:, None]).flatten(0, 1)
    within = spread.T @ spread / len(spread) + delta * torch.eye(dim, dtype=x.dtype)
    between = (means - means.mean(dim=0)).T / images**0.5
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), between, upper=False)
    return _effective_rank(torch.linalg.svdvals(whitened).square(), epsilon)


def feature_spectrum(features: Float[Tensor, "N D"]) -> Float64[Tensor, "R"]:
    """Singular values of the features as they are, descending; R = min(N, D). RankMe's."""
    return torch.linalg.svdvals(_exact(features))


def covariance_spectrum(features: Float[Tensor, "N D"]) -> Float64[Tensor, "R"]:
    """Variances along the principal axes (mean over N), descending; R = min(N, D)."""
    x = _exact(features)
    return torch.linalg.svdvals(x - x.mean(dim=0)).square() / len(x)


def alpha_req(
    features: Float[Tensor, "N D"], *, first: int = 5, last: int | None = None
) -> Float64[Tensor, ""]:
    """How fast the variances fall: alpha of lambda_i ~ i^-alpha, i = 1 the largest.

    alpha-ReQ (Agrawal et al. 2022, NeurIPS): near 1 is good; far above, few directions hold
    everything; near 0, noise fills all. The line is fitted by least squares to log lambda_i over
    log i, weighted by 1/i as the eigenspectra of Stringer et al. 2019 are, so that every octave
    of i counts alike. The fit depends on its range: say it beside the number.

    Args:
        first, last: the range of i, both included; None: min(100, half the variances that are
            there). The first few do not follow the law, the last few are those of the noise.
    """
    values = covariance_spectrum(features)
    there = int((values > len(values) * torch.finfo(values.dtype).eps * values[0]).sum())
    last = min(100, there // 2) if last is None else last
    if not 1 <= first < last <= there:
        raise ValueError(
            "expected 1 <= first < last <= the number of variances above 0; "
            f"got first={first}, last={last}, {there} variances"
        )
    i = torch.arange(first, last + 1, dtype=values.dtype)
    x, y, weight = i.log(), values[first - 1 : last].log(), 1 / i / (1 / i).sum()
    x, y = x - weight @ x, y - weight @ y
    return -(weight * x) @ y / ((weight * x) @ x)


def alignment(
    one: Float[Tensor, "N D"], other: Float[Tensor, "N D"], *, alpha: float = 2.0
) -> Float64[Tensor, ""]:
    """Mean |u - v|^alpha over the unit features of two views of each image; 0 is perfect.

    Wang & Isola 2020 (arXiv:2005.10242), section 4.1.1.
    """
    distance = (_on_sphere(one) - _on_sphere(other)).norm(dim=1)
    return distance.pow(alpha).mean()


def uniformity(features: Float[Tensor, "N D"], *, t: float = 2.0) -> Float64[Tensor, ""]:
    """log of the mean of exp(-t |u - v|^2) over all pairs of different rows, as unit features.

    Wang & Isola 2020 (arXiv:2005.10242), section 4.1.2. 0 when all are one point, about -2 t when
    they are spread over a sphere of many dimensions.
    """
    u = _on_sphere(features)
    if len(u) < 2:
        raise ValueError(f"uniformity is of pairs: expected at least 2 features; got {len(u)}")
    length, total = u.square().sum(dim=1), u.new_zeros(())
    rows = max(1, _BLOCK // len(u))
    for start in range(0, len(u), rows):
        near = slice(start, start + rows)
        distance = (length[near, None] + length - 2 * u[near] @ u.T).clamp_min(0)
        distance.diagonal(start).fill_(torch.inf)
        total += torch.exp(-t * distance).sum()
    return (total / (len(u) * (len(u) - 1))).log()


def _effective_rank(values: Float[Tensor, "R"], epsilon: float) -> Float[Tensor, ""]:
    """exp of the entropy of the values over their sum, `epsilon` added to each share."""
    share = values / values.sum().clamp_min(torch.finfo(torch.float32).tiny) + epsilon
    return torch.exp(-(share * share.log()).sum())


def _exact(features: Float[Tensor, "N *V D"]) -> Float64[Tensor, "N *V D"]:
    return features.detach().cpu().double()


def _on_sphere(features: Float[Tensor, "N D"]) -> Float64[Tensor, "N D"]:
    return F.normalize(_exact(features), dim=1)
