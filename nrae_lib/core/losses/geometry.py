"""Terms on the derivatives of encoder and decoder, and on their weights.

J_f is the (D, m) Jacobian of the decoder f: (B, m) -> (B, ...), J_g the (m, D) Jacobian of the encoder g: (B, ...) -> (B, m),
per sample and with the data flattened. The networks must treat the samples of a batch independently; batch normalization in
training mode does not. ``normal`` is the source of randomness: a function that gives standard normal numbers of the shape,
type and device of its argument. Directions are drawn uniformly from the unit sphere S^{m-1}: ±1 for m = 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from nrae_lib.core.taylor import taylor

Function = Callable[[Tensor], Tensor]
_WEIGHTED = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def random_directions(like: Tensor, normal: Function) -> Tensor:
    """One direction for each row of ``like``, (B, m)."""
    return nn.functional.normalize(normal(like), dim=-1)


def _squared_norm(tensor: Tensor, start: int = 1) -> Tensor:
    """‖·‖² over all dimensions from ``start`` on."""
    return tensor.flatten(start).square().sum(start)


def encoder_contraction(encoder: Function, x: Tensor, normal: Function | None = None) -> Tensor:
    """Contractive penalty: mean over the batch of ‖J_g(x)‖_F² (Rifai et al., *Contractive Auto-Encoders*, ICML 2011).

    Arguments:
        encoder, x: g and (B, ...).
        normal: for the unbiased estimate ‖uᵀ J_g(x)‖² with one u ~ N(0, I_m) per point, by a single vector-Jacobian
            product. None for the exact norm, by m of them.
    """
    z, pull = torch.func.vjp(encoder, x)
    if normal is not None:
        return _squared_norm(pull(normal(z))[0]).mean()
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return sum(_squared_norm(pull(unit.expand_as(z))[0]).mean() for unit in basis)


def decoder_jacobian_norm(decoder: Function, z: Tensor, normal: Function | None = None) -> Tensor:
    """Gradient penalty of RAE-GP: mean over the batch of ‖J_f(z)‖_F², a sum over the D features (Ghosh et al. 2020).

    Released codes compute other things: see :func:`energy_gradient_norm`.

    Arguments:
        decoder, z: f and (B, m), which has gradients too.
        normal: for the unbiased estimate ‖J_f(z) u‖² with one u ~ N(0, I_m) per code. None for the exact norm, by m
            directions through the decoder at once.
    """
    if normal is not None:
        return _squared_norm(taylor(decoder, z, normal(z), 1).first).mean()
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    columns = taylor(decoder, z, basis[:, None].expand(-1, len(z), -1), 1).first
    return _squared_norm(columns, 2).sum(0).mean()


def energy_gradient_norm(decoder: Function, z: Tensor) -> Tensor:
    """What the released code of RAE-GP penalizes: mean over batch and k of (∂ Σ_p f_p(z)² / ∂z_k)².

    Not the paper's ‖J_f‖_F² (:func:`decoder_jacobian_norm`): it vanishes wherever ‖f(z)‖ is constant.

    Arguments:
        decoder, z: f and (B, m), which has gradients too.
    """
    energy, pull = torch.func.vjp(lambda code: _squared_norm(decoder(code)), z)
    return pull(torch.ones_like(energy))[0].square().mean()


def isometry(decoder: Function, z: Tensor, normal: Function, eps: float = 1e-12) -> Tensor:
    """Isometry of the decoder: mean over the batch of (‖J_f(z) u‖ - 1)², one random direction u per code.

    Gropp, Atzmon and Lipman, *Isometric Autoencoders*, 2020, equation 6. The norm is over all D features.

    Arguments:
        decoder, z: f and (B, m) codes of any origin; they are constants here, the term trains the decoder only.
        eps: added under the root, for a finite gradient where J_f u = 0.
    """
    z = z.detach()
    stretched = taylor(decoder, z, random_directions(z, normal), 1).first
    return _deviation_from_one(stretched, eps)


def pseudo_isometry(encoder: Function, x: Tensor, normal: Function, eps: float = 1e-12) -> Tensor:
    """Pseudo-isometry of the encoder: mean over the batch of (‖uᵀ J_g(x)‖ - 1)², one random direction u per point.

    Gropp, Atzmon and Lipman, *Isometric Autoencoders*, 2020, equation 7: zero if J_g has orthonormal rows.

    Arguments:
        encoder, x: g and (B, ...).
        eps: added under the root, for a finite gradient where uᵀ J_g = 0.
    """
    z, pull = torch.func.vjp(encoder, x)
    return _deviation_from_one(pull(random_directions(z, normal))[0], eps)


def _deviation_from_one(vectors: Tensor, eps: float) -> Tensor:
    return ((_squared_norm(vectors) + eps).sqrt() - 1).square().mean()


def weight_norm(network: nn.Module) -> Tensor:
    """Weight decay as a loss: Σ w² over the weights, not the biases, of all linear and convolution layers, without ½.

    On the decoder it is the term of RAE-L2 and AE-L2 (Ghosh et al. 2020), on the whole network that of AEW. With a
    parametrization, such as spectral normalization, the weights are those in use; tied weights count once.

    Raises:
        ValueError: if there is no such layer.
    """
    weights = {}
    for layer in network.modules():
        if isinstance(layer, _WEIGHTED):
            learned = layer.parametrizations.weight.original if is_parametrized(layer, "weight") else layer.weight
            weights.setdefault(id(learned), layer.weight)
    if not weights:
        raise ValueError("the network has no linear or convolution layer, so there are no weights to decay")
    return sum(weight.square().sum() for weight in weights.values())
