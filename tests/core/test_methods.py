"""The catalogue: every entry trains, refuses what it does not know, and keeps its promises."""

import numpy as np
import pytest
import torch

from nrae_lib.core import losses, methods
from nrae_lib.core.losses import point_reconstruction
from nrae_lib.core.methods import (
    EXACT_JACOBIAN_LIMIT,
    KL,
    MMD,
    PENALTIES,
    RECONSTRUCTIONS,
    Barycenter,
    Batch,
    Contraction,
    Isometry,
    Neighborhood,
    Objective,
    Point,
    Preparation,
    compose,
)
from nrae_lib.core.models import LATENTS, WEIGHTS, Network
from nrae_lib.core.training import Optimization, fit

ALL = list(methods.CATALOGUE)
# PHATE speaks of every graph with more than one component, and 24 random points may give one.
pytestmark = pytest.mark.filterwarnings("ignore:Graph is disconnected")
SHAPES = {"vectors": (3,), "images": (1, 6, 6)}


NRAE = [name for name in ALL if methods.get(name).objective == Objective(methods.get(name).objective.reconstruction)
        and "n_neighbors" in methods.get(name).options and "neighbor_weight" in methods.get(name).options]  # fmt: skip


def data_of(shape, count=24, dtype=torch.float32):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def network_of(activation="elu", latent_dim=2):
    return Network((16, 12), latent_dim, activation, "sigmoid")


def model_of(shape, activation="elu", dtype=torch.float32, objective=None):
    return (objective or Objective()).build(network_of(activation), shape, seed=0).to(dtype)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_three_steps_train_every_parameter(name, kind, dtype):
    objective, data = methods.get(name).configure(), data_of(SHAPES[kind], dtype=dtype)
    model = model_of(SHAPES[kind], dtype=dtype, objective=objective)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = fit(model, objective, data, Optimization(3, 24), seed=0)
    assert torch.isfinite(trained.loss).all()
    assert trained.steps == 3
    for key, value in model.state_dict().items():
        assert torch.isfinite(value).all()
        if value.is_floating_point():
            assert value.dtype == dtype
        assert not torch.equal(value, before[key]), f"{key} did not move"


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", ALL)
def test_every_parameter_gets_a_gradient(name, kind):
    objective, data = methods.get(name).configure(), data_of(SHAPES[kind])
    model = model_of(SHAPES[kind], objective=objective)
    loss_and_gradients(objective, model, data)  # allow_unused is off: a parameter without gradient raises


@pytest.mark.parametrize("name", ALL)
def test_saved_weights_reproduce_outputs_bit_for_bit(name, tmp_path):
    objective, data = methods.get(name).configure(), data_of((3,))
    model, loaded = (model_of((3,), objective=objective) for _ in range(2))
    fit(model, objective, data, Optimization(2, 8), seed=0)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    loaded.eval()
    assert torch.equal(loaded(data), model(data))


@pytest.mark.parametrize("name", ALL)
def test_codes_and_reconstructions_of_a_trained_model_are_deterministic(name):
    objective, data = methods.get(name).configure(), data_of((3,))
    model = model_of((3,), objective=objective)
    fit(model, objective, data, Optimization(1, 24), seed=0)
    assert model.encoder(data).shape == (24, 2)
    assert torch.equal(model(data), model(data))
    torch.testing.assert_close(model(data)[:1], model(data[:1]))  # one by one as in a batch


@pytest.mark.parametrize("name", ALL)
def test_unknown_option_is_refused_with_the_valid_ones(name):
    method = methods.get(name)
    with pytest.raises(ValueError, match=f"method '{name}': no option 'lamda'") as refusal:
        method.configure(lamda=1)
    assert all(option in str(refusal.value) for option in method.options)


def test_every_method_stands_in_one_section_under_its_own_name():
    entries = [entry for section in methods.SECTIONS.values() for entry in section]
    assert len(entries) == len(methods.CATALOGUE) == 36
    assert all(methods.get(entry.name) is entry for entry in entries)


def test_unknown_method_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="unknown method 'nrae_x'") as refusal:
        methods.get("nrae_x")
    assert all(name in str(refusal.value) for name in ALL)


