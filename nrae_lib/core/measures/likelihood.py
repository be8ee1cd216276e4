"""The evidence lower bound of a trained deterministic autoencoder, made stochastic after training."""

import copy
import math

import torch
from torch import Tensor, nn

from nrae_lib.core.densities import Flow
from nrae_lib.core.measures.errors import blocks
from nrae_lib.core.points import as_floats


class Likelihood(nn.Module):
    r"""A latent variable model around frozen networks f and g; made by :func:`fit_elbo`.

    .. math:: p_\sigma(x \mid z) = N\big(f(z), \operatorname{diag}(\sigma^2)\big), \qquad z \sim p_\gamma, \qquad
              q_\epsilon(z \mid x) = N\big(g(x), \epsilon^2 I\big)

    Source: NRAE, supplement, section 2.4, equations 1 to 3.

    Arguments:
        model: with ``encoder`` g and ``decoder`` f; a frozen copy of it in evaluation mode is kept.
        density: :math:`p_\gamma`, a module with ``log_prob``, (B, m) -> (B,) in nats.
        sigma, epsilon: > 0, in the unit of the data, (D,) or of the shape of a point, and of the codes.
    """

    def __init__(self, model: nn.Module, density: nn.Module, sigma: Tensor, epsilon: float | Tensor):
        super().__init__()
        self.model, self.density = copy.deepcopy(model).eval().requires_grad_(False), density
        self.log_sigma = nn.Parameter(sigma.detach().flatten().log())
        self.log_epsilon = nn.Parameter(torch.as_tensor(epsilon).detach().to(sigma).log())

    def forward(self, x: Tensor, code: Tensor, noise: Tensor) -> Tensor:
        r"""(B,) one-draw estimates of the ELBO, at z = g(x) + ε·noise; the entropy of q is exact.

        .. math:: \log p_\sigma(x \mid z) + \log p_\gamma(z) + \tfrac m2 \log(2 \pi e\, \epsilon^2)
        """
        z = code + self.log_epsilon.exp() * noise
        error = (x - self.model.decoder(z)).flatten(1) * (-self.log_sigma).exp()
        log_likelihood = -0.5 * error.square().sum(1) - self.log_sigma.sum() - 0.5 * error.shape[1] * math.log(math.tau)
        entropy = code.shape[1] * (self.log_epsilon + 0.5 * math.log(math.tau * math.e))
        return log_likelihood + self.density.log_prob(z) + entropy

    @torch.no_grad()
    def elbo(self, points: Tensor, samples: int = 16, seed: int = 0, block: int = 1024) -> Tensor:
        r"""Evidence lower bound of log p(x), the mean over ``samples`` draws of z: (N,) nats, on the model's device.

        .. math:: E_{q(z|x)}[\log p_\sigma(x \mid z)] - \mathrm{KL}\big(q_\epsilon(z \mid x) \,\Vert\, p_\gamma(z)\big)

        Of (N, ...) finite points on any device, ``block`` of them at once; bytes become float32 in [0, 1], the unit of
        the density. ``seed`` decides all draws.
        """
        generator, found = torch.Generator(self.log_sigma.device).manual_seed(seed), []
        for x in blocks(self.model, points, block):
            code = self.model.encoder(x)
            draws = (self(x, code, torch.empty_like(code).normal_(generator=generator)) for _ in range(samples))
            found.append(sum(draws, torch.zeros_like(code[:, 0])) / samples)
        return torch.cat(found)


