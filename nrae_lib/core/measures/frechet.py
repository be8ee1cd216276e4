"""The Frechet distance of two sets of images, in the features of an Inception network (FID)."""

import os
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from nrae_lib.core.extras import library
from nrae_lib.core.points import as_floats, check_points

FID_WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"


class FidWeightsMissing(FileNotFoundError):
    """The file of weights that FID needs is not on this machine."""


def frechet_distance(mean_a, covariance_a, mean_b, covariance_b) -> float:
    r"""Squared Frechet distance of two Gaussians; of Inception features, it is the FID.

    .. math:: \lVert \mu_a - \mu_b \rVert^2 + \operatorname{tr}\big(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2}\big)

    Of (D,) means and (D, D) covariances, tensors or arrays, in float64; ValueError if shapes do not match or a value is
    not finite. The trace of the root is the sum of the singular values of :math:`\Sigma_a^{1/2} \Sigma_b^{1/2}`, which
    are exact to rounding also for singular covariances (fewer samples than features), unlike roots of eigenvalues.

    Source: Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, NeurIPS 2017; Dowson and Landau,
    *The Fréchet distance between multivariate normal distributions*, 1982.
    """
    moments = [torch.as_tensor(moment).double() for moment in (mean_a, covariance_a, mean_b, covariance_b)]
    mean_a, covariance_a, mean_b, covariance_b = moments
    shapes, dimension = [tuple(moment.shape) for moment in moments], mean_a.numel()
    if dimension == 0 or shapes != [(dimension,), (dimension, dimension)] * 2:
        raise ValueError(f"two means (D,) and two covariances (D, D) are needed, not shapes {shapes}")
    if not all(torch.isfinite(moment).all() for moment in moments):
        raise ValueError("a mean or covariance holds NaN or infinite values")
    root = torch.linalg.svdvals(_root(covariance_a).T @ _root(covariance_b)).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * root
    return max(float(distance), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """R with R Rᵀ = Σ; eigenvalues below the rounding error count as zero, because their roots would not be small."""
    values, vectors = torch.linalg.eigh(covariance)
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors * torch.where(values > rounding, values, 0).sqrt()


def fid(reconstructions: Tensor, originals: Tensor, device: torch.device | str = "cpu", **options) -> float:
    """Frechet Inception Distance of two sets of images, as pytorch-fid gives it for folders of PNG files (Table 2).

    :func:`frechet_distance` of the means and covariances (divided by N - 1) of :func:`inception_features`, with the
    options and errors of that function, of at least two images each. Biased upward for few images: compare equal numbers only.
    Source: NRAE, supplement, section 2.4: "We measure the FID score with a provided model from pytorch-fid".
    """
    moments = []
    for images in (reconstructions, originals):
        features = inception_features(images, device, **options).double()
        if len(features) < 2:
            raise ValueError("the FID needs at least two images of either kind, because one has no covariance")
        moments += [features.mean(0), torch.cov(features.T)]
    return frechet_distance(*moments)


@torch.no_grad()
def inception_features(
    images: Tensor, device: torch.device | str = "cpu", weights: Path | None = None, block: int = 50, dims: int = 2048
) -> Tensor:
    r"""(N, dims) float32 features, on the CPU, of pytorch-fid's InceptionV3, a port of the network that FID was defined with.

    Images are first rounded to bytes as in a PNG file, :math:`\lfloor 255 x + \tfrac12 \rfloor` in 0..255, and grey ones
    get three equal channels; the network scales them to 299 × 299 itself. Nothing is ever downloaded.
    FidWeightsMissing, ImportError without the weights, or the package pytorch-fid; ValueError for images of another
    shape or that are not finite, and another number of features.

    Arguments:
        images: (N, 3, H, W), (N, 1, H, W) or (N, H, W), with values in [0, 1], or bytes; ``block`` of them at once.
        weights: the file of weights; None: that of the environment variable NRAE_FID_WEIGHTS, or of torch hub's cache.
        dims: 2048, the last pooling layer (what FID means), or an earlier one, averaged over the image: 64, 192 or 768.
    """
    images = images[:, None] if images.dim() == 3 else images
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must have shape (N, 3, H, W), (N, 1, H, W) or (N, H, W), not {tuple(images.shape)}")
    check_points(images, "set of images")
    network, features = _inception(weights, dims).to(device), []
    for part in images.split(block):
        part = part.to(device)
        if part.dtype != torch.uint8:
            part = (part.float() * 255 + 0.5).clamp(0, 255).to(torch.uint8)
        features.append(network(as_floats(part).expand(-1, 3, -1, -1))[0].mean((2, 3)).cpu())
    return torch.cat(features)


def _inception(weights: Path | None, dims: int) -> nn.Module:
    path = Path(weights or os.environ.get("NRAE_FID_WEIGHTS") or f"{torch.hub.get_dir()}/checkpoints/{FID_WEIGHTS}")
    if not path.is_file():
        remedy = "put it there, or set NRAE_FID_WEIGHTS to its path"
        raise FidWeightsMissing(f"FID needs pytorch-fid's file {FID_WEIGHTS}, but {path} does not exist: {remedy}")
    inception = library("pytorch_fid.inception", "pytorch-fid", "FID needs", "images")
    found = inception.InceptionV3.BLOCK_INDEX_BY_DIM
    if dims not in found:
        raise ValueError(f"Inception has no layer of {dims} features: choose one of {', '.join(map(str, found))}")
    # Its constructor would download the weights; everything else about the network is better left to it.
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: loaded):
        return inception.InceptionV3([found[dims]]).eval()
