"""Densities of latent codes, fitted after training (ex post): what a deterministic autoencoder is sampled from."""

import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from nrae_lib.core import losses
from nrae_lib.core.extras import library
from nrae_lib.core.models import Autoencoder, mlp
from nrae_lib.core.points import check_finite


class Density:
    """A density of codes in m dimensions, made by :func:`fit`; the fields of a subclass are its options.

    Samples and log densities have the type of the codes. The global random state is neither used nor changed.
    """

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, m) independent draws, by a generator on the device of the codes."""
        if count < 1:
            raise ValueError(f"count must be >= 1, not {count}")
        with torch.no_grad():
            return self._sample(count, generator).to(self._like)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density log p(z) in nats, shape (B,), of codes of shape (B, m); differentiable in z."""
        if z.dim() != 2 or z.shape[1] != self.dimension:
            raise ValueError(f"codes must have shape (B, {self.dimension}), not {tuple(z.shape)}")
        return self._log_prob(z).to(z)

    def _fit(self, codes: Tensor, generator: torch.Generator) -> None:
        """What a subclass computes of checked codes, with gradients switched on."""

    def _noise(self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None) -> Tensor:
        return self._like.new_empty(count, self.dimension, dtype=dtype).normal_(generator=generator)


@dataclass(eq=False)
class Isotropic(Density):
    """The standard normal N(0, I), the prior of VAE, WAE and EAE."""

    def _sample(self, count, generator):
        return self._noise(count, generator)

    def _log_prob(self, z):
        return -0.5 * z.square().sum(1) - 0.5 * self.dimension * math.log(2 * math.pi)


@dataclass(eq=False)
class Gaussian(Density):
    """A Gaussian N(μ, Σ) with the codes' sample mean and full sample covariance (divided by N - 1).

    As in EAE's text; the released code of RAE draws from N(0, Σ), although Σ is centred. Where Σ is numerically singular
    (a latent unit that never moves), 1e-5 times the mean variance is added to its diagonal, with a warning.
    """

    def _fit(self, codes, generator):
        if len(codes) < 2:
            raise ValueError("a covariance needs at least two codes, but there is only one")
        self.mean = codes.double().mean(0)
        centred = codes - self.mean
        covariance = centred.T @ centred / (len(codes) - 1)
        spectrum = torch.linalg.eigvalsh(covariance)
        if spectrum[0] <= self.dimension * torch.finfo(torch.float64).eps * spectrum[-1]:
            problem = "the covariance of the codes is singular (unused dimensions, or fewer codes than dimensions)"
            warnings.warn(f"{problem}: 1e-5 times the mean variance is added to every variance", stacklevel=3)
            covariance.diagonal().add_(1e-5 * (float(spectrum.mean().clamp(min=0)) or 1.0))
        self._factor = torch.linalg.cholesky(covariance)

    def _sample(self, count, generator):
        return self.mean + self._noise(count, generator, torch.float64) @ self._factor.T

    def _log_prob(self, z):
        return MultivariateNormal(self.mean, scale_tril=self._factor).log_prob(z.double())


@dataclass(eq=False)
class GaussianMixture(Density):
    """Full-covariance Gaussian mixture, by scikit-learn's expectation maximisation (Ghosh et al. 2020, section 4).

    Arguments:
        components: number of Gaussians; fewer codes leave one component per code, with a warning.
        max_iter, tol: where expectation maximisation stops; RAE's released settings.
    """

    components: int = 10
    max_iter: int = 2000
    tol: float = 1e-3

    def _fit(self, codes, generator):
        from sklearn import mixture
        from threadpoolctl import threadpool_limits

        components = min(self.components, len(codes))
        if components < self.components:
            warnings.warn(f"few codes: the mixture has {components} components, not {self.components}", stacklevel=3)
        settings = dict(max_iter=self.max_iter, tol=self.tol, random_state=_seed(generator))
        with threadpool_limits(1, user_api="openmp"):  # sums of k-means over several threads are not reproducible
            found = mixture.GaussianMixture(components, **settings).fit(codes.double().cpu().numpy())
        results = (found.weights_, found.means_, found.covariances_)
        self.weights, self.means, covariances = (torch.from_numpy(result).to(codes.device) for result in results)
        self._factors = torch.linalg.cholesky(covariances)

    def _sample(self, count, generator):
        noise = self._noise(count, generator, torch.float64)
        index = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.means[index] + (self._factors[index] @ noise[:, :, None]).squeeze(2)

    def _log_prob(self, z):
        parts = MultivariateNormal(self.means, scale_tril=self._factors)
        return MixtureSameFamily(Categorical(self.weights), parts).log_prob(z.double())


