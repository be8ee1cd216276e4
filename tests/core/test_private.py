"""The fallbacks of private API: whatever uses it gives the same with each of them, and with all at once."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from nrae_lib.core import private
from nrae_lib.core.graph import knn_graph
from tests.core import test_graph as graphs
from tests.core import test_taylor as jets

FLAGS = [name for name in vars(private) if name.startswith("HAS_")]


@pytest.fixture(params=[*FLAGS, "all"])
def fallback(request, monkeypatch):
    """Turns a fallback on, or all of them."""
    names = FLAGS if request.param == "all" else [request.param]
    return lambda: [monkeypatch.setattr(private, name, False) for name in names]


def test_this_release_has_what_is_probed():
    """Where this fails, PyTorch has changed: the library is right, but slow."""
    assert private.HAS_HOOKS and private.HAS_TRANSFORMS
    assert torch.backends.mkldnn.is_available() == private.HAS_ONEDNN


def test_private_names_of_pytorch_stand_in_one_file():
    private_name = re.compile(r"\b(torch|nn)\.(\w+\.)*_[a-z]|from torch\S* import .*\b_")
    paths = Path(private.__file__).parents[1].rglob("*.py")
    assert {path.name for path in paths if private_name.search(path.read_text())} == {"private.py"}


def test_a_changed_call_is_noticed():
    assert not private._works(lambda: torch.ops.mkldnn._no_such_product(torch.ones(1), torch.ones(1)))
    assert not private._works(lambda: torch.mm(torch.ones(1, 1)))


@pytest.mark.parametrize("name", jets.LAYERS)
def test_every_layer(name, fallback):
    fallback()
    torch.manual_seed(0)
    for order in (0, 1, 2):
        jets.check(jets.POSITIONS["middle"](jets.LAYERS[name]()), order=order, directions=2)


def test_images_and_large_layers(fallback):
    fallback()
    torch.manual_seed(0)
    jets.check(nn.Sequential(nn.Tanh(), nn.Conv2d(2, 3, 2), nn.Softplus(), nn.Flatten()), (2, 2, 5, 6))
    for order in (0, 1, 2):
        jets.test_single_precision_of_large_layers(order)


def test_graph(fallback, monkeypatch):
    fallback()
    points = graphs.normal(300, 40)
    monkeypatch.setattr(graphs.graph, "_SMALL", 0)
    assert torch.equal(knn_graph(points, 5), graphs.all_differences(points, 5))