def fit_elbo(
    model: nn.Module, train: Tensor, validation: Tensor | None = None, floor: float = 1 / 255, epochs: int = 100,
    batch_size: int = 128, learning_rate: float = 2e-3, seed: int = 0, device: torch.device | str = "cpu",
    density: nn.Module | None = None,
) -> Likelihood:  # fmt: skip
    r"""A frozen :class:`Likelihood` with the largest mean ELBO of the training points over σ, ε and the density of codes.

    The density is that of :class:`nrae_lib.core.densities.RealNVP`. The paper states no optimiser, initial values or
    floor. Here: Adam with a cosine decay to zero; :math:`\sigma_d` starts at the root mean square error of feature d
    over the training points, the flow near the standard normal of standardised codes, ε at whichever of s, s/2, ...,
    s/2¹⁵ has the largest ELBO on at most 1,024 points, with s the root mean square of the codes' standard deviations.

    **The floor decides the numbers.** A feature that is reproduced exactly at every point, such as a black corner of an
    image, would drive its σ to zero and add :math:`-\log\sigma_d - \tfrac12 \log 2\pi` without bound. So σ, in the unit
    of the data, is held at ``floor`` or above after every step; the default is one grey level. ImportError without
    ``density`` and the package zuko; ValueError if ``floor`` is not positive, points are none or not finite, codes have
    one dimension, or it diverges.

    Arguments:
        model: with ``encoder`` g and ``decoder`` f; not modified.
        train: (N, ...) real points or bytes, which become float32 in [0, 1].
        validation: if given, the parameters of the epoch with the largest ELBO on these points (one draw each) are kept.
        epochs, batch_size, learning_rate: of Adam; each epoch goes through the points in a new random order.
        density: another :math:`p_\gamma`, a module with ``log_prob``; its parameters are trained in place.
    """
    if not floor > 0:
        raise ValueError(f"the floor of the decoder's noise must be positive, not {floor}")
    generator = torch.Generator(device).manual_seed(seed)
    model = copy.deepcopy(model).to(device).eval().requires_grad_(False)
    train = train.to(device)
    codes, squares = [], 0
    with torch.no_grad():
        for x in blocks(model, train, 1024):
            codes.append(model.encoder(x))
            squares = squares + (x - model.decoder(codes[-1])).flatten(1).square().sum(0)
    codes = torch.cat(codes)
    sigma = (squares / len(train)).sqrt().clamp_min(floor)
    density = (Flow(codes, generator) if density is None else density).to(device)
    fitted = Likelihood(model, density, sigma, 1.0)
    _start_epsilon(fitted, train, codes, generator)
    trained = [parameter for parameter in fitted.parameters() if parameter.requires_grad]
    steps = epochs * -(-len(train) // batch_size)
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps))
    best, kept = -math.inf, None
    for _ in range(epochs):
        for index in torch.randperm(len(train), generator=generator, device=device).split(batch_size):
            noise = torch.empty_like(codes[index]).normal_(generator=generator)
            optimizer.zero_grad()
            (-fitted(as_floats(train[index]), codes[index], noise).mean()).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                # Not clamped in the forward pass, where a σ at the floor would have no gradient and could not rise.
                fitted.log_sigma.clamp_(min=math.log(floor))
        if validation is not None:
            value = float(fitted.elbo(validation, samples=1, seed=seed).mean())
            if value > best:
                best, kept = value, copy.deepcopy(fitted.state_dict())
    if not all(torch.isfinite(parameter).all() for parameter in trained):
        raise ValueError("the fit of the ELBO has diverged: lower its learning_rate")
    if kept is not None:
        fitted.load_state_dict(kept)
    return fitted.requires_grad_(False)


@torch.no_grad()
def _start_epsilon(fitted: Likelihood, train: Tensor, codes: Tensor, generator: torch.Generator) -> None:
    x, code = as_floats(train[:1024]), codes[:1024]
    noise = torch.empty_like(code).normal_(generator=generator)
    spread = codes.var(0, correction=0).mean().sqrt()
    scales = torch.where(spread > 0, spread, 1) * 0.5 ** torch.arange(16, device=code.device).to(code)
    values = []
    for scale in scales:
        fitted.log_epsilon.copy_(scale.log())
        values.append(fitted(x, code, noise).mean())
    best = torch.stack(values).nan_to_num(nan=-torch.inf).argmax()  # a decoder may overflow far from its codes
    fitted.log_epsilon.copy_(scales[best].log())