@pytest.mark.parametrize("name", ALL)
def test_search_candidates_are_valid_and_within_one_budget(name):
    method = methods.get(name)
    candidates = method.candidates()
    assert len(candidates) in (1, 16)  # nothing to search, or as many as every other method
    for options in candidates:
        method.configure(**options)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("dae", {"corruption": -0.1}, "corruption"),
        ("dae", {"corruption": float("nan")}, "corruption"),
        ("nrae_l", {"neighbor_weight": -1.0}, "neighbor_weight"),
        ("nrae_l", {"n_neighbors": -1}, "n_neighbors"),
        ("nrae_q", {"neighbors_per_point": 9}, "at most n_neighbors"),
        ("nrae_q", {"neighbors_per_point": 0}, "at least 1"),
        ("nrae_q", {"weighting": "mean"}, "choose one of sample, equation"),
        ("nrae_l", {"n_neighbors": "3"}, "must be of type int, not '3'"),
        ("nrae_l", {"n_neighbors": 2.5}, "must be of type int"),
        ("nrae_l", {"neighbor_weight": "1"}, "must be of type float"),
        ("nrae_l", {"replace": "yes"}, "must be of type bool"),
        ("dae", {"corruption": True}, "must be of type float"),
    ],
)
def test_values_out_of_range_are_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        methods.get(name).configure(**options)


