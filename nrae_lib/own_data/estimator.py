"""Every method of the catalogue as a scikit-learn transformer, for one's own data."""

import copy
import hashlib
import importlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import prod
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

import nrae_lib
from nrae_lib.core import methods
from nrae_lib.core.files import write_atomically
from nrae_lib.core.models import Autoencoder, Circular, Network
from nrae_lib.core.training import Optimization, fit
from nrae_lib.runs import find_device

_FORMAT = 1  # of saved files; raise it when an older version of this module could not read them
_CHUNK = 8192  # rows that go through the network at once
_DTYPES = (np.float64, np.float32)


class ManifoldAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An autoencoder that learns a low-dimensional code of the rows of X, by any method of ``methods.CATALOGUE``.

    Training is in float32; ``transform`` and its relatives compute and answer in the type of their argument, float32
    or float64 (everything else becomes float64). The estimator never uses or changes a global random state. On a CPU
    the same ``random_state`` and data give the same result bit for bit.

    Arguments:
        method: a name from ``methods.CATALOGUE``, such as "nrae_l", "nrae_q", "iae" or "vae", also with penalties
            added, such as "nrae_l+mmd".
        n_components: m, the dimension of the code.
        n_neighbors: k of the neighbour graph, for the methods that have one; ignored by the others. More than N - 1
            neighbours do not exist: then k is N - 1, with a warning.
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        activation: a name from ``models.ACTIVATIONS``. A ReLU network has no second derivative, which "nrae_q" needs.
        epochs: passes over the data; small data need more of them.
        batch_size, learning_rate: of Adam.
        method_options: the method's other options by name, such as ``{"neighbor_weight": 0.5}``; see
            ``methods.get(method).options``. Weights hold for standardized data.
        latent: form of the code, "plain", "circular" (on the unit circle or sphere) or "batchnorm"; None is the
            method's own.
        standardize: subtract the mean of every feature and divide by ONE standard deviation, that of all centred
            values. Distances keep their proportions, and with them the neighbours; scaling each feature by itself would
            change the metric. Constant data are only centred.
        image_shape: shape of what a row holds, such as (1, 28, 28), for images that were flattened; None: (D,).
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ... The trained weights return to the CPU.
        random_state: a whole number, a ``numpy.random.RandomState``, or None for a new seed at every fit (drawn
            from the operating system, not from numpy's global state).
        verbose: show a progress bar.

    Attributes:
        model_: the trained network, an ``nn.Module`` with ``encoder`` and ``decoder``, for standardized data.
        embedding_: (N, m) codes of the training data.
        loss_: (epochs,) mean loss of every epoch, for standardized data.
        mean_, scale_: what ``standardize`` subtracts, (D,), and divides by.
        n_neighbors_: k as used, None for methods without a graph.
        seed_: the seed that was used.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> model = ManifoldAutoencoder("ae", n_components=2, hidden=(8,), epochs=2, random_state=0)
        >>> model.fit_transform(X).shape, model.sample(4).shape
        ((50, 2), (4, 3))
    """

    def __init__(
        self,
        method="nrae_l",
        n_components=2,
        n_neighbors=15,
        *,
        hidden=(256, 256),
        activation="elu",
        epochs=500,
        batch_size=128,
        learning_rate=1e-3,
        method_options=None,
        latent=None,
        standardize=True,
        image_shape=None,
        device="auto",
        random_state=None,
        verbose=False,
    ):
        self.method = method
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.hidden = hidden
        self.activation = activation
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.method_options = method_options
        self.latent = latent
        self.standardize = standardize
        self.image_shape = image_shape
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # ---------------------------------------------------------------- training

    def fit(self, X, y=None):
        """Train on the rows of X.

        Arguments:
            X: (N, D) array or table, N >= 2; images are flattened, see ``image_shape``.
            y: ignored.

        Returns:
            The estimator.

        Raises:
            ValueError: for a parameter or data that cannot be, naming what can; ``n_neighbors`` too large is a warning.
            FloatingPointError: when training diverges.
        """
        X = self._rows(X, reset=True)
        recipe = self._checked_recipe(*X.shape)
        device = self._device()
        recipe["seed"] = _seed(self.random_state)
        mean, scale = _standardization(X) if self.standardize else (np.zeros(X.shape[1]), 1.0)
        data = torch.from_numpy(((X - mean) / scale).astype(np.float32)).unflatten(1, recipe["data_shape"])
        optimization = Optimization(int(self.epochs), int(self.batch_size), float(self.learning_rate))

        objective, model = _built(recipe)
        with _progress_bar(optimization.epochs, self.method, self.verbose) as progress:
            trained = fit(model.to(device), objective, data, optimization, recipe["seed"], progress=progress)
        # Only now, so that a training that fails leaves an earlier one untouched.
        self._recipe, self._densities, self.mean_, self.scale_ = recipe, {}, mean, scale
        self.seed_, self.n_neighbors_ = recipe["seed"], recipe["options"].get("n_neighbors")
        self.model_ = model.cpu().eval().requires_grad_(False)
        self.loss_ = trained.loss.cpu().numpy()
        self.embedding_ = self._encode(X)
        self._draws = _posterior_draws(self.model_, data, self.seed_)
        return self

    def _checked_recipe(self, count: int, features: int) -> dict:
        """What decides the network besides the seed, as plain data, from the checked parameters."""
        for name in ("n_components", "n_neighbors", "epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, not {value!r}")
        if not isinstance(self.learning_rate, Real) or not 0 < self.learning_rate < np.inf:
            raise ValueError(f"learning_rate must be a number > 0, not {self.learning_rate!r}")
        widths = _whole_numbers("hidden", self.hidden)
        shape = (features,) if self.image_shape is None else _whole_numbers("image_shape", self.image_shape)
        if prod(shape) != features:
            raise ValueError(f"image_shape {shape} has {prod(shape)} values, but X has {features} features")
        if not isinstance(self.method_options, dict | None):
            raise ValueError(f"method_options must be a dict of option names and values, not {self.method_options!r}")
        for name in {"n_neighbors", "latent"} & set(self.method_options or ()):
            raise ValueError(f"{name} is a parameter of the estimator: set it there, not in method_options")

        method = methods.get(self.method)
        options = {key: _plain(value) for key, value in (self.method_options or {}).items()}
        if "n_neighbors" in method.options:
            options["n_neighbors"] = min(int(self.n_neighbors), count - 1)
        if self.latent is not None:
            options["latent"] = self.latent
        method.configure(**options)
        network = Network(widths, int(self.n_components), self.activation)
        if options.get("n_neighbors", np.inf) < self.n_neighbors:
            warnings.warn(
                f"n_neighbors is {self.n_neighbors}, but {count} points have only {count - 1} neighbours: "
                f"{count - 1} are used",
                stacklevel=3,
            )
        return {"method": self.method, "options": options, "network": asdict(network), "data_shape": shape}

    def _device(self) -> str:
        return find_device(str(self.device))

    # ------------------------------------------------------------- the mappings

    def transform(self, X):
        """Codes of the rows of X.

        Arguments:
            X: (N, D).

        Returns:
            (N, m); the posterior's mean where the codes have a posterior.
        """
        return self._encode(self._fitted_rows(X))

    def inverse_transform(self, X):
        """The rows that the decoder gives for codes, in the units of the training data.

        Arguments:
            X: (N, m) codes.

        Returns:
            (N, D).
        """
        check_is_fitted(self, "model_")
        X = check_array(X, dtype=_DTYPES, input_name="X")
        if X.shape[1] != self._n_features_out:
            raise ValueError(f"X has {X.shape[1]} columns, but the codes have {self._n_features_out}")
        return self._decode(X)

    def reconstruct(self, X):
        """Decoded codes of the rows of X, (N, D), in the units of X."""
        return self._decode(self._encode(self._fitted_rows(X)))

    def score(self, X, y=None):
        """Minus the reconstruction error, -(1/N) Σ_i (1/D) ‖x_i - f(g(x_i))‖², in the squared units of X; best is 0."""
        X = self._fitted_rows(X)
        return -float(np.mean(np.square(X - self._decode(self._encode(X)), dtype=np.float64)))

    def sample(self, n_samples=1, density=None, random_state=None):
        """New rows: codes drawn from a density that is fitted to the codes of the training data, decoded.

        Where codes have a Gaussian posterior, the density is fitted to one draw per point, as in the two-stage VAE. Draws
        for circular codes are projected to the circle.

        Arguments:
            n_samples: how many.
            density: a name from ``densities.DENSITIES``; None is the method's own (``methods.get(method).density``).
                Fitted once and kept until the next fit.
            random_state: of the drawing, as in the constructor; None is the seed of the fit, so that the same call
                gives the same rows.

        Returns:
            (n_samples, D).

        Raises:
            ValueError: for an unknown density or a number below 1.
        """
        from nrae_lib.core import densities

        check_is_fitted(self, "model_")
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples must be a whole number >= 1, not {n_samples!r}")
        name = methods.get(self._recipe["method"]).density if density is None else density
        if name not in self._densities:
            self._densities[name] = densities.fit(
                name, torch.from_numpy(self.embedding_ if self._draws is None else self._draws), self.seed_
            )
        seed = self.seed_ if random_state is None else _seed(random_state)
        codes = self._densities[name].sample(int(n_samples), torch.Generator().manual_seed(seed))
        form = self.model_.encoder[-1] if isinstance(self.model_.encoder, torch.nn.Sequential) else None
        if isinstance(form, Circular):
            codes = form(codes)
        return self._decode(codes.numpy().astype(self.embedding_.dtype, copy=False))

    @property
    def _n_features_out(self) -> int:
        return self._recipe["network"]["latent_dim"]

    def _rows(self, X, reset: bool) -> np.ndarray:
        if getattr(X, "ndim", 2) > 2:
            raise ValueError(
                f"X has the shape {tuple(X.shape)}, but rows are needed: flatten images by X.reshape(len(X), -1) and "
                f"set image_shape={tuple(X.shape[1:])}"
            )
        return validate_data(self, X, reset=reset, dtype=_DTYPES, ensure_min_samples=2 if reset else 1)

    def _fitted_rows(self, X) -> np.ndarray:
        check_is_fitted(self, "model_")
        return self._rows(X, reset=False)

    def _standardized(self, X: np.ndarray) -> np.ndarray:
        return (X - self.mean_.astype(X.dtype)) / X.dtype.type(self.scale_)

    def _encode(self, X: np.ndarray) -> np.ndarray:
        shape = self._recipe["data_shape"]
        return self._through("encoder", X, lambda part: torch.from_numpy(self._standardized(part)).unflatten(1, shape))

    def _decode(self, Z: np.ndarray) -> np.ndarray:
        X = self._through("decoder", Z, torch.tensor)
        return X * X.dtype.type(self.scale_) + self.mean_.astype(X.dtype)

    @torch.no_grad()
    def _through(self, part: str, rows: np.ndarray, prepared: Callable[[np.ndarray], Tensor]) -> np.ndarray:
        """``rows`` through a copy of the encoder or decoder, in their type and on the device, a few at a time."""
        device = self._device()
        network = copy.deepcopy(getattr(self.model_, part)).to(device, torch.from_numpy(rows[:0].copy()).dtype)
        chunks = (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
        return np.concatenate([network(prepared(chunk).to(device)).flatten(1).cpu().numpy() for chunk in chunks])

    # ---------------------------------------------------------------- storage

    def __getstate__(self):
        state = super().__getstate__().copy()
        if "model_" in state:  # PyTorch pickles no network with tied or normalized weights, but always its state
            state["model_"] = {name: value.numpy() for name, value in self.model_.state_dict().items()}
            state["_densities"] = {}
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if "model_" in state:
            self._restore({name: torch.tensor(value) for name, value in state["model_"].items()})

    def _restore(self, state: dict[str, Tensor]) -> None:
        _, model = _built(self._recipe)
        model.load_state_dict(state)
        self.model_ = model.eval().requires_grad_(False)

    def save(self, path):
        """Write the fitted estimator to one file, from which :meth:`load` gives the same numbers bit for bit.

        The file is in the safetensors format, holds no code, and is written atomically. A ``RandomState`` is stored as
        the seed drawn from it; densities are fitted again when needed.

        Raises:
            ImportError: if the package safetensors is missing.
        """
        check_is_fitted(self, "model_")
        safetensors_torch = _safetensors("torch")
        params = self.get_params(deep=False)
        if not isinstance(self.random_state, Integral | None):
            params["random_state"] = self.seed_
        names = getattr(self, "feature_names_in_", None)
        content = {
            "format": _FORMAT,
            "nrae_lib": nrae_lib.__version__,
            "params": {**params, "device": str(self.device)},
            "recipe": self._recipe,
            "feature_names": None if names is None else list(names),
        }
        # Cloned, because tied weights share their memory, which the format does not know.
        tensors = {f"model.{name}": value.clone().contiguous() for name, value in self.model_.state_dict().items()}
        arrays = {
            "embedding": self.embedding_,
            "loss": self.loss_,
            "mean": self.mean_,
            "scale": np.float64([self.scale_]),
        }
        if self._draws is not None:
            arrays["draws"] = self._draws
        tensors |= {name: torch.tensor(value) for name, value in arrays.items()}
        text = json.dumps(content, default=_plain)
        metadata = {"manifold_autoencoder": text, "sha256": _digest(text, tensors)}
        write_atomically(Path(path), safetensors_torch.save(tensors, metadata))

    @classmethod
    def load(cls, path):
        """The fitted estimator that :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ImportError: if the package safetensors is missing.
            ValueError: if the file is damaged, comes from elsewhere or from a newer version of this library.
        """
        safetensors = _safetensors()
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist or is no file")
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        except Exception as error:
            raise ValueError(f"{path} is damaged or was not written by ManifoldAutoencoder.save ({error})") from error
        if "manifold_autoencoder" not in metadata:
            raise ValueError(f"{path} was not written by ManifoldAutoencoder.save")
        text = metadata["manifold_autoencoder"]
        try:
            content = json.loads(text)
            if content["format"] <= _FORMAT and metadata.get("sha256") != _digest(text, tensors):
                raise ValueError("its checksum does not match")
        except Exception as error:
            raise ValueError(f"{path} is damaged ({error})") from error
        if content["format"] > _FORMAT:
            raise ValueError(
                f"{path} was written by nrae_lib {content.get('nrae_lib')}, whose format {content['format']} is newer "
                f"than this version's ({_FORMAT}): update nrae_lib"
            )

        params = {key: tuple(value) if isinstance(value, list) else value for key, value in content["params"].items()}
        self = cls(**params)
        recipe = content["recipe"]
        self._recipe = {**recipe, "data_shape": tuple(recipe["data_shape"])}
        self.seed_, self.n_neighbors_ = recipe["seed"], recipe["options"].get("n_neighbors")
        self.embedding_, self.loss_, self.mean_ = (tensors[name].numpy() for name in ("embedding", "loss", "mean"))
        self._draws = tensors["draws"].numpy() if "draws" in tensors else None
        self.scale_, self.n_features_in_, self._densities = float(tensors["scale"]), len(self.mean_), {}
        if content["feature_names"] is not None:
            self.feature_names_in_ = np.array(content["feature_names"], dtype=object)
        try:
            self._restore(
                {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
            )
        except (ValueError, RuntimeError) as error:  # a method or a network that this version builds differently
            raise ValueError(f"{path} does not fit this version of nrae_lib: {error}") from error
        return self


def _built(recipe: dict) -> tuple[methods.Objective, Autoencoder]:
    """Objective and untrained network of what ``_checked_recipe`` gave, and a seed."""
    objective = methods.get(recipe["method"]).configure(**recipe["options"])
    return objective, objective.build(Network(**recipe["network"]), tuple(recipe["data_shape"]), recipe["seed"])


@torch.no_grad()
def _posterior_draws(model: Autoencoder, data: Tensor, seed: int) -> np.ndarray | None:
    """(N, m) one draw per point from the posterior of its code; None for codes without a posterior."""
    if not hasattr(model.encoder, "posterior"):
        return None
    mean, log_deviation = map(
        torch.cat, zip(*(model.encoder.posterior(part) for part in data.split(_CHUNK)), strict=True)
    )
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
    try:
        numbers = tuple(values)
    except TypeError:
        numbers = ()
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
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "verbose=True needs the package tqdm: pip install 'nrae-lib[methods]'", name="tqdm"
        ) from error
    with tqdm(total=epochs, desc=title, unit="epoch") as bar:

        def progress(done: int, loss: Tensor) -> None:
            if done % max(1, epochs // 50) == 0 or done == epochs:  # not every time: reading it waits for the device
                bar.set_postfix(loss=f"{float(loss[-1]):.4g}", refresh=False)
            bar.update(done - bar.n)

        yield progress


def _safetensors(part: str = ""):
    try:
        return importlib.import_module("safetensors" + (f".{part}" if part else ""))
    except ImportError as error:
        raise ImportError(
            "saving and loading need the package safetensors: pip install 'nrae-lib[methods]'", name="safetensors"
        ) from error


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
