"""The toys of Figures 1 and 2: two curves, small networks. The paper says nothing about its drawings; these settings are ours."""

from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.runs import Plan

METHODS = ("ae", "nrae_l", "nrae_q")
# quick holds only where the full-scale runs are not there.
PRESETS = {"smoke": dict(seeds=2, epochs=20), "quick": dict(seeds=2, epochs=500), "paper": dict(seeds=20, epochs=1500)}


def plan(preset: str) -> Plan:
    """Nothing is searched: λ = 1 for every neighbour (the library's default) and k = 4."""
    both = dict(
        # tanh is smooth everywhere: linear and quadratic expansions differ.
        network=Network(hidden=(64, 64), latent_dim=1, activation="tanh"),
        # A batch holds all points.
        optimization=Optimization(PRESETS[preset]["epochs"], batch_size=30, learning_rate=3e-3, decay_start=0.8),
    )
    sine = dict(n_train=20, n_test=1000, noise=0.2, sampling="grid")
    roll = dict(n_train=30, n_test=1000, noise=0.01)
    return Plan(
        {
            "noisy sine": dict(data="sine", data_options=sine, **both),
            "Swiss roll": dict(data="swiss_roll", data_options=roll, **both),
        },
        METHODS,
        PRESETS[preset]["seeds"],
        keep="neighborhood",
        fixed={name: dict(neighbor_weight=1.0, n_neighbors=4) for name in METHODS[1:]},
    )
