r"""Value, first and second directional derivative of a network in one pass (Taylor mode).

Along the line :math:`z + t v` a network has the expansion
:math:`f(z + t v) = f(z) + t\,J_f(z) v + \tfrac{t^2}{2}\, v^\top H_f(z) v + \dots`.
The three coefficients travel through the network together: a linear layer multiplies all of them by its weight in one
product, an activation :math:`s` applies the chain rule to each coefficient :math:`a_0, a_1, a_2`,

.. math:: s(a_0), \qquad s'(a_0)\,a_1, \qquad s'(a_0)\,a_2 + s''(a_0)\,a_1^2,

and a coefficient that is exactly zero (the second one, until a smooth activation creates it) is never computed.

References:
    Lee et al., Neighborhood Reconstructing Autoencoders, 2021, equations 1 and 2: the local approximations built here.
    Griewank and Walther, Evaluating Derivatives, 2008, chapter 13: Taylor-mode differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby, islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from nrae_lib.core import private


class Jet(NamedTuple):
    """Coefficients of a network along a direction; ``None`` means exactly zero and never computed."""

    value: Tensor
    first: Tensor | None
    second: Tensor | None

    def expansion(self) -> Tensor:
        r"""The Taylor polynomial at the end of the direction, :math:`f(z) + J_f(z) v + \tfrac12 v^\top H_f(z) v`. This
        is the local approximation :math:`\tilde F` of NRAE with :math:`v = z' - z`: linear (NRAE-L) for a jet of order
        1, quadratic (NRAE-Q) for order 2. Shape: that of ``first``, or of ``value`` at order 0."""
        total = self.value
        if self.first is not None:
            total = total + self.first
        if self.second is not None:
            total = total.add(self.second, alpha=0.5)
        return total


def taylor(network: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, order: int) -> Jet:
    r"""Evaluate :math:`f(z)`, :math:`J_f(z) v` and :math:`v^\top H_f(z) v` (not halved) in one pass.

    Nested Sequentials of ``Linear``, ``Conv2d``, ``ConvTranspose2d``, ``ReLU``, ``ELU``, ``Softplus``, ``Sigmoid``,
    ``Tanh``, ``Flatten``, ``Unflatten`` and ``Identity`` take the fast path, also with parametrizations such as spectral
    norm. All else, layers with hooks, and all layers while there are global hooks or transforms of ``torch.func``, are
    differentiated by ``torch.func.jvp``, with the same result. A layer must treat the samples of a batch independently,
    unlike batch normalization in training. Images in channels_last stay so.

    Under ``torch.autocast``, double precision excepted, layers with weights compute in its type: points, directions,
    weights and coefficients are rounded to it, sums accumulate in single precision. Activations compute derivatives in
    single precision and round the results: near saturation 1 - s² of a rounded s would be zero.

    The result can be differentiated once, with respect to parameters, point and direction; twice is an error.
    ValueError if the order is another, or shape, type or device of ``point`` and ``direction`` do not match.

    Arguments:
        network: The function :math:`f`, batch in and batch out.
        point: The points :math:`z`, of shape :math:`(B, ...)`.
        direction: The directions :math:`v`, of the shape of ``point``, or :math:`(n, B, ...)` for :math:`n` directions
            per point, which share one evaluation of the value.
        order: 0 (value only, whatever the direction), 1 (and first) or 2 (and second).

    Returns:
        A :class:`Jet`: ``value`` of shape :math:`(B, ...)`; ``first`` and ``second`` of the same shape, with a leading
        :math:`n` where ``direction`` has one. ``second`` is ``None`` where no layer is curved, as with ReLU.

    Example:
        >>> point, direction = torch.tensor([[0.0]]), torch.tensor([[2.0]])
        >>> jet = taylor(nn.Sequential(nn.Identity(), nn.Softplus()), point, direction, order=2)
        >>> [round(coefficient.item(), 4) for coefficient in jet]
        [0.6931, 1.0, 1.0]
        >>> taylor(nn.ReLU(), point, direction, order=2).second is None
        True
    """
    if type(order) is not int or order not in (0, 1, 2):
        raise ValueError(f"order must be 0, 1 or 2, not {order!r}.")
    several = direction.dim() == point.dim() + 1
    if (direction.shape[several:], direction.dtype, direction.device) != (point.shape, point.dtype, point.device):
        wanted, found = (f"{tuple(part.shape)} of {part.dtype} on {part.device}" for part in (point, direction))
        raise ValueError(f"direction must be like point, {wanted}, or have one leading dimension more, not {found}.")

    value, first, second = point, direction if several else direction.unsqueeze(0), None
    if order == 0:
        first = first[:0]
    kind = point.device.type
    lowered = point.dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    low = torch.get_autocast_dtype(kind) if lowered else None
    for fast, group in groupby(_flat(network), key=lambda part: part[1] is not None):
        if fast:
            rules = [rule(layer, order) for layer, rule in group]
            weights = [weight for rule in rules for weight in rule.weights]
            if low and weights:
                # Outside of the chain, so that autograd turns the gradients back; biases are added as they are.
                weights = [weight.to(low) if weight is not None and weight.dim() > 1 else weight for weight in weights]
                value, first, second = (part if part is None else part.to(low) for part in (value, first, second))
            value, first, second = _Chain.apply(rules, value, first, second, *weights)
        else:
            for layer, _ in group:
                value, first, second = _by_torch_func(layer, value, first, second, order)
    if order == 0:
        return Jet(value, None, None)
    return Jet(value, *(part if part is None or several else part.squeeze(0) for part in (first, second)))


def _flat(network: Callable) -> Iterator[tuple[Callable, type | None]]:
    """The layers of nested Sequentials in order, each with its fast rule or None."""
    plain = isinstance(network, nn.Module) and "forward" not in vars(network)
    plain = plain and not (private.may_have_hooks(network) or private.may_be_transformed())
    # Exact types: a subclass may compute something else.
    kind = type_before_parametrizations(network) if plain else None
    if kind is nn.Sequential:
        for layer in network:
            yield from _flat(layer)
        return
    convolution = kind in (nn.Conv2d, nn.ConvTranspose2d)
    padded = convolution and (network.padding_mode != "zeros" or isinstance(network.padding, str))
    if padded or (kind is nn.ELU and network.alpha < 0):
        kind = None
    yield network, _RULES.get(kind)


def _by_torch_func(layer: Callable, value: Tensor, first: Tensor, second: Tensor | None, order: int):
    """One layer by nested forward mode, for each of the n directions."""

    def function(point):
        return layer(point.clone())  # a copy, because the layer may work in place

    def push(point, velocity):
        return torch.func.jvp(function, (point,), (velocity,))

    def push_twice(point, velocity, acceleration):
        # d/dt of J(a(t)) a'(t) along a(t) = a0 + t a1 + t²/2 a2 is H[a1, a1] + J a2
        (result, slope), (_, curvature) = torch.func.jvp(push, (point, velocity), (velocity, acceleration))
        return result, slope, curvature

    if len(first) == 0:
        result = function(value)
        return result, result.new_empty(0, *result.shape), None
    if order == 1:
        result, slope = torch.func.vmap(push, in_dims=(None, 0), randomness="same")(value, first)
        return result[0], slope, None
    mapped = torch.func.vmap(push_twice, in_dims=(None, 0, 0), randomness="same")
    result, slope, curvature = mapped(value, first, torch.zeros_like(first) if second is None else second)
    return result[0], slope, curvature


class _Chain(torch.autograd.Function):
    """A run of fast layers as one node of the graph: no other graph is recorded, every buffer in between is ours. The
    coefficients are stacked as (1 + n, B, ...) or, once a second one exists, (1 + 2n, B, ...). A rule maps such a stack
    to the next one and says what its backward needs; ``weights`` are the tensors that it learns."""

    @staticmethod
    def forward(ctx, rules, value, first, second, *weights):
        count = first.shape[0]
        stack = _stacked([value.unsqueeze(0), first] if second is None else [value.unsqueeze(0), first, second])
        ctx.rules, ctx.count, ctx.rows_in = rules, count, len(stack)
        kept, remaining = [], iter(weights)
        for rule in rules:
            stack, keep = rule.forward(stack, count, *islice(remaining, len(rule.weights)))
            kept.append(keep)
        ctx.lengths = [len(keep) for keep in kept]
        ctx.save_for_backward(*(tensor for keep in kept for tensor in keep))
        ctx.shape_out = stack.shape
        return stack[0], stack[1 : 1 + count], stack[1 + count :] if len(stack) > 1 + count else None

    @staticmethod
    def backward(ctx, *gradients):
        if torch.is_grad_enabled():  # only with create_graph=True; a gradient cut off in silence would be worse
            raise RuntimeError("The fast path of taylor can be differentiated once only: do not ask for create_graph.")
        shape, count = ctx.shape_out, ctx.count
        sizes = (1, count, shape[0] - 1 - count)
        parts = zip(gradients, sizes, strict=True)
        gradient = _stacked([part.reshape(size, *shape[1:]) for part, size in parts if size])
        saved = iter(ctx.saved_tensors)
        kept = [tuple(islice(saved, length)) for length in ctx.lengths]
        needed = ctx.needs_input_grad
        position, weight_gradients = len(needed), []
        for index in reversed(range(len(ctx.rules))):
            rule = ctx.rules[index]
            position -= len(rule.weights)
            # The first layers' input gradient is often not needed, and it is a full product.
            wanted = index > 0 or any(needed[1:4])
            own = needed[position : position + len(rule.weights)]
            gradient, mine = rule.backward(gradient, count, kept[index], wanted, own)
            weight_gradients[:0] = mine
        if gradient is None:
            return None, None, None, None, *weight_gradients
        second = gradient[1 + count :] if ctx.rows_in > 1 + count else None
        return None, gradient[0], gradient[1 : 1 + count], second, *weight_gradients


def _stacked(parts: list[Tensor]) -> Tensor:
    """``torch.cat``, but images of any number of coefficients are joined as one batch, for which channels_last exists."""
    rows = sum(map(len, parts))
    batches = [part.flatten(0, 1) for part in parts if len(part)]  # an empty one would end channels_last
    return torch.cat(batches).unflatten(0, (rows, parts[0].shape[1]))


class _Rule:
    """What one kind of layer does to a stack, and to its gradient."""

    weights = ()

    def __init__(self, layer: nn.Module, order: int):
        self.layer, self.order = layer, order


class _Linear(_Rule):
    def __init__(self, layer: nn.Linear, order: int):
        self.weights = (layer.weight, layer.bias)

    def forward(self, stack, count, weight, bias):
        result = private.product(stack.reshape(-1, stack.shape[-1]), weight).view(*stack.shape[:-1], len(weight))
        if bias is not None:
            result[0] += bias
        return result, (stack, weight)

    def backward(self, gradient, count, kept, wanted, own):
        stack, weight = kept
        flat = gradient.reshape(-1, gradient.shape[-1])
        into_weight = private.product(flat.t(), stack.reshape(-1, stack.shape[-1]).t()) if own[0] else None
        into_bias = gradient[0].reshape(-1, gradient.shape[-1]).sum(0, dtype=self.weights[1].dtype) if own[1] else None
        into_stack = private.product(flat, weight.t()).view(stack.shape) if wanted else None
        return into_stack, (into_weight, into_bias)


class _Convolution(_Rule):
    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, order: int):
        self.weights = (layer.weight, layer.bias)
        transposed = isinstance(layer, nn.ConvTranspose2d)
        self.settings = (layer.stride, layer.padding, layer.dilation, transposed, layer.output_padding, layer.groups)

    def forward(self, stack, count, weight, bias):
        result = torch.convolution(stack.flatten(0, 1), weight, None, *self.settings).unflatten(0, stack.shape[:2])
        if bias is not None:
            result[0] += bias.view(-1, 1, 1)
        return result, (stack, weight)

    def backward(self, gradient, count, kept, wanted, own):
        stack, weight = kept
        into_stack, into_weight, _ = torch.ops.aten.convolution_backward(
            gradient.flatten(0, 1), stack.flatten(0, 1), weight, None, *self.settings, (wanted, own[0], False)
        )
        into_bias = gradient[0].sum((0, 2, 3), dtype=self.weights[1].dtype) if own[1] else None
        return into_stack.unflatten(0, stack.shape[:2]) if wanted else None, (into_weight, into_bias)


class _Reshape(_Rule):
    """Flatten, Unflatten and Identity: any view that a layer takes of a batch."""

    def forward(self, stack, count):
        self.shape = stack.shape
        return stack.reshape(len(stack), *self.layer(stack[0]).shape), ()

    def backward(self, gradient, count, kept, wanted, own):
        return gradient.reshape(self.shape), ()


# Numbers from which on new memory costs the processor more than the work on it.
_LARGE = 2**20


class _ReLU(_Rule):
    def forward(self, stack, count):
        # Rows are kept where the value is positive; that includes the value itself.
        if stack.numel() >= _LARGE:
            # In place, even where the rule before keeps its result: what changes there gets no gradient.
            for rows in (stack[1:], stack[0]):  # the value last, because it decides
                torch.ops.aten.threshold_backward.grad_input(rows, stack[0], 0, grad_input=rows)
        else:
            stack = torch.ops.aten.threshold_backward(stack, stack[0], 0)
        return stack, (stack,)

    def backward(self, gradient, count, kept, wanted, own):
        return torch.ops.aten.threshold_backward.grad_input(gradient, kept[0][0], 0, grad_input=gradient), ()


class _Smooth(_Rule):
    """An activation s with its derivatives s', s'', s''' as functions of its argument and of its value."""

    def forward(self, stack, count):
        full = _full(stack)
        # With the strides of the stack, which may hold images in channels_last memory.
        result = full.new_empty_strided((1 + self.order * count, *full.shape[1:]), full.stride())
        self.value(full[0], result[0])
        if count:
            first, second = full[1 : 1 + count], result[1 + count :]
            slope, *curvature = islice(self.derivatives(full[0], result[0]), self.order)
            torch.mul(full[1:], slope, out=result[1 : len(full)])
            if len(full) > 1 + count:
                second.addcmul_(curvature[0] * first, first)
            elif curvature:
                torch.mul(curvature[0] * first, first, out=second)
        if full is stack:
            return result, (stack, result)
        return result.to(stack.dtype), (stack,)  # the value before rounding is cheaper to compute again than to keep

    def backward(self, gradient, count, kept, wanted, own):
        stack, gradient = _full(kept[0]), _full(gradient)
        value = kept[1][0] if len(kept) > 1 else self.value(stack[0], torch.empty_like(stack[0]))
        rows, first = len(stack), stack[1 : 1 + count]
        slope, *curvature = islice(self.derivatives(stack[0], value), self.order + 1 if count else 1)
        if count:
            # s'(a0) a1, s'(a0) a2 and s''(a0) a1² also depend on a0, and the last one twice on a1.
            into_value = curvature[0] * _inner(gradient[1:rows], stack[1:])
            if self.order == 2:
                product = gradient[1 + count :] * first
                into_value.addcmul_(curvature[1], _inner(product, first))
        into_stack = gradient[:rows].mul_(slope)
        if count:
            if self.order == 2:
                into_stack[1 : 1 + count].addcmul_(curvature[0], product, value=2)
            into_stack[0] += into_value
        return into_stack.to(kept[0].dtype), ()


def _full(tensor: Tensor) -> Tensor:
    """``tensor`` in single precision, if it has less."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return left[0] * right[0] if len(left) == 1 else (left * right).sum(0)


