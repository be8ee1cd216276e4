"""All private API of PyTorch that this library uses, and the settings that its releases name differently.

Each use of private API is probed at import, because a release may drop or change it without notice, and has a plain
fallback with the same result, which is slower.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


def _works(probe: Callable[[], object]) -> bool:
    try:
        probe()
    except (AttributeError, RuntimeError, TypeError):  # gone, not built for this processor, or called in another way
        return False
    return True


def _onednn(left: Tensor, right: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


def _has_hooks(layer: nn.Module) -> bool:
    own = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return bool(own) or nn.modules.module._has_any_global_hook()


HAS_ONEDNN = torch.backends.mkldnn.is_available() and _works(lambda: _onednn(torch.ones(32, 32), torch.ones(32, 32)))
HAS_HOOKS = _works(lambda: _has_hooks(nn.Identity()))
HAS_TRANSFORMS = _works(lambda: torch._C._are_functorch_transforms_active())


def product(left: Tensor, right: Tensor) -> Tensor:
    """left rightᵀ of matrices (a, n) and (b, n), by oneDNN where it is faster than ``torch.mm``. On AMD processors with
    AVX-512, MKL, which serves ``torch.mm``, is slower than oneDNN; small products do not repay what oneDNN has to
    prepare."""
    if HAS_ONEDNN and left.device.type == "cpu" and left.dtype == torch.float32 and min(*left.shape, len(right)) >= 32:
        return _onednn(left, right)
    return torch.mm(left, right.t())


def may_have_hooks(layer: nn.Module) -> bool:
    """Whether a call of ``layer`` may run hooks, its own or global ones; True where PyTorch does not tell."""
    return not HAS_HOOKS or _has_hooks(layer)


def may_be_transformed() -> bool:
    """Whether this may be inside a transform of ``torch.func``, such as ``vmap``; True where PyTorch does not tell."""
    # What torch.autograd.Function.apply asks.
    return not HAS_TRANSFORMS or torch._C._are_functorch_transforms_active()


@contextmanager
def float32_products(device: torch.device, exact: bool) -> Iterator[None]:
    """Products of float32 on ``device`` as such, or with faster factors (TF32); the process's settings are put back."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    with ExitStack() as undo:
        if hasattr(cudnn, "conv"):  # since torch 2.9, where reading the older settings raises if somebody used these
            for part in (cuda.matmul, cudnn.conv) if device.type == "cuda" else (mkldnn.matmul,):
                undo.callback(setattr, part, "fp32_precision", part.fp32_precision)
                part.fp32_precision = "ieee" if exact else "tf32"
        else:
            undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            undo.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
            torch.set_float32_matmul_precision("highest" if exact else "high")
            cudnn.allow_tf32 = not exact
        yield