class Flow(nn.Module):
    """zuko's RealNVP of standardised codes (N, m), before any training; see :class:`RealNVP`."""

    def __init__(self, codes: Tensor, generator: torch.Generator, transforms: int = 8, hidden: tuple = (32, 32)):
        super().__init__()
        if codes.shape[1] < 2:
            raise ValueError("RealNVP couples one half of the code to the other and needs m >= 2, not m = 1")
        flows = library("zuko", "zuko", "RealNVP needs", "methods").flows
        self.shift, self.scale = map(nn.Buffer, _standardisation(codes))
        with _initialisation(generator):
            self.flow = flows.RealNVP(codes.shape[1], transforms=transforms, hidden_features=hidden, randmask=True)
        self.to(codes)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow().log_prob((z - self.shift) / self.scale) - self.scale.log().sum()


@dataclass(eq=False)
class RealNVP(Density):
    r"""Normalizing flow of affine couplings T (Dinh et al. 2017; zuko's), trained by maximum likelihood on standardised codes.

    .. math:: \log p(z) = \log N(T(s); 0, I) + \log \lvert\det J_T(s)\rvert - \sum_k \log \sigma_k,
              \qquad s_k = (z_k - \mu_k) / \sigma_k

    Depth 8, hidden layers of 32 and random masks stand in for "depth 8, hidden 32, rescale and permutation" in NRAE's
    supplement, 2.4. The papers state no optimiser: Adam with a cosine decay to zero, the number of steps and the batch
    size are choices made here. There is no early stopping; few codes can be overfitted.

    Arguments:
        transforms, hidden: number of couplings, widths of their networks' hidden layers.
        steps, batch_size, learning_rate: of Adam; each batch is drawn with replacement.
    """

    transforms: int = 8
    hidden: tuple[int, ...] = (32, 32)
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 2e-3

    def _fit(self, codes, generator):
        self._flow = Flow(codes, generator, self.transforms, self.hidden)
        loss = lambda z, _: -self._flow.log_prob(z).mean()  # noqa: E731
        rate = lambda step: 0.5 + 0.5 * math.cos(math.pi * step / self.steps)  # noqa: E731
        _minimise(self, self._flow, loss, codes, generator, self.steps, rate)

    def _sample(self, count, generator):
        flow = self._flow  # whose flow's own sample() would draw from the global random state
        return flow.shift + flow.scale * flow.flow().transform.inv(self._noise(count, generator))

    def _log_prob(self, z):
        return self._flow.log_prob(z.to(self._like))


