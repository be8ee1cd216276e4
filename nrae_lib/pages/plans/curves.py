"""The sine curve of Figure 4 and Table 1, and the Swiss roll of Figure 7, in full scale as the text and the released code have them."""

from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.pages.plans import HELD_OUT, both_ways, candidates, wrong_order
from nrae_lib.runs import Plan

# The paper's nine methods, and our ablation NRAE-0, which uses the decoder's value alone.
METHODS = ("ae", "vae", "wae", "dae", "cae", "grae", "spae", "nrae_0", "nrae_l", "nrae_q")
# The released code trains AE and NRAE only; DAE and NRAE-0 are trained beside them.
RELEASED_METHODS = ("ae", "dae", "nrae_0", "nrae_l", "nrae_q")
SEARCH = candidates(METHODS)  # the same budget for every method that has something to choose
# seeds: draws of points, noise and weights. quick holds only where the full-scale runs are not there.
PRESETS = {"smoke": dict(seeds=2, epochs=5), "quick": dict(seeds=1, epochs=100), "paper": dict(seeds=10, epochs=2000)}


def _optimization(preset: str, batch_size: int, extra: int = 0) -> Optimization:
    # The text gives no optimizer: Adam 1e-3 and the released code's schedule are this book's choice, for all methods.
    epochs = PRESETS[preset]["epochs"] + extra * (preset == "paper")
    return Optimization(epochs, batch_size, learning_rate=1e-3, decay_start=0.8)


def turning(metrics: dict[str, float]) -> tuple[float]:
    """The criterion of Figure 4: how far the learned curve's total turning is from the sine's, one half turn."""
    return (abs(metrics["total_turning"] - 1),)


def _plan(preset: str, conditions: dict) -> Plan:
    return Plan(
        conditions, METHODS, PRESETS[preset]["seeds"], keep="figure",
        keep_first="animation",  # seed 0 also keeps the curve during training
        search=SEARCH if preset == "paper" else {}, search_share=0.25,
        search_seeds=HELD_OUT,  # draws that are used for nothing else
        criterion="test_mse",  # on noise-free points of these draws
    )  # fmt: skip


def sine(preset: str) -> Plan:
    """Fifty noisy points of the sine curve."""
    n_test = 500 if preset == "smoke" else 10_000
    data = dict(data="sine", data_options=dict(n_train=50, n_test=n_test, noise=0.2, sampling="random"))
    # The released neighbourhood loss samples two of ten neighbours with replacement and never the centre, so that λ is a
    # factor without effect.
    released = dict(n_neighbors=10, neighbors_per_point=2, replace=True, include_center=False, neighbor_weight=100.0)
    code = dict(  # ELU, three layers of 512, batches of 32
        **data,
        network=Network(hidden=(512, 512, 512), latent_dim=1, activation="elu"),
        optimization=_optimization(preset, batch_size=32, extra=1),
        recipe="released",
        methods=RELEASED_METHODS,
    )
    searched = {
        # ReLU 2-1024-1024-1 and 1-1024-1024-2, full batches. NRAE-Q is NRAE-L there.
        "text": dict(
            **data,
            network=Network(hidden=(1024, 1024), latent_dim=1, activation="relu"),
            optimization=_optimization(preset, batch_size=50),
            recipe="paper",
            same_choice={"nrae_q": "nrae_l"},
        ),
    }
    if preset == "paper":  # where nothing is searched there is nothing to show
        searched["released code, searched"] = code
    configured = {"released code": code | dict(options=dict.fromkeys(("nrae_0", "nrae_l", "nrae_q"), released))}
    return _plan(preset, both_ways(preset, turning, searched) | configured)


def swiss_roll(preset: str) -> Plan:
    """Thirty noisy points of one turn of a spiral."""
    points = dict(n_train=30, n_test=1000, noise=0.01)
    text = dict(
        data="swiss_roll",
        data_options=dict(shape="text", **points),  # r(θ) = 0.1 + 0.9 θ/2π
        optimization=_optimization(preset, batch_size=30),
    )
    code = dict(  # radius 3, squeezed, on a grid; ELU, three layers of 512, batches of 16
        data="swiss_roll",
        data_options=dict(shape="released", **points),
        network=Network(hidden=(512, 512, 512), latent_dim=1, activation="elu"),
        optimization=_optimization(preset, batch_size=16, extra=1),
        recipe="released",
        methods=RELEASED_METHODS,
    )
    # The released configurations compare NRAE-L and NRAE-Q at different k and λ; NRAE-0, which they do not have, takes
    # those of NRAE-Q.
    configurations = {
        "nrae_0": dict(n_neighbors=3, neighbor_weight=100.0),
        "nrae_l": dict(n_neighbors=2, neighbor_weight=2.0),
        "nrae_q": dict(n_neighbors=3, neighbor_weight=100.0),
    }
    searched = {
        # ReLU 2-512-512-1, full batches. NRAE-Q is NRAE-L there.
        "text": dict(
            **text,
            network=Network((512, 512), latent_dim=1, activation="relu"),
            recipe="paper",
            same_choice={"nrae_q": "nrae_l"},
        ),
        "text with ELU": dict(**text, network=Network((512, 512), latent_dim=1, activation="elu"), recipe="paper_elu"),
    }
    configured = code | dict(options=configurations)
    if preset == "paper":  # where nothing is searched there is nothing to show
        searched["released code, searched"] = code
        configured["seeds"] = 20  # it is compared with six runs of the authors' own code
    return _plan(preset, both_ways(preset, wrong_order, searched) | {"released code": configured})
