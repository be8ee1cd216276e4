"""Every method of the catalogue as a scikit-learn transformer, for one's own data."""

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, asdict, dataclass
from math import prod
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

import nrae_lib
from nrae_lib.core import densities, methods
from nrae_lib.core.extras import library
from nrae_lib.core.files import write_atomically
from nrae_lib.core.models import Autoencoder, Circular, Network
from nrae_lib.core.training import Optimization, fit
from nrae_lib.runs import find_device

_FORMAT = 1  # of saved files; raise it when an older version of this module could not read them
_CHUNK = 8192  # rows that go through the network at once
_DTYPES = (np.float64, np.float32)


@dataclass(eq=False, repr=False)
class ManifoldAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An autoencoder that learns a low-dimensional code of the rows of X, by any method of ``methods.CATALOGUE``.

    Training is in float32; ``transform`` and its relatives compute and answer in the type of their argument, float32
    or float64 (everything else becomes float64). The estimator never uses or changes a global random state. On a CPU
    the same ``random_state`` and data give the same result bit for bit.

    Arguments:
        method: a name from ``methods.CATALOGUE``, also with penalties added, such as "nrae_l+mmd".
        n_components: m, the dimension of the code.
        n_neighbors: k of the neighbour graph, for the methods that have one; with a warning at most N - 1.
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        activation: a name from ``models.ACTIVATIONS``. A ReLU network has no second derivative, which "nrae_q" needs.
        epochs, batch_size, learning_rate: of Adam; small data need more epochs.
        method_options: the method's other options by name, such as ``{"neighbor_weight": 0.5}``; see
            ``methods.get(method).options``. Weights hold for standardized data.
        latent: form of the code, "plain", "circular" (on the unit circle or sphere), "batchnorm"; None: the method's.
        standardize: subtract the mean of every feature and divide by ONE standard deviation, that of all centred
            values: scaling each feature by itself would change the metric, and with it the neighbours.
        image_shape: shape of what a row holds, such as (1, 28, 28), for images that were flattened; None: (D,).
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        random_state: a whole number, a ``numpy.random.RandomState``, or None for a new seed at every fit.
        verbose: show a progress bar.

    Attributes:
        model_: the trained network, an ``nn.Module`` with ``encoder`` and ``decoder``, for standardized data.
        embedding_, loss_: (N, m) codes of the training data, and (epochs,) mean loss for standardized data.
        mean_, scale_: what ``standardize`` subtracts, (D,), and divides by.
        n_neighbors_, seed_: as used; k is None for methods without a graph.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> model = ManifoldAutoencoder("ae", n_components=2, hidden=(8,), epochs=2, random_state=0)
        >>> model.fit_transform(X).shape, model.sample(4).shape
        ((50, 2), (4, 3))
    """

    method: str = "nrae_l"
    n_components: int = 2
    n_neighbors: int = 15
    _: KW_ONLY
    hidden: tuple[int, ...] = (256, 256)
    activation: str = "elu"
    epochs: int = 500
    batch_size: int = 128
    learning_rate: float = 1e-3
    method_options: dict | None = None
    latent: str | None = None
    standardize: bool = True
    image_shape: tuple[int, ...] | None = None
    device: str = "auto"
    random_state: int | np.random.RandomState | None = None
    verbose: bool = False

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X, y=None):
        """Train on the (N, D) rows of X, N >= 2; ValueError for what cannot be, FloatingPointError if training diverges."""
        X = self._rows(X, reset=True)
        recipe, device = self._checked_recipe(*X.shape), find_device(str(self.device))
        mean, scale = _standardization(X) if self.standardize else (np.zeros(X.shape[1]), 1.0)
        data = torch.from_numpy(((X - mean) / scale).astype(np.float32)).unflatten(1, recipe["data_shape"])
        optimization = Optimization(int(self.epochs), int(self.batch_size), float(self.learning_rate))
        objective, model = _built(recipe)
        with _progress_bar(optimization.epochs, self.method, self.verbose) as progress:
            trained = fit(model.to(device), objective, data, optimization, recipe["seed"], progress=progress)
        # Only now, so that a training that fails leaves an earlier one untouched.
        self._fitted(recipe, model.cpu(), mean, scale, trained.loss.cpu().numpy())
        self.embedding_ = self._encode(X)
        self._draws = _posterior_draws(self.model_, data, self.seed_)
        return self

    def _fitted(self, recipe: dict, model: Autoencoder, mean: np.ndarray, scale: float, loss: np.ndarray) -> None:
        self._recipe, self._densities, self.mean_, self.scale_, self.loss_ = recipe, {}, mean, scale, loss
        self.seed_, self.n_neighbors_ = recipe["seed"], recipe["options"].get("n_neighbors")
        self.model_ = model.eval().requires_grad_(False)

    def _checked_recipe(self, count: int, features: int) -> dict:
        """What decides the network, as plain data, from the checked parameters."""
        for name in ("n_components", "n_neighbors", "epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, not {value!r}")
        widths = _whole_numbers("hidden", self.hidden)
        shape = (features,) if self.image_shape is None else _whole_numbers("image_shape", self.image_shape)
        if prod(shape) != features:
            raise ValueError(f"image_shape {shape} has {prod(shape)} values, but X has {features} features")
        if not isinstance(self.method_options, dict | None):
            raise ValueError(f"method_options must be a dict of option names and values, not {self.method_options!r}")
        options = {key: _plain(value) for key, value in (self.method_options or {}).items()}
        for name in {"n_neighbors", "latent"} & set(options):
            raise ValueError(f"{name} is a parameter of the estimator: set it there, not in method_options")

        method = methods.get(self.method)
        if self.latent is not None:
            options["latent"] = self.latent
        if "n_neighbors" in method.options:
            options["n_neighbors"] = min(int(self.n_neighbors), count - 1)
            if self.n_neighbors >= count:
                there = f"{count} points have only {count - 1} neighbours: {count - 1} are used"
                warnings.warn(f"n_neighbors is {self.n_neighbors}, but {there}", stacklevel=3)
        method.configure(**options)
        network = Network(widths, int(self.n_components), self.activation)
        built = {"method": self.method, "options": options, "network": asdict(network), "data_shape": shape}
        return {**built, "seed": _seed(self.random_state)}

    def transform(self, X):
        """(N, m) codes of the (N, D) rows of X; the posterior's mean where the codes have a posterior."""
        return self._encode(self._rows(X))

    def inverse_transform(self, X):
        """The (N, D) rows that the decoder gives for (N, m) codes, in the units of the training data."""
        check_is_fitted(self, "model_")
        X = check_array(X, dtype=_DTYPES, input_name="X")
        if X.shape[1] != self._n_features_out:
            raise ValueError(f"X has {X.shape[1]} columns, but the codes have {self._n_features_out}")
        return self._decode(X)

    def reconstruct(self, X):
        """Decoded codes of the rows of X, (N, D), in the units of X."""
        return self._decode(self.transform(X))

    def score(self, X, y=None):
        """Minus the reconstruction error, -(1/N) Σ_i (1/D) ‖x_i - f(g(x_i))‖², in the squared units of X; best is 0."""
        X = self._rows(X)
        return -float(np.mean(np.square(X - self._decode(self._encode(X)), dtype=np.float64)))

    def sample(self, n_samples=1, density=None, random_state=None):
        """New rows, (n_samples, D): codes drawn from a density fitted to the codes of the training data, decoded.

        Where codes have a Gaussian posterior, the density is fitted to one draw per point, as in the two-stage VAE. Draws
        for circular codes are projected to the circle. ValueError for an unknown density or a number below 1.

        Arguments:
            density: a name from ``densities.DENSITIES``; None is the method's own. Fitted once, kept until the next fit.
            random_state: of the drawing; None is the seed of the fit, so that the same call gives the same rows.
        """
        check_is_fitted(self, "model_")
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples must be a whole number >= 1, not {n_samples!r}")
        name = methods.get(self._recipe["method"]).density if density is None else density
        if name not in self._densities:
            codes = torch.from_numpy(self.embedding_ if self._draws is None else self._draws)
            self._densities[name] = densities.fit(name, codes, self.seed_)
        seed = self.seed_ if random_state is None else _seed(random_state)
        codes = self._densities[name].sample(int(n_samples), torch.Generator().manual_seed(seed))
        form = self.model_.encoder[-1] if isinstance(self.model_.encoder, torch.nn.Sequential) else None
        if isinstance(form, Circular):
            codes = form(codes)
        return self._decode(codes.numpy().astype(self.embedding_.dtype, copy=False))

    @property
    def _n_features_out(self) -> int:
        return self._recipe["network"]["latent_dim"]

    def _rows(self, X, reset: bool = False) -> np.ndarray:
        if not reset:
            check_is_fitted(self, "model_")
        if getattr(X, "ndim", 2) > 2:
            flatten = f"flatten images by X.reshape(len(X), -1) and set image_shape={tuple(X.shape[1:])}"
            raise ValueError(f"X has the shape {tuple(X.shape)}, but rows are needed: {flatten}")
        return validate_data(self, X, reset=reset, dtype=_DTYPES, ensure_min_samples=2 if reset else 1)

    def _encode(self, X: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy((X - self.mean_.astype(X.dtype)) / X.dtype.type(self.scale_))
        return self._through(self.model_.encoder, rows.unflatten(1, self._recipe["data_shape"]))

    def _decode(self, Z: np.ndarray) -> np.ndarray:
        X = self._through(self.model_.decoder, torch.tensor(Z))
        return X * X.dtype.type(self.scale_) + self.mean_.astype(X.dtype)

    @torch.no_grad()
    def _through(self, part: torch.nn.Module, rows: Tensor) -> np.ndarray:
        """``rows`` through a copy of the encoder or decoder, in their type and on the device, a few at a time."""
        device = find_device(str(self.device))
        network = copy.deepcopy(part).to(device, rows.dtype)
        return np.concatenate([network(some.to(device)).flatten(1).cpu().numpy() for some in rows.split(_CHUNK)])

    def __getstate__(self):
        state = super().__getstate__().copy()
        if "model_" in state:  # PyTorch pickles no network with tied or normalized weights, but always its state
            weights = {name: value.numpy() for name, value in self.model_.state_dict().items()}
            state |= {"model_": weights, "_densities": {}}
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if "model_" in state:
            weights = {name: torch.tensor(value) for name, value in state["model_"].items()}
            self.model_ = _built(self._recipe, weights)[1].eval().requires_grad_(False)

    def save(self, path):
        """Write the fitted estimator to one file, from which :meth:`load` gives the same numbers bit for bit. The file
        is in the safetensors format (ImportError without that package), holds no code, and is written atomically. A
        ``RandomState`` is stored as the seed drawn from it; densities are fitted again when needed."""
        check_is_fitted(self, "model_")
        safetensors_torch = library("safetensors.torch", "safetensors", "saving needs", "methods")
        params = self.get_params(deep=False) | {"device": str(self.device)}
        if not isinstance(self.random_state, Integral | None):
            params["random_state"] = self.seed_
        content = {"format": _FORMAT, "nrae_lib": nrae_lib.__version__, "params": params, "recipe": self._recipe}
        content["feature_names"] = getattr(self, "feature_names_in_", None)
        text = json.dumps(content, default=_plain)
        # Cloned, because tied weights share their memory, which the format does not know.
        tensors = {f"model.{name}": value.clone().contiguous() for name, value in self.model_.state_dict().items()}
        arrays = {"embedding": self.embedding_, "loss": self.loss_, "mean": self.mean_, "scale": [self.scale_]}
        arrays |= {} if self._draws is None else {"draws": self._draws}
        tensors |= {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        metadata = {"manifold_autoencoder": text, "sha256": _digest(text, tensors)}
        write_atomically(Path(path), safetensors_torch.save(tensors, metadata))

    @classmethod
    def load(cls, path):
        """The fitted estimator that :meth:`save` wrote. FileNotFoundError without such a file, ImportError without
        safetensors, ValueError for a file that is damaged, from elsewhere or from a newer version.
        """
        safetensors = library("safetensors", "safetensors", "loading needs", "methods")
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist or is no file")
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            text = metadata["manifold_autoencoder"]
            content = json.loads(text)
            if content["format"] <= _FORMAT and metadata["sha256"] != _digest(text, tensors):
                raise ValueError("its checksum does not match")
        except Exception as error:
            raise ValueError(f"{path} is damaged or was not written by ManifoldAutoencoder.save ({error})") from error
        if content["format"] > _FORMAT:
            newer = f"whose format {content['format']} is newer than this version's ({_FORMAT}): update nrae_lib"
            raise ValueError(f"{path} was written by nrae_lib {content.get('nrae_lib')}, {newer}")
        recipe, params = content["recipe"], content["params"]
        self = cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in params.items()})
        weights = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
        try:
            _, model = _built(recipe, weights)
        except (ValueError, RuntimeError) as error:  # a method or a network that this version builds differently
            raise ValueError(f"{path} does not fit this version of nrae_lib: {error}") from error
        self.embedding_, loss, mean = (tensors[name].numpy() for name in ("embedding", "loss", "mean"))
        self._fitted(recipe, model, mean, float(tensors["scale"]), loss)
        self._draws, self.n_features_in_ = tensors["draws"].numpy() if "draws" in tensors else None, len(mean)
        if content["feature_names"] is not None:
            self.feature_names_in_ = np.array(content["feature_names"], dtype=object)
        return self