class _Sigmoid(_Smooth):
    def value(self, argument, out):
        return torch.sigmoid(argument, out=out)

    def derivatives(self, argument, value):
        slope = torch.addcmul(value, value, value, value=-1)
        yield slope
        yield torch.addcmul(slope, slope, value, value=-2)
        yield torch.addcmul(slope, slope, slope, value=-6)


class _Tanh(_Smooth):
    def value(self, argument, out):
        return torch.tanh(argument, out=out)

    def derivatives(self, argument, value):
        slope = 1 - value * value
        yield slope
        yield -2 * value * slope
        yield slope * (4 - 6 * slope)


class _ELU(_Smooth):
    def value(self, argument, out):
        return torch.ops.aten.elu.out(argument, self.layer.alpha, out=out)

    def derivatives(self, argument, value):
        # PyTorch's backward kernels select much faster than a mask does.
        ones = value.new_ones(()).expand_as(value)
        slope = torch.ops.aten.elu_backward(ones, self.layer.alpha, 1, 1, True, value)
        yield slope
        curvature = torch.ops.aten.threshold_backward(slope, -argument, 0)
        yield curvature
        yield curvature


class _Softplus(_Smooth):
    def value(self, argument, out):
        return torch.ops.aten.softplus.out(argument, self.layer.beta, self.layer.threshold, out=out)

    def derivatives(self, argument, value):
        beta = self.layer.beta
        linear = argument * beta > self.layer.threshold  # where PyTorch's softplus is the identity
        slope = torch.sigmoid(argument * beta).masked_fill_(linear, 1)
        yield slope
        curvature = beta * slope * (1 - slope)
        yield curvature
        yield beta * curvature * (1 - 2 * slope)


_RULES = {nn.Linear: _Linear, nn.ReLU: _ReLU, nn.ELU: _ELU, nn.Softplus: _Softplus}
_RULES |= {nn.Sigmoid: _Sigmoid, nn.Tanh: _Tanh, nn.Conv2d: _Convolution, nn.ConvTranspose2d: _Convolution}
_RULES |= dict.fromkeys((nn.Flatten, nn.Unflatten, nn.Identity), _Reshape)
