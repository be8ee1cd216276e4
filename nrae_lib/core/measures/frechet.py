"""The Frechet distance of two sets of images, in the features of an Inception network (FID)."""

import os
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

FID_WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"


class FidWeightsMissing(FileNotFoundError):
    """The file of weights that FID needs is not on this machine."""


def frechet_distance(mean_a, covariance_a, mean_b, covariance_b) -> float:
    r"""Squared Frechet distance of two Gaussians; of Inception features, it is the FID.

    .. math:: \lVert \mu_a - \mu_b \rVert^2 + \operatorname{tr}\big(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2}\big)

    Computed in float64. The trace of the root is the sum of the singular values of
    :math:`\Sigma_a^{1/2} \Sigma_b^{1/2}`: their squares are the eigenvalues of the symmetric
    :math:`\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2}`, but for singular covariances (fewer samples than features) they are
    exact to rounding, where roots of eigenvalues are exact to its square root only. Nothing becomes complex and nothing
    is added to a diagonal.

    Arguments:
        mean_a, mean_b: (D,) tensors or arrays.
        covariance_a, covariance_b: (D, D) symmetric and positive semidefinite.

    Raises:
        ValueError: if shapes do not match, a value is not finite, or a covariance is not symmetric or has a negative
            variance.

    Source: Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, NeurIPS 2017; Dowson and Landau,
    *The Fréchet distance between multivariate normal distributions*, 1982.

    Example:
        >>> round(frechet_distance(torch.zeros(2), torch.eye(2), torch.ones(2), 4 * torch.eye(2)), 6)
        4.0
    """
    moments = [torch.as_tensor(moment).double() for moment in (mean_a, covariance_a, mean_b, covariance_b)]
    mean_a, covariance_a, mean_b, covariance_b = moments
    shapes, dimension = [tuple(moment.shape) for moment in moments], mean_a.numel()
    if shapes != [(dimension,), (dimension, dimension)] * 2:
        raise ValueError(f"two means (D,) and two covariances (D, D) are needed, not shapes {shapes}")
    if not all(torch.isfinite(moment).all() for moment in moments):
        raise ValueError("a mean or covariance holds NaN or infinite values")
    for covariance in (covariance_a, covariance_b):
        scale = covariance.abs().max() if dimension else 1.0
        if not torch.allclose(covariance, covariance.T, rtol=0, atol=1e-8 * scale) or (covariance.diagonal() < 0).any():
            raise ValueError("a covariance must be symmetric, with no negative variance")
    root = torch.linalg.svdvals(_root(covariance_a).T @ _root(covariance_b)).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * root
    return max(float(distance), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """R with R Rᵀ = Σ; eigenvalues below the rounding error count as zero, because their roots would not be small."""
    values, vectors = torch.linalg.eigh(covariance)
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors * torch.where(values > rounding, values, 0).sqrt()


def fid(
    reconstructions: Tensor,
    originals: Tensor,
    device: torch.device | str = "cpu",
    weights: str | Path | None = None,
    block: int = 50,
    dims: int = 2048,
) -> float:
    """Frechet Inception Distance of two sets of images, as pytorch-fid gives it for folders of PNG files (Table 2).

    :func:`frechet_distance` of the means and covariances (divided by N - 1) of :func:`inception_features`. It is
    biased upward for few images. Fewer images than features, 2,048, leave singular covariances: the value is still
    well defined here, but pytorch-fid's own loses digits, and values of different N must not be compared.

    Arguments:
        reconstructions, originals: images as for :func:`inception_features`, at least two each; their numbers may differ.
        device, weights, block, dims: as for :func:`inception_features`.

    Raises:
        FidWeightsMissing: if the weights are not on this machine; nothing is ever downloaded.
        ImportError: without the package pytorch-fid.
        ValueError: for images of another shape, and for fewer than two.

    Source: NRAE, supplement, section 2.4: "We measure the FID score with a provided model from pytorch-fid".
    """
    network = _inception(weights, dims).to(device)
    sets = [feature_moments(_features(network, images, device, block)) for images in (reconstructions, originals)]
    return frechet_distance(*sets[0], *sets[1])


def inception_features(
    images: Tensor,
    device: torch.device | str = "cpu",
    weights: str | Path | None = None,
    block: int = 50,
    dims: int = 2048,
) -> Tensor:
    r"""Features of pytorch-fid's InceptionV3, a port of the network that FID was defined with.

    Images are first rounded to bytes as in a PNG file, :math:`\lfloor 255 x + \tfrac12 \rfloor` in 0..255, and grey ones
    get three equal channels. The network scales them to 299 × 299 itself.

    Arguments:
        images: (N, 3, H, W), (N, 1, H, W) or (N, H, W), with values in [0, 1], or bytes.
        device: where the network runs.
        weights: the file of weights; None: the one that the environment variable NRAE_FID_WEIGHTS names, or else
            torch hub's cache, where pytorch-fid itself looks.
        block: how many images at once.
        dims: 2048, the last pooling layer (what FID means), or an earlier one, averaged over the image: 64, 192 or 768.

    Returns:
        (N, dims) float32 on the CPU.

    Raises:
        FidWeightsMissing: if the weights are not on this machine; nothing is ever downloaded.
        ImportError: without the package pytorch-fid.
        ValueError: for images of another shape, and another number of features.
    """
    return _features(_inception(weights, dims).to(device), images, device, block)


def feature_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) mean and (D, D) covariance, divided by N - 1, of (N, D) features, in float64.

    Raises:
        ValueError: for fewer than two rows.
    """
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(f"a covariance needs at least two rows of features, not {tuple(features.shape)}")
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1)


@torch.no_grad()
def _features(network: nn.Module, images: Tensor, device, block: int) -> Tensor:
    images = images[:, None] if images.dim() == 3 else images
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must have shape (N, 3, H, W), (N, 1, H, W) or (N, H, W), not {tuple(images.shape)}")
    features = []
    for part in images.split(block):
        part = part.to(device)
        if part.dtype != torch.uint8:
            part = (part.float() * 255 + 0.5).clamp(0, 255).to(torch.uint8)
        pooled = network(part.float().div_(255).expand(-1, 3, -1, -1))[0].mean((2, 3))
        features.append(pooled.cpu())
    return torch.cat(features)


def _inception(weights: str | Path | None, dims: int) -> nn.Module:
    path = Path(weights or os.environ.get("NRAE_FID_WEIGHTS") or f"{torch.hub.get_dir()}/checkpoints/{FID_WEIGHTS}")
    if not path.is_file():
        raise FidWeightsMissing(
            f"FID needs pytorch-fid's file {FID_WEIGHTS}, but {path} does not exist: put it there, or set "
            "NRAE_FID_WEIGHTS to its path"
        )
    try:
        from pytorch_fid import inception
    except ImportError as error:
        raise ImportError("FID needs the package pytorch-fid: pip install 'nrae-lib[images]'") from error
    blocks = inception.InceptionV3.BLOCK_INDEX_BY_DIM
    if dims not in blocks:
        raise ValueError(f"Inception has no layer of {dims} features: choose one of {', '.join(map(str, blocks))}")

    def load(*_, **__):
        return torch.load(path, map_location="cpu", weights_only=True)

    # Its constructor would download the weights; everything else about the network is better left to it.
    with mock.patch.object(inception, "load_state_dict_from_url", load):
        return inception.InceptionV3([blocks[dims]]).eval()