def loss_and_gradients(objective, model, data, index=None, seed=0):
    latent_dim = model.encoder(data[:2]).shape[1]
    batch = Batch(model, data, index, torch.Generator().manual_seed(seed))
    loss = objective.loss(batch, objective.prepare(Preparation(data, latent_dim, 0)))
    return loss, torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_whole_batch_shortcut_equals_the_plain_path(order):
    """With all points in the batch the neighbours' codes are looked up instead of computed again."""
    model, data = model_of((3,), dtype=torch.float64), data_of((3,), dtype=torch.float64)
    objective = Objective(Neighborhood(order=order, neighbors_per_point=2))
    fast, fast_gradients = loss_and_gradients(objective, model, data)
    plain, plain_gradients = loss_and_gradients(objective, model, data, torch.arange(len(data)))
    torch.testing.assert_close(fast, plain)
    for ours, theirs in zip(fast_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", NRAE)
def test_without_neighbours_nrae_is_the_autoencoder(name):
    """k = 0 leaves N(x) = {x} (paper, section 2.1, condition i)."""
    model, data = model_of((3,)), data_of((3,))
    ours, ours_gradients = loss_and_gradients(methods.get(name).configure(n_neighbors=0), model, data)
    plain, plain_gradients = loss_and_gradients(methods.get("ae").configure(), model, data)
    assert torch.equal(ours, plain)
    assert all(map(torch.equal, ours_gradients, plain_gradients))


@pytest.mark.parametrize("name", NRAE)
def test_with_lambda_zero_nrae_trains_the_autoencoder(name):
    """K = δ (condition ii) leaves a constant factor 1/2, which Adam ignores up to its ε (steps here are 1e-3)."""
    data = data_of((3,)).double()
    models = [model_of((3,)).double() for _ in range(2)]
    fit(models[0], methods.get(name).configure(neighbor_weight=0.0), data, Optimization(3, 24), seed=0)
    fit(models[1], methods.get("ae").configure(), data, Optimization(3, 24), seed=0)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_relu_with_linear_output_trains_q_and_l_to_the_same_weights():
    weights = []
    for name in ("nrae_l", "nrae_q"):
        model = Network((16, 12), 1, "relu", "linear").build((2,), seed=0)
        fit(model, methods.get(name).configure(), data_of((2,)), Optimization(5, 8), seed=0)
        weights.append(list(model.parameters()))
    assert all(map(torch.equal, *weights))


def test_dae_reconstructs_the_uncorrupted_point_from_a_corrupted_one():
    model, data = model_of((3,)), data_of((3,))
    ours, _ = loss_and_gradients(methods.get("dae").configure(corruption=0.3), model, data, seed=5)
    noise = torch.empty_like(data).normal_(generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours, point_reconstruction(data, model(data + 0.3 * noise)))
    none, _ = loss_and_gradients(methods.get("dae").configure(corruption=0.0), model, data)
    assert torch.equal(none, loss_and_gradients(methods.get("ae").configure(), model, data)[0])


def test_training_sees_every_neighbour_and_only_neighbours():
    data = data_of((3,))
    objective = methods.get("nrae_l").configure(n_neighbors=2)
    prepared = objective.prepare(Preparation(data, 2, 0))
    seen = set()

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(3, 2)
            self.decoder = torch.nn.Linear(2, 3)

    model, generator = Spy(), torch.Generator().manual_seed(0)
    model.encoder.register_forward_hook(lambda _, inputs, __: seen.update(map(tuple, inputs[0][1:].tolist())))
    for _ in range(40):
        objective.loss(Batch(model, data, torch.tensor([3]), generator), prepared)
    assert seen == {tuple(data[j].tolist()) for j in prepared["reconstruction"][3]}


# ------------------------------------------------------------------------------------------------------ composition


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
def test_any_reconstruction_combines_with_any_penalty(reconstruction, penalty):
    """The loss is the sum of both, and reaches every parameter, in batches and in full."""
    objective = compose(reconstruction, penalty)
    data = data_of((3,))
    model = model_of((3,), objective=objective)
    for index in (None, torch.arange(0, 24, 2)):
        prepared = objective.prepare(Preparation(data, 2, 0))
        batch = Batch(model, data, index, torch.Generator().manual_seed(0))
        parts = objective.weighted(batch, prepared)
        assert list(parts) == ["reconstruction", penalty] and all(torch.isfinite(part) for part in parts.values())
        total, gradients = loss_and_gradients(objective, model, data, index)
        torch.testing.assert_close(total, sum(parts.values()))
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_all_penalties_at_once_train():
    objective = compose("neighborhood_2", *(name for name in PENALTIES))
    model = model_of((3,), objective=objective)
    trained = fit(model, objective, data_of((3,)), Optimization(3, 10), seed=0)
    assert torch.isfinite(trained.loss).all()


def test_constructing_in_python_equals_naming():
    by_hand = Objective(Neighborhood(order=2, n_neighbors=8), (MMD(0.1), Contraction(0.2)))
    by_name = compose("neighborhood_2", "mmd", "contraction", n_neighbors=8, mmd_weight=0.1, contraction_weight=0.2)
    assert (
        by_hand
        == by_name
        == methods.get("nrae_q+mmd+contraction").configure(n_neighbors=8, mmd_weight=0.1, contraction_weight=0.2)
    )


def test_a_penalty_added_by_name_is_the_catalogues_combination():
    assert methods.get("nrae_l+mmd").objective == methods.get("nrwae_l").objective
    assert methods.get("nrae_q+barycenter").configure(n_neighbors=7) == methods.get("nrspae_q").configure(n_neighbors=7)
    with pytest.raises(ValueError, match="unknown penalty 'smoothness'") as refusal:
        methods.get("ae+smoothness")
    assert all(name in str(refusal.value) for name in PENALTIES)


def test_one_option_sets_every_term_that_has_it():
    objective = methods.get("nrspae_l").configure(n_neighbors=3)
    assert objective.reconstruction.n_neighbors == objective.penalties[0].n_neighbors == 3


def test_weights_of_summed_terms_are_divided_by_the_features():
    """I-AE weighs its terms against an error summed over features; here the error is their mean."""
    data = data_of((3,)).double()
    objective = Objective(Point(), (Isometry(0.6),))
    model = model_of((3,), dtype=torch.float64, objective=objective)
    batch = Batch(model, data, None, torch.Generator().manual_seed(0))
    weighted = objective.weighted(batch, {"reconstruction": None, "isometry": None})["isometry"]
    plain = Isometry(0.6).loss(Batch(model, data, None, torch.Generator().manual_seed(0)), None)
    torch.testing.assert_close(weighted, 0.6 / 3 * plain)


def test_the_variational_objective_is_the_negative_elbo_per_feature():
    data = data_of((3,)).double()
    objective = methods.get("vae").configure()
    model = model_of((3,), dtype=torch.float64, objective=objective)
    with torch.no_grad():
        model.learned["log_sigma"].fill_(-0.7)
    ours, _ = loss_and_gradients(objective, model, data)
    mean, log_deviation = model.encoder.posterior(data)
    posterior = torch.distributions.Normal(mean, log_deviation.exp())
    noise = torch.empty_like(mean).normal_(generator=torch.Generator().manual_seed(0))
    decoded = model.decoder(mean + log_deviation.exp() * noise)
    likelihood = (
        torch.distributions.Normal(decoded, torch.tensor(-0.7, dtype=torch.float64).exp()).log_prob(data).sum(1)
    )
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(ours, (divergence - likelihood).mean() / 3)


def test_constant_variance_posterior_keeps_its_deviation():
    model = model_of((3,), objective=methods.get("cv_vae").configure(deviation=0.5))
    _, log_deviation = model.encoder.posterior(data_of((3,)))
    torch.testing.assert_close(log_deviation.exp(), torch.full((24, 2), 0.5))


def test_a_weight_of_zero_leaves_the_reconstruction():
    model, data = model_of((3,)), data_of((3,))
    ours, _ = loss_and_gradients(methods.get("cae").configure(contraction_weight=0.0), model, data)
    assert torch.equal(ours, loss_and_gradients(methods.get("ae").configure(), model, data)[0])


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Objective(Point(), (MMD(), MMD())), "stands twice"),
        (lambda: Objective(latent="round"), "unknown latent 'round': choose one of plain, circular, batchnorm"),
        (lambda: Objective(weights="shared"), "choose one of free, tied, spectral, spectral_decoder"),
        (lambda: Objective(Point(), (KL(),), latent="circular"), "penalty 'kl' needs latent 'plain', not 'circular'"),
        (lambda: Objective(Point(), (Isometry(),), latent="circular"), "needs latent 'plain' or 'batchnorm'"),
        (lambda: Objective(Point(), (KL(),), weights="tied"), "a learned posterior has twice as many"),
        (lambda: Objective(Neighborhood(n_neighbors=8), (Barycenter(),)), "disagree about n_neighbors.*: 8, 5"),
        (lambda: Network((8,), 1).build((3,), 0, "circular"), "a circular code needs latent_dim .* at least 2"),
        (lambda: Point("absolute"), "choose one of squared, gaussian"),
        (lambda: MMD(kernel="cosine"), "choose one of gaussian, imq"),
        (lambda: Contraction(jacobian="some"), "choose one of auto, exact, estimate"),
        (lambda: Contraction(weight=float("inf")), "contraction_weight must be a finite number >= 0"),
        (lambda: compose("line"), "unknown reconstruction term 'line'"),
        (lambda: compose("point", "mnd"), "unknown penalty 'mnd'"),
        (lambda: compose("point", "mmd", kernel=3), "'kernel' must be of type str"),
    ],
)
def test_impossible_compositions_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


