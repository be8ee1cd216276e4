"""Densities of latent codes, fitted after training (ex post): what a deterministic autoencoder is sampled from.

References:
    Ghosh et al., *From Variational to Deterministic Autoencoders*, ICLR 2020: ex-post density estimation, section 4.
    Dinh, Sohl-Dickstein and Bengio, *Density Estimation Using Real NVP*, ICLR 2017.
    Dai and Wipf, *Diagnosing and Enhancing VAE Models*, ICLR 2019: the second stage.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from nrae_lib.core.models import mlp


class Density:
    """A density of codes in m dimensions; the fields of a subclass are its options.

    Random numbers come from the generators that are handed in, which lie on the device of the codes; the global random
    state is neither used nor changed. Samples and log densities have the type of the codes.
    """

    def fit(self, codes: Tensor, generator: torch.Generator) -> "Density":
        """Fit to the codes and return the density itself.

        Arguments:
            codes: (N, m) latent codes of the training points; not modified.
            generator: the source of randomness, on the device of ``codes``.

        Raises:
            ValueError: if the codes are not a real (N, m) matrix, are empty, or hold NaN or infinite values.
        """
        if codes.dim() != 2 or not codes.is_floating_point():
            shape = tuple(codes.shape)
            raise ValueError(f"codes must be a matrix (N, m) of real numbers, not {codes.dtype} of shape {shape}")
        if codes.numel() == 0:
            raise ValueError(f"a density needs codes, but their shape is {tuple(codes.shape)}")
        if not torch.isfinite(codes).all():
            raise ValueError("the codes hold NaN or infinite values: the model has diverged")
        self._like, self.dimension = codes.detach().new_empty(0), codes.shape[1]
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller switched off, flows are trained
            self._fit(codes.detach().clone(), generator)
        return self

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, m) independent draws."""
        self._check_fitted()
        if count < 0:
            raise ValueError(f"count must be >= 0, not {count}")
        with torch.no_grad():
            return self._sample(count, generator).to(self._like)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density log p(z) in nats, shape (B,), of codes of shape (B, m); differentiable in z."""
        self._check_fitted()
        if z.dim() != 2 or z.shape[1] != self.dimension:
            raise ValueError(f"codes must have shape (B, {self.dimension}), not {tuple(z.shape)}")
        return self._log_prob(z).to(z)

    def _check_fitted(self):
        if not hasattr(self, "_like"):
            raise ValueError("the density is not fitted yet: call fit first")

    def _noise(self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None) -> Tensor:
        like = self._like
        return torch.randn(
            count, self.dimension, generator=generator, device=like.device, dtype=like.dtype if dtype is None else dtype
        )


@dataclass(eq=False)
class Isotropic(Density):
    r"""The standard normal N(0, I), the prior of VAE, WAE and EAE; nothing is fitted but the dimension.

    .. math:: \log p(z) = -\tfrac12 \lVert z \rVert^2 - \tfrac m2 \log 2\pi
    """

    def _fit(self, codes, generator):
        pass

    def _sample(self, count, generator):
        return self._noise(count, generator)

    def _log_prob(self, z):
        return -0.5 * z.square().sum(1) - 0.5 * self.dimension * math.log(2 * math.pi)


@dataclass(eq=False)
class Gaussian(Density):
    """A Gaussian N(μ, Σ) with the codes' sample mean and full sample covariance (divided by N - 1).

    The released code of RAE draws from N(0, Σ), with mean zero although Σ is centred; EAE's text says N(μ, Σ), which is
    what is done here. Where Σ is numerically singular (a latent unit that never moves), 1e-5 times the mean variance is
    added to its diagonal, with a warning; RAE's code adds 1e-5 itself when a draw fails.

    Raises:
        ValueError: from ``fit``, for fewer than two codes.
    """

    def _fit(self, codes, generator):
        if len(codes) < 2:
            raise ValueError("a covariance needs at least two codes, but there is only one")
        codes = codes.double()
        self.mean = codes.mean(0)
        centred = codes - self.mean
        covariance = centred.T @ centred / (len(codes) - 1)
        spectrum = torch.linalg.eigvalsh(covariance)
        if spectrum[0] <= self.dimension * torch.finfo(torch.float64).eps * spectrum[-1]:
            warnings.warn(
                "the covariance of the codes is singular (unused latent dimensions, or fewer codes than dimensions): "
                "1e-5 times the mean variance is added to every variance",
                stacklevel=4,
            )
            covariance.diagonal().add_(1e-5 * (float(spectrum.mean().clamp(min=0)) or 1.0))
        self.covariance = covariance
        self._factor = torch.linalg.cholesky(covariance)

    def _sample(self, count, generator):
        return self.mean + self._noise(count, generator, torch.float64) @ self._factor.T

    def _log_prob(self, z):
        return _gaussian_log_prob(z.double(), self.mean, self._factor)


@dataclass(eq=False)
class GaussianMixture(Density):
    """Full-covariance Gaussian mixture, by scikit-learn's expectation maximisation (Ghosh et al.: 10 components).

    Fewer codes than ``components`` leave one component per code, with a warning. The fit runs in float64 on the CPU,
    its k-means start with one thread, because sums over several threads are not reproducible bit for bit.

    Arguments:
        components: number of Gaussians.
        max_iter, tol: where expectation maximisation stops; RAE's released settings.

    Raises:
        ValueError: from ``fit``, for fewer than two codes or less than one component.
    """

    components: int = 10
    max_iter: int = 2000
    tol: float = 1e-3

    def _fit(self, codes, generator):
        from sklearn import mixture
        from threadpoolctl import threadpool_limits

        if self.components < 1:
            raise ValueError(f"a mixture needs at least one component, not {self.components}")
        if len(codes) < 2:
            raise ValueError("a covariance needs at least two codes, but there is only one")
        components = min(self.components, len(codes))
        if components < self.components:
            warnings.warn(
                f"only {len(codes)} codes for {self.components} components: the mixture has {components} components",
                stacklevel=4,
            )
        estimator = mixture.GaussianMixture(
            components, covariance_type="full", max_iter=self.max_iter, tol=self.tol, random_state=_seed(generator)
        )
        with threadpool_limits(1, user_api="openmp"):
            estimator.fit(codes.double().cpu().numpy())
        results = (estimator.weights_, estimator.means_, estimator.covariances_)
        self.weights, self.means, self.covariances = (torch.from_numpy(result).to(codes.device) for result in results)
        self._factors = torch.linalg.cholesky(self.covariances)

    def _sample(self, count, generator):
        noise = self._noise(count, generator, torch.float64)
        if count == 0:
            return noise
        index = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.means[index] + (self._factors[index] @ noise[:, :, None]).squeeze(2)

    def _log_prob(self, z):
        z = z.double()
        each = [_gaussian_log_prob(z, mean, factor) for mean, factor in zip(self.means, self._factors, strict=True)]
        return torch.logsumexp(torch.stack(each, 1) + self.weights.log(), 1)


@dataclass(eq=False)
class RealNVP(Density):
    r"""Normalizing flow of affine couplings T (zuko's RealNVP), trained by maximum likelihood on standardised codes.

    .. math:: \log p(z) = \log N(T(s); 0, I) + \log \lvert\det J_T(s)\rvert - \sum_k \log \sigma_k,
              \qquad s_k = (z_k - \mu_k) / \sigma_k

    Depth 8, hidden layers of 32 and random masks stand in for "depth 8, hidden 32, rescale and permutation" in NRAE's
    supplement, 2.4. The papers state no optimiser: Adam with a cosine decay to zero, the number of steps and the batch
    size are choices made here. There is no early stopping; few codes can be overfitted. Needs the package zuko.

    Arguments:
        transforms, hidden: number of couplings, widths of their networks' hidden layers.
        steps, batch_size, learning_rate: of Adam; each batch is drawn with replacement.

    Raises:
        ImportError: from ``fit``, without zuko.
        ValueError: from ``fit``, for one-dimensional codes, which cannot be split into two halves, and if training
            diverges.
    """

    transforms: int = 8
    hidden: tuple[int, ...] = (32, 32)
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 2e-3

    def _fit(self, codes, generator):
        if self.dimension < 2:
            raise ValueError("RealNVP couples one half of the code to the other and needs m >= 2, not m = 1")
        try:
            from zuko.flows import RealNVP as Flow
        except ImportError as error:
            message = "density 'realnvp' needs the package zuko: pip install 'nrae-lib[methods]'"
            raise ImportError(message) from error
        self._shift, self._scale = _standardisation(codes)
        codes = (codes - self._shift) / self._scale
        with _initialisation(generator):
            self._flow = Flow(self.dimension, transforms=self.transforms, hidden_features=self.hidden, randmask=True)
        self._flow.to(codes)
        _minimise(
            self._flow, lambda batch: -self._flow().log_prob(batch).mean(), codes, generator, self.steps,
            self.batch_size, self.learning_rate, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / self.steps),
        )  # fmt: skip

    def _sample(self, count, generator):
        # Not the flow's own sample(), which draws from the global random state.
        return self._shift + self._scale * self._flow().transform.inv(self._noise(count, generator))

    def _log_prob(self, z):
        standardised = (z.to(self._like) - self._shift) / self._scale
        return self._flow().log_prob(standardised) - self._scale.log().sum()


@dataclass(eq=False)
class SecondStage(Density):
    r"""The second stage of the two-stage VAE: a VAE on the codes, with as many dimensions as they have.

    .. math:: L = E\Big[\frac{\lVert z - \hat z(u) \rVert^2}{2\gamma_z^2} + m \log \gamma_z + \tfrac m2 \log 2\pi\Big]
                  + \mathrm{KL}\big(N(\mu_u(z), \sigma_u^2(z)) \,\Vert\, N(0, I)\big),
                  \qquad u = \mu_u(z) + \sigma_u(z)\,\varepsilon

    with a learned scalar γ_z (its logarithm, from 0). Encoder and decoder are ReLU networks; the last layer of each sees
    its last hidden layer and its input. A sample is :math:`\hat z(u) + \gamma_z \varepsilon` with u, ε ~ N(0, I). The
    likelihood of a code is an integral over u, so there is no ``log_prob``.

    Dai and Wipf fit it to codes drawn from the first stage's posterior, z = μ + σε: hand in such draws to follow them.
    They do not standardise the codes. Here it is done, because codes without a prior can have any scale; their own
    codes have nearly unit variance. Batches are drawn with replacement; an epoch is N / batch_size of them, rounded up.
    The defaults are theirs, and long: 10,000 codes take 125,600 steps.

    Arguments:
        width, depth: of the hidden layers.
        epochs, batch_size, learning_rate, halve_every: of Adam; the learning rate is halved every so many epochs.

    Raises:
        ValueError: from ``fit``, if training diverges.

    References:
        Dai and Wipf, *Diagnosing and Enhancing VAE Models*, ICLR 2019, and its released code for network and settings.
    """

    width: int = 1024
    depth: int = 3
    epochs: int = 800
    batch_size: int = 64
    learning_rate: float = 1e-4
    halve_every: int = 300

    def _fit(self, codes, generator):
        self._shift, self._scale = _standardisation(codes)
        codes = (codes - self._shift) / self._scale
        with _initialisation(generator):
            self._encoder = _SkipNetwork(self.dimension, 2 * self.dimension, self.width, self.depth)
            self._decoder = _SkipNetwork(self.dimension, self.dimension, self.width, self.depth)
        self._decoder.log_gamma = nn.Parameter(torch.zeros(()))
        network = nn.ModuleList([self._encoder, self._decoder]).to(codes)
        per_epoch = -(-len(codes) // self.batch_size)

        def loss(z: Tensor) -> Tensor:
            return self._loss(z, torch.empty_like(z).normal_(generator=generator))

        _minimise(
            network, loss, codes, generator, self.epochs * per_epoch, self.batch_size, self.learning_rate,
            lambda step: 0.5 ** (step // (per_epoch * self.halve_every)),
        )  # fmt: skip

    def _loss(self, z, noise):
        mean, log_deviation = self._encoder(z).chunk(2, 1)
        u = mean + log_deviation.exp() * noise
        log_gamma = self._decoder.log_gamma
        error = (z - self._decoder(u)).square() * (-2 * log_gamma).exp()
        likelihood = 0.5 * error + log_gamma + 0.5 * math.log(2 * math.pi)
        divergence = 0.5 * (mean.square() + (2 * log_deviation).exp() - 1) - log_deviation
        return (likelihood + divergence).sum(1).mean()

    def _sample(self, count, generator):
        mean = self._decoder(self._noise(count, generator))
        return self._shift + self._scale * (mean + self._decoder.log_gamma.exp() * self._noise(count, generator))

    def log_prob(self, z: Tensor) -> Tensor:
        raise NotImplementedError("the second stage can be sampled, but its log density has no closed form")


DENSITIES: dict[str, type[Density]] = {
    "isotropic": Isotropic,
    "gaussian": Gaussian,
    "gmm": GaussianMixture,
    "realnvp": RealNVP,
    "second_stage": SecondStage,
}


def fit(name: str, codes: Tensor, seed: int, **options) -> Density:
    """The density ``name`` fitted to the codes; the same seed gives the same density, bit for bit on the CPU.

    Arguments:
        name: one of ``DENSITIES``.
        codes: (N, m) latent codes of the training points.
        seed: of everything random in the fit.
        options: fields of the density, such as ``components=5`` for "gmm".

    Raises:
        ValueError: for an unknown name or option, and for codes that are empty, not finite or too few.

    Example:
        >>> density = fit("gaussian", torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]]), seed=0)
        >>> density.mean.tolist()
        [1.0, 1.0]
        >>> density.sample(5, torch.Generator().manual_seed(1)).shape
        torch.Size([5, 2])
    """
    if name not in DENSITIES:
        raise ValueError(f"unknown density {name!r}: choose one of {', '.join(DENSITIES)}")
    valid = [field.name for field in fields(DENSITIES[name])]
    for option in options:
        if option not in valid:
            raise ValueError(f"density {name!r} has no option {option!r}: choose from {', '.join(valid) or '(none)'}")
    return DENSITIES[name](**options).fit(codes, torch.Generator(codes.device).manual_seed(seed))


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))


@contextmanager
def _initialisation(generator: torch.Generator) -> Iterator[None]:
    """Layers and masks are initialised from the global state of the CPU: seed it, and put it back afterwards."""
    seed = _seed(generator)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the accelerators
        yield


def _standardisation(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per coordinate; a coordinate that never moves, but for rounding, keeps its scale."""
    scale = codes.std(0, correction=0)
    rounding = 10 * torch.finfo(codes.dtype).eps * codes.abs().amax(0)
    return codes.mean(0), torch.where(scale > rounding, scale, 1)


def _gaussian_log_prob(z: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    whitened = torch.linalg.solve_triangular(factor, (z - mean).T, upper=False)
    constant = factor.diagonal().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
    return -0.5 * whitened.square().sum(0) - constant


class _SkipNetwork(nn.Module):
    """A ReLU network whose linear last layer sees the input beside the last hidden layer."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int):
        super().__init__()
        self.hidden = mlp((inputs, *[width] * depth), "relu", "relu")
        self.last = nn.Linear(inputs + width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([x, self.hidden(x)], 1))


def _minimise(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    codes: Tensor,
    generator: torch.Generator,
    steps: int,
    batch_size: int,
    learning_rate: float,
    factor: Callable[[int], float],
) -> None:
    """Adam on batches drawn with replacement, with the learning rate times ``factor(step)``; freezes the network."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for _ in range(steps):
        index = torch.randint(len(codes), (batch_size,), generator=generator, device=codes.device)
        optimizer.zero_grad()
        loss(codes[index]).backward()
        optimizer.step()
        schedule.step()
    network.requires_grad_(False)
    if not all(torch.isfinite(weight).all() for weight in network.parameters()):
        raise ValueError("the fit of the density has diverged: lower its learning_rate")
