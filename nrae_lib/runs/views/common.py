"""Going through many points in blocks of bounded memory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nrae_lib.core.points import as_floats

# Values (points x features) that pass through a network at a time.
_BLOCK_VALUES = 2**22


@torch.no_grad()
def _in_blocks(function: Callable[[Tensor], Tensor], points: Tensor, values: int, device: torch.device) -> Tensor:
    size = max(1, _BLOCK_VALUES // max(1, values))
    return torch.cat([function(as_floats(part.to(device))).cpu() for part in points.split(size)])


def encode(model: nn.Module, points: Tensor) -> Tensor:
    """(N, m) codes of ``points``, on the CPU; the points may be uint8 images and may lie on any device."""
    return _in_blocks(model.encoder, points, points[0].numel(), next(model.parameters()).device)


def decode(model: nn.Module, codes: Tensor, features: int) -> Tensor:
    """(N, ...) decoded ``codes``, on the CPU; ``features`` is the number of values of one decoded point."""
    return _in_blocks(model.decoder, codes, features, next(model.parameters()).device)