@dataclass(eq=False)
class SecondStage(Density):
    r"""The second stage of the two-stage VAE: a VAE on the codes, with as many dimensions as they have.

    .. math:: L = E\Big[\frac{\lVert z - \hat z(u) \rVert^2}{2\gamma_z^2} + m \log \gamma_z + \tfrac m2 \log 2\pi\Big]
                  + \mathrm{KL}\big(N(\mu_u(z), \sigma_u^2(z)) \,\Vert\, N(0, I)\big),
                  \qquad u = \mu_u(z) + \sigma_u(z)\,\varepsilon

    with a learned scalar γ_z (its logarithm, from 0). A sample is :math:`\hat z(u) + \gamma_z \varepsilon` with
    u, ε ~ N(0, I); the likelihood of a code is an integral over u, so there is no ``log_prob``. Networks and settings are
    those of the released code of Dai and Wipf, *Diagnosing and Enhancing VAE Models*, ICLR 2019, and long. They fit it to
    draws of the first stage's posterior, z = μ + σε, without standardising them as it is done here.

    Arguments:
        width, depth: of the hidden layers.
        epochs, batch_size, learning_rate, halve_every: of Adam, on batches drawn with replacement; the learning rate is
            halved every so many epochs.
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
            parts = [_SkipNetwork(self.dimension, n * self.dimension, self.width, self.depth) for n in (2, 1)]
        self._network = Autoencoder(*parts, learned={"log_gamma": 0.0}).to(codes)
        per_epoch = -(-len(codes) // self.batch_size)
        rate = lambda step: 0.5 ** (step // (per_epoch * self.halve_every))  # noqa: E731
        _minimise(self, self._network, self._loss, codes, generator, self.epochs * per_epoch, rate)

    def _loss(self, z, generator):
        mean, log_deviation = self._network.encoder(z).chunk(2, 1)
        u = mean + log_deviation.exp() * torch.empty_like(z).normal_(generator=generator)
        error = losses.point_reconstruction(z, self._network.decoder(u))
        likelihood = self.dimension * losses.gaussian_likelihood(error, self._network.learned["log_gamma"])
        return likelihood + losses.kl_to_standard_normal(mean, log_deviation)

    def _sample(self, count, generator):
        mean, gamma = self._network.decoder(self._noise(count, generator)), self._network.learned["log_gamma"].exp()
        return self._shift + self._scale * (mean + gamma * self._noise(count, generator))

    def log_prob(self, z: Tensor) -> Tensor:
        raise NotImplementedError("the second stage can be sampled, but its log density has no closed form")


DENSITIES = dict(isotropic=Isotropic, gaussian=Gaussian, gmm=GaussianMixture, realnvp=RealNVP, second_stage=SecondStage)


def fit(name: str, codes: Tensor, seed: int, **options) -> Density:
    """The density ``name`` of ``DENSITIES``, fitted to codes (N, m).

    The same seed gives the same, bit for bit on the CPU. ``options`` are its fields, such as ``components=5`` for
    "gmm". ImportError for "realnvp" without the package zuko; ValueError for an unknown name or option, codes that do
    not suffice or are not finite, and if training diverges.

    Example:
        >>> density = fit("gaussian", torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]]), seed=0)
        >>> density.sample(5, torch.Generator().manual_seed(1)).shape
        torch.Size([5, 2])
    """
    if name not in DENSITIES:
        raise ValueError(f"unknown density {name!r}: choose one of {', '.join(DENSITIES)}")
    valid = [field.name for field in fields(DENSITIES[name])]
    for option in set(options) - set(valid):
        raise ValueError(f"density {name!r} has no option {option!r}: choose from {', '.join(valid) or '(none)'}")
    if codes.dim() != 2 or codes.numel() == 0 or not codes.is_floating_point():
        raise ValueError(f"codes must be a real matrix (N, m), not {codes.dtype} of shape {tuple(codes.shape)}")
    check_finite(codes, "codes")
    density, generator = DENSITIES[name](**options), torch.Generator(codes.device).manual_seed(seed)
    density._like, density.dimension = codes.detach().new_empty(0), codes.shape[1]
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller switched off, flows are trained
        density._fit(codes.detach().clone(), generator)
    return density


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))


@contextmanager
def _initialisation(generator: torch.Generator):
    """Layers and masks are initialised from the global state of the CPU: seed it, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(_seed(generator))  # torch.manual_seed would also seed the accelerators
        yield


def _standardisation(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per coordinate; a coordinate that never moves, but for rounding, keeps its scale."""
    scale = codes.std(0, correction=0)
    rounding = 10 * torch.finfo(codes.dtype).eps * codes.abs().amax(0)
    return codes.mean(0), torch.where(scale > rounding, scale, 1)


class _SkipNetwork(nn.Module):
    """A ReLU network whose linear last layer sees the input beside the last hidden layer."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int):
        super().__init__()
        self.hidden = mlp((inputs, *[width] * depth), "relu", "relu")
        self.last = nn.Linear(inputs + width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([x, self.hidden(x)], 1))


def _minimise(density, network, loss, codes, generator, steps, rate):
    """Adam on batches drawn with replacement, with the learning rate times ``rate(step)``; freezes the network."""
    optimizer = torch.optim.Adam(network.parameters(), lr=density.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for _ in range(steps):
        index = torch.randint(len(codes), (density.batch_size,), generator=generator, device=codes.device)
        optimizer.zero_grad()
        loss(codes[index], generator).backward()
        optimizer.step()
        schedule.step()
    network.requires_grad_(False)
    if not all(torch.isfinite(weight).all() for weight in network.parameters()):
        raise ValueError("the fit of the density has diverged: lower its learning_rate")