# ------------------------------------------------------------------------------------------------ forms of the model


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("name", ["ae", "nrae_q", "cae", "iae", "wae", "enrae_q", "spae", "rae_gp"])
def test_every_form_of_the_code_trains(name, latent):
    data = data_of((3,))
    if any(latent in penalty.excluded_latents for penalty in methods.get(name).objective.penalties):
        with pytest.raises(ValueError, match="needs latent"):
            methods.get(name).configure(latent=latent)
        return
    objective = methods.get(name).configure(latent=latent)
    model = model_of((3,), objective=objective)
    trained = fit(model, objective, data, Optimization(4, 10), seed=0)
    assert torch.isfinite(trained.loss).all()
    assert torch.isfinite(model(data)).all()


def test_circular_codes_lie_on_the_circle():
    model = model_of((3,), objective=Objective(latent="circular"))
    torch.testing.assert_close(model.encoder(data_of((3,))).norm(dim=1), torch.ones(24))


def test_batch_normalized_codes_have_mean_zero_and_variance_one():
    model = model_of((3,), objective=Objective(latent="batchnorm")).double()
    code = model.encoder(1000 * data_of((3,)).double())  # far above the ε of the normalization
    torch.testing.assert_close(code.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(code.var(0, correction=0), torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=0)


NORMALIZED = ["point", "denoising", "neighborhood_1", "extended_2", "relational"]


@pytest.mark.parametrize("reconstruction", NORMALIZED)
def test_the_order_of_the_penalties_does_not_matter(reconstruction):
    data = data_of((3,)).double()
    parts = []
    for penalties in (("contraction", "code_norm", "barycenter"), ("barycenter", "code_norm", "contraction")):
        objective = compose(reconstruction, *penalties, latent="batchnorm")
        model = model_of((3,), dtype=torch.float64, objective=objective)
        batch = Batch(model, data, torch.arange(0, 24, 2), torch.Generator().manual_seed(0))
        parts.append(objective.weighted(batch, objective.prepare(Preparation(data, 2, 0))))
    for name in parts[0]:
        torch.testing.assert_close(parts[0][name], parts[1][name])


def test_jacobians_of_normalized_codes_are_per_point_and_blind_to_the_scale_of_the_weights():
    """Each point's own derivative of the code normalized by the batch's statistics; these depend on the weights."""
    objective, data = methods.get("cae").configure(latent="batchnorm", contraction_weight=1.0), data_of((3,)).double()
    model = model_of((3,), dtype=torch.float64, objective=objective)

    def penalty():
        return objective.penalties[0].loss(Batch(model, 50 * data, None, torch.Generator()), None)

    ours = penalty()
    body, last = model.encoder
    raw = body(50 * data)
    scale = (raw.var(0, correction=0) + last.eps).sqrt()
    jacobians = torch.stack([torch.func.jacrev(body)(50 * point) for point in data]) / scale[:, None]
    torch.testing.assert_close(ours, jacobians.square().sum((1, 2)).mean())
    assert all(part.training for part in model.modules()), "the mode of training was not restored"
    with torch.no_grad():
        body[-1].weight.mul_(3)
        body[-1].bias.mul_(3)
    torch.testing.assert_close(penalty(), ours, rtol=1e-3, atol=0)  # up to the normalization's ε


@pytest.mark.parametrize("reconstruction", ["point", "neighborhood_1"])
@pytest.mark.parametrize("size", [24, 6, 2])
def test_neighbours_of_normalized_codes_are_normalized_by_the_centres(reconstruction, size):
    """A linear encoder keeps barycentres: of a plane's points their error is zero, whatever the batch."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(24, 2, generator=generator, dtype=torch.float64) @ torch.randn(
        2, 3, generator=generator, dtype=torch.float64
    )
    objective = compose(reconstruction, "barycenter", barycenter_weight=1.0, ridge=1e-9, latent="batchnorm")
    model = model_of((3,), dtype=torch.float64, objective=objective)
    model.encoder[0] = torch.nn.Linear(3, 2).double()
    index = None if size == 24 else torch.arange(size)
    batch = Batch(model, data, index, torch.Generator().manual_seed(0))
    parts = objective.weighted(batch, objective.prepare(Preparation(data, 2, 0)))
    assert parts["barycenter"] < 1e-10
    assert model.encoder[1].num_batches_tracked == 1
    torch.testing.assert_close(batch.code.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "reconstruction", ["gaussian_likelihood", "neighborhood_1", "neighborhood_2", "extended_1", "extended_2"]
)
def test_the_reconstruction_sees_draws_where_codes_have_a_posterior(reconstruction):
    """Without KL, log σ still gets a gradient, because the decoder sees μ + σ ε."""
    objective, data = compose(reconstruction, "kl", kl_weight=0.0), data_of((3,))
    model = model_of((3,), objective=objective)
    batch = Batch(model, data, torch.arange(12), torch.Generator().manual_seed(0))
    objective.loss(batch, objective.prepare(Preparation(data, 2, 0))).backward()
    mean, log_deviation = model.encoder.body[-1].bias.grad.chunk(2)
    assert (mean != 0).all() and (log_deviation.abs() > 1e-6).all()


def test_extended_expansion_of_a_posterior_is_that_of_one_draw():
    """At order 1 and a neighbour equal to the centre nothing is left but f(μ + σ ε)."""
    objective = compose("extended_1", "kl", n_neighbors=1, include_center=False, kl_weight=0.0)
    data = data_of((3,), 4).repeat(2, 1).double()  # every point has its copy as nearest neighbour
    model = model_of((3,), dtype=torch.float64, objective=objective)
    batch = Batch(model, data, None, torch.Generator().manual_seed(3))
    ours = objective.loss(batch, objective.prepare(Preparation(data, 2, 0)))
    mean, log_deviation = model.encoder.posterior(data)
    generator = torch.Generator().manual_seed(3)
    torch.randint(1, (8, 1), generator=generator)  # the choice of neighbours draws first
    draws = [mean + log_deviation.exp() * torch.empty_like(mean).normal_(generator=generator) for _ in range(2)]
    candidates = [(data - model.decoder(draw)).square().mean() for draw in draws]
    assert any(torch.allclose(ours, candidate) for candidate in candidates)


def test_a_model_or_a_batch_that_does_not_fit_is_refused_in_one_sentence():
    data, plain = data_of((3,)), model_of((3,))
    for name, sentence in (
        ("vae", "lacks log_sigma"),
        ("topoae", "lacks log_latent_scale"),
        ("cv_vae", "do not agree on a posterior"),
    ):
        with pytest.raises(ValueError, match=f"the model .*{sentence}.*build it with this objective's build"):
            fit(plain, methods.get(name).configure(), data, Optimization(1, 8), seed=0)
    for name in ("wae", "eae", "topoae"):
        objective = methods.get(name).configure()
        with pytest.raises(ValueError, match="batch_size must be at least 2"):
            fit(model_of((3,), objective=objective), objective, data, Optimization(1, 1), seed=0)


def test_numbers_of_numpy_are_numbers():
    ours = methods.get("nrae_l").configure(neighbor_weight=np.float32(0.5), n_neighbors=np.int64(7))
    assert ours == methods.get("nrae_l").configure(neighbor_weight=0.5, n_neighbors=7)
    assert type(ours.reconstruction.n_neighbors) is int


def test_tied_weights_stay_tied_and_count_once():
    objective, data = methods.get("tcae").configure(), data_of((3,))
    model = model_of((3,), objective=objective)
    fit(model, objective, data, Optimization(3, 24), seed=0)
    for ours, mirrored in zip((0, 2, 4), (4, 2, 0), strict=True):
        assert torch.equal(model.encoder[ours].weight.T, model.decoder[mirrored].weight)
        assert not torch.equal(model.decoder[mirrored].bias, torch.zeros_like(model.decoder[mirrored].bias))
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == 3 * 16 + 16 * 12 + 12 * 2 + 2 * (16 + 12) + 2 + 3
    )


@pytest.mark.parametrize("weights", [name for name in WEIGHTS if name.startswith("spectral")])
def test_spectral_norms_are_one(weights):
    objective, data = Objective(weights=weights), data_of((3,))
    model = model_of((3,), objective=objective)
    fit(model, objective, data, Optimization(200, 24), seed=0)
    for part, limited in ((model.encoder, weights == "spectral"), (model.decoder, True)):
        norms = [
            torch.linalg.matrix_norm(layer.weight, 2).item()
            for layer in part.modules()
            if isinstance(layer, torch.nn.Linear)
        ]
        # One power iteration per step follows the moving weights up to some per cent.
        assert (max(norms) < 1.1) == limited, norms


# ------------------------------------------------------------------------------------------------------ preparations


@pytest.mark.parametrize(("latent_dim", "exact"), [(2, True), (EXACT_JACOBIAN_LIMIT // 3 + 1, False)])
def test_the_jacobian_is_exact_up_to_the_documented_size(latent_dim, exact, monkeypatch):
    seen = []
    monkeypatch.setattr(
        losses, "encoder_contraction", lambda encoder, x, generator: seen.append(generator) or x.sum() * 0
    )
    model = torch.nn.Module()
    model.encoder = torch.nn.Linear(3, latent_dim)
    Contraction().loss(Batch(model, data_of((3,)), None, torch.Generator()), None)
    assert (seen[0] is None) == exact
    Contraction(jacobian="estimate").loss(Batch(model, data_of((3,)), None, torch.Generator()), None)
    assert seen[1] is not None


def test_the_phate_target_is_standardized_and_reproducible():
    data, term = data_of((3,), 40), PENALTIES["phate"]
    first, again = (term.prepare(Preparation(data, 2, seed=3)) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(first.std(0, correction=0), torch.ones(2))
    with pytest.raises(ValueError, match="phate_knn must be below the number of points, 4"):
        term.prepare(Preparation(data[:4], 2, seed=3))


def test_terms_with_the_same_k_share_one_graph(monkeypatch):
    from nrae_lib.core.methods import terms

    calls, original = [], terms.cached_knn_graph
    monkeypatch.setattr(
        terms, "cached_knn_graph", lambda points, k, **rest: calls.append(k) or original(points, k, **rest)
    )
    methods.get("nrspae_q").configure(n_neighbors=4).prepare(Preparation(data_of((3,)), 2, 0))
    assert calls == [4]


def test_the_generalized_autoencoder_takes_its_weights_from_the_codes_when_it_refreshes():
    objective, data = methods.get("gae").configure(refresh_epochs=2, n_neighbors=3), data_of((3,))
    model, preparation = model_of((3,), objective=objective), Preparation(data, 2, 0)
    prepared = objective.prepare(preparation)
    for epoch in (0, 1):
        assert objective.refresh(epoch, model, preparation, prepared) == prepared
    graph, weights = objective.refresh(2, model, preparation, prepared)["reconstruction"]
    codes = model.encoder(data).detach()
    distance = torch.cdist(codes, codes).fill_diagonal_(float("inf"))
    assert torch.equal(graph, distance.argsort(1)[:, :3])
    squared = distance.gather(1, graph).square()
    torch.testing.assert_close(weights, torch.exp(-squared / squared.mean()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_cuda_and_cpu_agree(name):
    """Exactly where the loss draws no random numbers (which differ between devices), within their spread elsewhere."""
    method, data = methods.get(name), data_of((3,)).double()
    objective = method.configure(**({"neighbors_per_point": 5} if "neighbors_per_point" in method.options else {}))

    def loss(device, seed):
        model = model_of((3,), dtype=torch.float64, objective=objective).to(device)
        prepared = objective.prepare(Preparation(data.to(device), 2, 0))
        return objective.loss(
            Batch(model, data.to(device), None, torch.Generator(device).manual_seed(seed)), prepared
        ).item()

    on_cpu, on_cuda = ([loss(device, seed) for seed in range(20)] for device in ("cpu", "cuda"))
    spread = max(on_cpu) - min(on_cpu)
    assert sum(on_cuda) / 20 == pytest.approx(sum(on_cpu) / 20, rel=1e-9, abs=spread)


def test_defaults_lie_within_what_is_searched_and_every_choice_can_be_at_an_edge():
    for name, method in methods.CATALOGUE.items():
        for option, values in method.search.items():
            default = method.objective.options()[option]
            # SPAE's grid was moved up after a first search; its printed coefficient lies below it.
            assert min(values) <= default <= max(values) or (name, option) == ("spae", "barycenter_weight")
            assert method.at_edge({option: max(values)}) and method.at_edge({option: min(values)})
            assert not method.at_edge({option: sorted(values)[1]})


def test_a_start_of_sigma_without_a_learned_sigma_is_refused():
    with pytest.raises(ValueError, match="needs error 'gaussian'"):
        methods.get("ae").configure(initial_sigma=0.5)
    model = model_of((3,), objective=methods.get("ae").configure(error="gaussian", initial_sigma=0.5))
    assert model.learned["log_sigma"].exp().item() == pytest.approx(0.5)


@pytest.mark.parametrize("name", ALL)
def test_the_faster_kernels_give_the_same_loss_and_gradients(name, monkeypatch):
    """Whether a batch is large enough for the one-pass kernels must not show in the numbers."""
    from nrae_lib.core.methods import terms

    objective, data = methods.get(name).objective, data_of((3,)).double()
    found = []
    for least in (0, 10**9):
        monkeypatch.setattr(terms, "_ONE_PASS_POINTS", least)
        model = model_of((3,), dtype=torch.float64, objective=objective)
        found.append(loss_and_gradients(objective, model, data, torch.arange(20)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
