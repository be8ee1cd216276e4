"""Points along a curve and their one-dimensional codes (Figures 4 and 7, Table 1)."""

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core import measures
from nrae_lib.data.datasets import Dataset

_CURVE_POINTS = 200


@torch.no_grad()
def learned_curve(model: nn.Module, train: Tensor, points: int) -> Tensor:
    """The learned manifold of a one-dimensional latent space: f on an even grid over the training codes' range.

    Returns:
        (points, D).
    """
    code = model.encoder(train)
    fractions = torch.linspace(0, 1, points, device=code.device)[:, None]
    return model.decoder(code.min() + (code.max() - code.min()) * fractions)


@torch.no_grad()
def curve(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Order of the codes and turning of the learned curve; nothing if positions are unknown or codes are not on a line.

    Returns:
        metrics rank_correlation, train_rank_correlation, order_breaks, total_turning; arrays curve (200, D), code (N,),
        reconstruction (at most 1000, D) of evenly spaced test points and their test_position.
    """
    if data.test_position is None:
        return {}, {}
    device = next(model.parameters()).device
    train, test = data.train.to(device), data.test.to(device)
    code = model.encoder(train)
    if code.shape[1] != 1:
        return {}, {}
    # Even spacing makes the measure independent of how many test points there are.
    some = torch.linspace(0, len(test) - 1, min(len(test), 1000)).long()
    test_code = model.encoder(test[some])[:, 0].cpu()
    learned = learned_curve(model, train, _CURVE_POINTS)
    metrics = {
        "rank_correlation": measures.rank_correlation(test_code, data.test_position[some]),
        "train_rank_correlation": measures.rank_correlation(code[:, 0].cpu(), data.train_position),
        "order_breaks": float(measures.order_breaks(test_code, data.test_position[some])),
        "total_turning": measures.total_turning(learned.flatten(1)),
    }
    arrays = {
        "curve": learned,
        "code": code[:, 0],
        "reconstruction": model(test[some]),
        "test_position": data.test_position[some],
    }
    return metrics, {name: value.cpu().numpy().astype(np.float32) for name, value in arrays.items()}