def _built(recipe: dict, weights: dict[str, Tensor] | None = None) -> tuple[methods.Objective, Autoencoder]:
    """Objective and network of a checked recipe: untrained, or with these weights."""
    objective = methods.get(recipe["method"]).configure(**recipe["options"])
    model = objective.build(Network(**recipe["network"]), tuple(recipe["data_shape"]), recipe["seed"])
    if weights is not None:
        model.load_state_dict(weights)
    return objective, model


@torch.no_grad()
def _posterior_draws(model: Autoencoder, data: Tensor, seed: int) -> np.ndarray | None:
    """(N, m) one draw per point from the posterior of its code; None for codes without a posterior."""
    if not hasattr(model.encoder, "posterior"):
        return None
    parts = zip(*(model.encoder.posterior(part) for part in data.split(_CHUNK)), strict=True)
    mean, log_deviation = map(torch.cat, parts)
    noise = torch.empty_like(mean).normal_(generator=torch.Generator().manual_seed(seed))
    return (mean + log_deviation.exp() * noise).numpy()


def _seed(random_state) -> int:
    """A seed for PyTorch; a whole number stands for itself."""
    if random_state is None:  # not check_random_state, which would draw from numpy's global state
        return int(np.random.RandomState().randint(2**31 - 1))
    generator = check_random_state(random_state)
    return int(random_state) if isinstance(random_state, Integral) else int(generator.randint(2**31 - 1))


