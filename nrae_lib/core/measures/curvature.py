"""Intrinsic curvature of the decoded manifold."""

from collections.abc import Callable

import torch
from torch import Tensor

from nrae_lib.core.points import check_finite
from nrae_lib.core.taylor import taylor


@torch.no_grad()
def scalar_curvature(decoder: Callable[[Tensor], Tensor], z: Tensor, block: int = 1024) -> Tensor:
    r"""Scalar curvature of the decoded manifold at the points f(z), (N,), by the Gauss equation.

    With :math:`G = J^\top J`, :math:`g^{ab}` its inverse and :math:`\mathrm{II}_{ab}` the part of
    :math:`\partial_a \partial_b f` that is normal to the manifold,

    .. math:: R = \sum_{abcd} g^{ac} g^{bd} \big(\langle \mathrm{II}_{ac}, \mathrm{II}_{bd} \rangle
              - \langle \mathrm{II}_{ad}, \mathrm{II}_{bc} \rangle\big)

    (do Carmo, *Riemannian Geometry*, 1992, chapter 6, theorem 2.5, traced twice). A surface (m = 2) has R = 2K, twice
    the Gaussian curvature; a curve has 0, a decoder without curved layers (ReLU) 0 almost everywhere. The unit is 1 /
    (unit of the data)²: a sphere of radius r has 2 / r². Float64 is recommended: R is a difference of products of
    second derivatives. NaN where f is no immersion to rounding: where det G <= 10 · rounding unit · (tr G / m)ᵐ.

    Arguments:
        decoder: f, (B, m) -> (B, ...), a network or any function that :func:`nrae_lib.core.taylor.taylor` differentiates.
        z: (N, m) codes, of the decoder's type and on its device, ``block`` at once; ValueError for others.

    Example:
        >>> scalar_curvature(lambda z: torch.cat([z, z.square().sum(1, keepdim=True)], 1), torch.zeros(1, 2)).tolist()
        [8.0]
    """
    if z.dim() != 2 or z.numel() == 0:
        raise ValueError(f"codes must be a matrix (N, m), not of shape {tuple(z.shape)}")
    check_finite(z, "codes")
    return torch.cat([_of_block(decoder, part) for part in z.split(block)])


def _of_block(decoder: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    count, m = z.shape
    axes = torch.eye(m, dtype=z.dtype, device=z.device)
    a, b = torch.triu_indices(m, m, offset=1, device=z.device)
    directions = torch.cat([axes, axes[a] + axes[b]])  # mixed derivatives follow from their sums, by polarization
    jet = taylor(decoder, z, directions[:, None].expand(-1, count, -1).contiguous(), order=2)
    jacobian = jet.first[:m].flatten(2).transpose(0, 1)  # (B, m, D)
    hessian = jacobian.new_zeros(count, m, m, jacobian.shape[2])
    if jet.second is not None:
        second = jet.second.flatten(2).transpose(0, 1)
        diagonal = torch.arange(m, device=z.device)
        hessian[:, diagonal, diagonal] = second[:, :m]
        hessian[:, a, b] = hessian[:, b, a] = (second[:, m:] - second[:, a] - second[:, b]) / 2
    metric = jacobian @ jacobian.mT
    scale = metric.diagonal(dim1=1, dim2=2).mean(1)
    # Of the metric in units of its own scale, because the determinant of a small one would underflow.
    relative = torch.linalg.det(metric / scale[:, None, None])
    regular = relative > 10 * torch.finfo(metric.dtype).eps  # also false for NaN
    inverse = torch.linalg.inv_ex(torch.where(regular[:, None, None], metric, axes)).inverse
    tangent = torch.einsum("nabd,ned,nec->nabc", hessian, jacobian, inverse)
    normal = hessian - torch.einsum("nabc,ncd->nabd", tangent, jacobian)
    shape = torch.einsum("nac,ncbd->nabd", inverse, normal)
    mean = torch.einsum("naad->nd", shape)
    curvature = mean.square().sum(1) - torch.einsum("nabd,nbad->n", shape, shape)
    return torch.where(regular, curvature, torch.nan)