def _standardization(X: np.ndarray) -> tuple[np.ndarray, float]:
    """(D,) mean and one standard deviation of all centred values, 1 for constant data."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = X.mean(0, dtype=np.float64)
        centred = X - mean
        largest = np.abs(centred).max()  # divided out, so that squares neither overflow nor vanish
    if not np.isfinite(largest):
        raise ValueError("X holds values so large that their mean overflows: rescale it first")
    return mean, float(largest * np.sqrt(np.square(centred / largest).mean())) if largest else 1.0


def _whole_numbers(name: str, values) -> tuple[int, ...]:
    numbers = tuple(values) if np.iterable(values) else ()
    if not numbers or not all(isinstance(value, Integral) and value >= 1 for value in numbers):
        raise ValueError(f"{name} must be a tuple of whole numbers >= 1, not {values!r}")
    return tuple(map(int, numbers))


def _plain(value):
    """numpy's numbers, which a search over an array of candidates brings, as Python's."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


@contextmanager
def _progress_bar(epochs: int, title: str, shown: bool) -> Iterator[Callable[[int, Tensor], None] | None]:
    if not shown:
        yield None
        return
    tqdm = library("tqdm.auto", "tqdm", "verbose=True needs", "methods").tqdm
    with tqdm(total=epochs, desc=title, unit="epoch") as bar:

        def progress(done: int, loss: Tensor) -> None:
            bar.set_postfix(loss=f"{float(loss[-1]):.4g}", refresh=False)
            bar.update(done - bar.n)

        yield progress


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
