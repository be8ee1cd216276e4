"""The catalogue: every entry trains, refuses what it does not know, and keeps its promises."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from nrae_lib.core import losses, methods
from nrae_lib.core.losses import point_reconstruction
from nrae_lib.core.methods import KL, MMD, Batch, Contraction, Neighborhood, Objective, Point, Preparation, compose
from nrae_lib.core.models import LATENTS, WEIGHTS, Circular, Network
from nrae_lib.core.training import Optimization, fit

ALL = list(methods.CATALOGUE)
# PHATE speaks of every graph with more than one component, and 24 random points may give one.
pytestmark = pytest.mark.filterwarnings("ignore:Graph is disconnected")
each_method = pytest.mark.parametrize("name", ALL)
each_nrae = pytest.mark.parametrize("name", ["nrae_0", "nrae_l", "nrae_q", "enrae_l", "enrae_q"])
IMAGES = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(1))
VECTORS = torch.rand(24, 3, generator=torch.Generator().manual_seed(0))
EXACT = VECTORS.double()


def model_of(objective, data=VECTORS):
    return objective.build(Network((16, 12), 2, "elu", "sigmoid"), data.shape[1:], seed=0).to(data.dtype)


def started(objective, data=VECTORS, index=None, seed=0, model=None):
    """A model of ``objective``, a batch, and what is prepared."""
    model = model or model_of(objective, data)
    batch = Batch(model, data, index, torch.Generator(data.device).manual_seed(seed))
    return model, batch, objective.prepare(Preparation(data, 2, 0))


def loss_and_gradients(objective, *arguments, **more):
    model, batch, prepared = started(objective, *arguments, **more)
    loss = objective.loss(batch, prepared)
    return loss, torch.autograd.grad(loss, list(model.parameters()))  # raises where a parameter has no gradient


def trained(objective, data=VECTORS, epochs=3, batch_size=24):
    model = model_of(objective, data)
    return model, fit(model, objective, data, Optimization(epochs, batch_size), seed=0)


@pytest.mark.parametrize("data", [VECTORS, EXACT, IMAGES, IMAGES.double()])
@each_method
def test_three_steps_train_every_parameter_and_what_they_give_is_deterministic(name, data, tmp_path):
    objective = methods.get(name).configure()
    loss_and_gradients(objective, data)
    before, (model, history) = model_of(objective, data), trained(objective, data)
    assert torch.isfinite(history.loss).all() and history.steps == 3
    for (key, old), value in zip(before.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.isfinite(value).all() and (value.dtype == data.dtype or not value.is_floating_point())
        assert not torch.equal(value, old), f"{key} did not move"
    assert model.encoder(data).shape == (24, 2) and torch.equal(model(data), model(data))
    assert_close(model(data)[:1], model(data[:1]))  # one by one as in a batch
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    before.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(before.eval()(data), model(data)), "saved weights give other outputs"


@each_method
def test_unknown_options_are_refused_and_candidates_are_valid_and_within_one_budget(name):
    method = methods.get(name)
    with pytest.raises(ValueError, match=f"method '{name}': no option 'lamda'") as refusal:
        method.configure(lamda=1)
    assert all(option in str(refusal.value) for option in method.options)
    candidates = list(product(*method.search.values()))
    assert len(candidates) in (1, 16)  # nothing to search, or as many as every other method
    for values in candidates:
        method.configure(**dict(zip(method.search, values, strict=True)))
    for option, values in method.search.items():
        default = method.objective.options()[option]
        # SPAE's grid was moved up after a first search; its printed coefficient lies below it.
        assert min(values) <= default <= max(values) or (name, option) == ("spae", "barycenter_weight")


def test_every_method_stands_in_one_section_under_its_own_name_and_others_are_refused():
    entries = [entry for section in methods.SECTIONS.values() for entry in section]
    assert len(entries) == len(methods.CATALOGUE) == 36
    assert all(methods.get(entry.name) is entry for entry in entries)
    with pytest.raises(ValueError, match="unknown method 'nrae_x'") as refusal:
        methods.get("nrae_x")
    assert all(name in str(refusal.value) for name in ALL)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_whole_batch_shortcut_equals_the_plain_path(order):
    """With all points in the batch the neighbours' codes are looked up instead of computed again."""
    objective = Objective(Neighborhood(order=order, neighbors_per_point=2))
    fast, plain = loss_and_gradients(objective, EXACT), loss_and_gradients(objective, EXACT, torch.arange(24))
    assert_close(fast, plain)


@each_nrae
def test_without_neighbours_nrae_is_the_autoencoder(name):
    """k = 0 leaves N(x) = {x} (paper, section 2.1, condition i)."""
    ours, gradients = loss_and_gradients(methods.get(name).configure(n_neighbors=0))
    plain, plain_gradients = loss_and_gradients(Objective())
    assert torch.equal(ours, plain) and all(map(torch.equal, gradients, plain_gradients))


@each_nrae
def test_with_lambda_zero_nrae_trains_the_autoencoder(name):
    """K = δ (condition ii) leaves a constant factor 1/2, which Adam ignores up to its ε (steps here are 1e-3)."""
    models = trained(methods.get(name).configure(neighbor_weight=0.0), EXACT)[0], trained(Objective(), EXACT)[0]
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_dae_reconstructs_the_uncorrupted_point_from_a_corrupted_one():
    ours, _ = loss_and_gradients(methods.get("dae").configure(corruption=0.3), seed=5)
    noise = torch.empty_like(VECTORS).normal_(generator=torch.Generator().manual_seed(5))
    assert_close(ours, point_reconstruction(VECTORS, model_of(Objective())(VECTORS + 0.3 * noise)))


def test_training_sees_every_neighbour_and_only_neighbours():
    objective, seen = methods.get("nrae_l").configure(n_neighbors=2), set()
    model, batch, prepared = started(objective, index=torch.tensor([3]))
    model.encoder.register_forward_hook(lambda _, inputs, __: seen.update(map(tuple, inputs[0][1:].tolist())))
    for _ in range(40):
        objective.loss(Batch(model, VECTORS, batch.index, batch.generator), prepared)
    assert seen == {tuple(VECTORS[j].tolist()) for j in prepared["reconstruction"][3]}


@pytest.mark.parametrize("penalty", methods.PENALTIES)
@pytest.mark.parametrize("reconstruction", methods.RECONSTRUCTIONS)
def test_any_reconstruction_combines_with_any_penalty(reconstruction, penalty):
    """The loss is the sum of both, and reaches every parameter, in batches and in full."""
    objective = compose(reconstruction, penalty)
    for index in (None, torch.arange(0, 24, 2)):
        _, batch, prepared = started(objective, index=index)
        parts = objective.weighted(batch, prepared)
        assert list(parts) == ["reconstruction", penalty] and all(torch.isfinite(part) for part in parts.values())
        total, gradients = loss_and_gradients(objective, index=index)
        assert_close(total, sum(parts.values()))
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_constructing_in_python_equals_naming():
    by_hand = Objective(Neighborhood(order=2, n_neighbors=8), (MMD(0.1), Contraction(0.2)))
    options = dict(n_neighbors=8, mmd_weight=0.1, contraction_weight=0.2)
    assert by_hand == compose("neighborhood_2", "mmd", "contraction", **options)
    assert by_hand == methods.get("nrae_q+mmd+contraction").configure(**options)
    assert methods.get("nrae_l+mmd").objective == methods.get("nrwae_l").objective
    assert methods.get("nrae_q+barycenter").configure(n_neighbors=7) == methods.get("nrspae_q").configure(n_neighbors=7)
    with pytest.raises(ValueError, match="unknown penalty 'smoothness'") as refusal:
        methods.get("ae+smoothness")
    assert all(name in str(refusal.value) for name in methods.PENALTIES)


def test_one_option_sets_every_term_that_has_it_and_numbers_of_numpy_are_numbers():
    objective = methods.get("nrspae_l").configure(n_neighbors=np.int64(3), neighbor_weight=np.float32(0.5))
    assert objective == methods.get("nrspae_l").configure(n_neighbors=3, neighbor_weight=0.5)
    assert objective.reconstruction.n_neighbors == objective.penalties[0].n_neighbors == 3
    assert type(objective.reconstruction.n_neighbors) is int


def test_the_variational_objective_is_the_negative_elbo_per_feature():
    objective = methods.get("vae").configure(initial_sigma=0.5)
    model, batch, prepared = started(objective, EXACT)
    mean, log_deviation = model.encoder.posterior(EXACT)
    noise = torch.empty_like(mean).normal_(generator=torch.Generator().manual_seed(0))
    decoded = model.decoder(mean + log_deviation.exp() * noise)
    likelihood = Normal(decoded, 0.5).log_prob(EXACT).sum(1)
    divergence = kl_divergence(Normal(mean, log_deviation.exp()), Normal(0.0, 1.0)).sum(1)
    assert_close(objective.loss(batch, prepared), (divergence - likelihood).mean() / 3)
    _, log_deviation = model_of(methods.get("cv_vae").configure(deviation=0.5)).encoder.posterior(VECTORS)
    assert_close(log_deviation.exp(), torch.full((24, 2), 0.5))


@pytest.mark.parametrize(("name", "option"), [("cae", "contraction_weight"), ("dae", "corruption")])
def test_an_option_of_zero_leaves_the_reconstruction(name, option):
    ours, _ = loss_and_gradients(methods.get(name).configure(**{option: 0.0}))
    assert torch.equal(ours, loss_and_gradients(Objective())[0])


def configured(name, **options):
    return lambda: methods.get(name).configure(**options)


REFUSED = {
    "corruption must be a finite number >= 0, not -0.1": configured("dae", corruption=-0.1),
    "neighbor_weight must be a finite number >= 0, not -1": configured("nrae_l", neighbor_weight=-1.0),
    "n_neighbors must be a finite number >= 0, not -1": configured("nrae_l", n_neighbors=-1),
    "n_neighbors must be a finite number >= 1, not 0": configured("gae", n_neighbors=0),
    "at most n_neighbors": configured("nrae_q", neighbors_per_point=9),
    "at least 1": configured("nrae_q", neighbors_per_point=0),
    "choose one of sample, equation": configured("nrae_q", weighting="mean"),
    "must be of type int, not '3'": configured("nrae_l", n_neighbors="3"),
    "must be of type int, not 2.5": configured("nrae_l", n_neighbors=2.5),
    "must be of type bool": configured("nrae_l", replace="yes"),
    "must be of type float, not True": configured("dae", corruption=True),
    "unknown order 3: choose one of 0, 1, 2": lambda: Neighborhood(order=3),
    "stands twice": lambda: Objective(Point(), (MMD(), MMD())),
    "unknown latent 'round': choose one of plain, circular, batchnorm": lambda: Objective(latent="round"),
    "choose one of free, tied, spectral, spectral_decoder": lambda: Objective(weights="shared"),
    "'kl' needs latent 'plain', not 'circular'": lambda: Objective(Point(), (KL(),), latent="circular"),
    "needs latent 'plain' or 'batchnorm'": lambda: Objective(Point(), (methods.Isometry(),), latent="circular"),
    "a learned posterior has twice as many": lambda: Objective(Point(), (KL(),), weights="tied"),
    "disagree about n_neighbors.*: 8, 5": lambda: Objective(Neighborhood(n_neighbors=8), (methods.Barycenter(),)),
    "a circular code needs latent_dim .* at least 2": lambda: Network((8,), 1).build((3,), 0, "circular"),
    "choose one of squared, gaussian": lambda: Point("absolute"),
    "choose one of gaussian, imq": lambda: MMD(kernel="cosine"),
    "choose one of auto, exact, estimate": lambda: Contraction(jacobian="some"),
    "contraction_weight must be a finite number >= 0": lambda: Contraction(weight=float("inf")),
    "ridge must be a finite number > 0": lambda: methods.Barycenter(ridge=0.0),
    "unknown reconstruction term 'line'": lambda: compose("line"),
    "unknown penalty 'mnd'": lambda: compose("point", "mnd"),
    "initial_sigma .* needs error 'gaussian'": configured("ae", initial_sigma=0.5),
    "'kernel' must be of type str": lambda: compose("point", "mmd", kernel=3),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_impossible_options_and_compositions_are_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        REFUSED[sentence]()


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("name", ["ae", "nrae_q", "cae", "iae", "wae", "enrae_q", "spae", "rae_gp"])
def test_every_form_of_the_code_trains(name, latent):
    if any(latent in penalty.excluded_latents for penalty in methods.get(name).objective.penalties):
        with pytest.raises(ValueError, match="needs latent"):
            methods.get(name).configure(latent=latent)
        return
    model, history = trained(methods.get(name).configure(latent=latent), epochs=4, batch_size=10)
    assert torch.isfinite(history.loss).all() and torch.isfinite(model(VECTORS)).all()


def test_codes_lie_on_the_circle_or_have_mean_zero_and_variance_one():
    assert_close(model_of(Objective(latent="circular")).encoder(VECTORS).norm(dim=1), torch.ones(24))
    zero = torch.zeros(1, 2, requires_grad=True)
    Circular()(zero).sum().backward()
    assert zero.grad.abs().max() <= 1e4 * (1 + 1e-6)
    code = model_of(Objective(latent="batchnorm"), EXACT).encoder(1000 * EXACT)  # far above the ε of the normalization
    assert_close(code.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-9)
    assert_close(code.var(0, correction=0), torch.ones(2).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("reconstruction", ["point", "denoising", "neighborhood_1", "extended_2", "relational"])
def test_the_order_of_the_penalties_does_not_matter(reconstruction):
    parts = []
    for penalties in (("contraction", "code_norm", "barycenter"), ("barycenter", "code_norm", "contraction")):
        objective = compose(reconstruction, *penalties, latent="batchnorm")
        parts.append(objective.weighted(*started(objective, EXACT, torch.arange(0, 24, 2))[1:]))
    assert_close(*parts)


def test_jacobians_of_normalized_codes_are_per_point_and_blind_to_the_scale_of_the_weights():
    """Each point's own derivative of the code normalized by the batch's statistics; these depend on the weights."""
    objective, data = methods.get("cae").configure(latent="batchnorm", contraction_weight=1.0), 50 * EXACT
    model = model_of(objective, data)
    ours = objective.penalties[0].loss(started(objective, data, model=model)[1], None)
    body, last = model.encoder
    scale = (body(data).var(0, correction=0) + last.eps).sqrt()
    jacobians = torch.stack([torch.func.jacrev(body)(point) for point in data]) / scale[:, None]
    assert_close(ours, jacobians.square().sum((1, 2)).mean())
    assert all(part.training for part in model.modules()), "the mode of training was not restored"
    with torch.no_grad():
        body[-1].weight.mul_(3)
        body[-1].bias.mul_(3)
    again = objective.penalties[0].loss(started(objective, data, model=model)[1], None)
    assert_close(again, ours, rtol=1e-3, atol=0)  # up to the normalization's ε


@pytest.mark.parametrize("reconstruction", ["point", "neighborhood_1"])
@pytest.mark.parametrize("size", [24, 6, 2])
def test_neighbours_of_normalized_codes_are_normalized_by_the_centres(reconstruction, size):
    """A linear encoder keeps barycentres: of a plane's points their error is zero, whatever the batch."""
    data = EXACT[:, :2] @ EXACT[:2]
    objective = compose(reconstruction, "barycenter", barycenter_weight=1.0, ridge=1e-9, latent="batchnorm")
    model = model_of(objective, data)
    model.encoder[0] = torch.nn.Linear(3, 2).double()
    _, batch, prepared = started(objective, data, None if size == 24 else torch.arange(size), model=model)
    assert objective.weighted(batch, prepared)["barycenter"] < 1e-10
    assert model.encoder[1].num_batches_tracked == 1
    assert_close(batch.code.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("reconstruction", ["gaussian_likelihood", *(f"{space}_{order}" for order in (1, 2)
                                            for space in ("neighborhood", "extended"))])  # fmt: skip
def test_the_reconstruction_sees_draws_where_codes_have_a_posterior(reconstruction):
    """Without KL, log σ still gets a gradient, because the decoder sees μ + σ ε."""
    objective = compose(reconstruction, "kl", kl_weight=0.0)
    model, batch, prepared = started(objective, index=torch.arange(12))
    objective.loss(batch, prepared).backward()
    mean, log_deviation = model.encoder.body[-1].bias.grad.chunk(2)
    assert (mean != 0).all() and (log_deviation.abs() > 1e-6).all()


def test_extended_expansion_of_a_posterior_is_that_of_one_draw():
    """At order 1 and a neighbour equal to the centre nothing is left but f(μ + σ ε)."""
    objective = compose("extended_1", "kl", n_neighbors=1, include_center=False, kl_weight=0.0)
    data = EXACT[:4].repeat(2, 1)  # every point has its copy as nearest neighbour
    model, batch, prepared = started(objective, data, seed=3)
    ours, generator = objective.loss(batch, prepared), torch.Generator().manual_seed(3)
    mean, log_deviation = model.encoder.posterior(data)
    torch.randint(1, (8, 1), generator=generator)  # the choice of neighbours draws first
    draws = [mean + log_deviation.exp() * torch.empty_like(mean).normal_(generator=generator) for _ in range(2)]
    assert any(torch.allclose(ours, (data - model.decoder(draw)).square().mean()) for draw in draws)


def test_a_model_or_a_batch_that_does_not_fit_is_refused_in_one_sentence():
    reasons = {"vae": "lacks log_sigma", "topoae": "lacks log_latent_scale", "cv_vae": "do not agree on a posterior"}
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=f"the model .*{reason}.*build it with this objective's build"):
            fit(model_of(Objective()), methods.get(name).configure(), VECTORS, Optimization(1, 8), seed=0)
    for name in ("wae", "eae", "topoae"):
        with pytest.raises(ValueError, match="batch_size must be at least 2"):
            trained(methods.get(name).configure(), batch_size=1)


def test_tied_weights_stay_tied_and_count_once():
    model, _ = trained(methods.get("tcae").configure())
    for ours, mirrored in zip((0, 2, 4), (4, 2, 0), strict=True):
        assert torch.equal(model.encoder[ours].weight.T, model.decoder[mirrored].weight)
        assert model.decoder[mirrored].bias.any()
    count = 3 * 16 + 16 * 12 + 12 * 2 + 2 * (16 + 12) + 2 + 3
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("weights", [name for name in WEIGHTS if name.startswith("spectral")])
def test_spectral_norms_are_one(weights):
    model, _ = trained(Objective(weights=weights), epochs=800)
    for part, limited in ((model.encoder, weights == "spectral"), (model.decoder, True)):
        norms = [torch.linalg.matrix_norm(layer.weight, 2) for layer in part if isinstance(layer, torch.nn.Linear)]
        # One power iteration per step follows the moving weights up to some per cent, the better the longer they have grown.
        assert (max(norms) < 1.1) == limited, norms


@pytest.mark.parametrize(("latent_dim", "exact"), [(2, True), (methods.EXACT_JACOBIAN_LIMIT // 3 + 1, False)])
def test_the_jacobian_is_exact_up_to_the_documented_size(latent_dim, exact, monkeypatch):
    seen, model = [], torch.nn.Module()
    monkeypatch.setattr(losses, "encoder_contraction", lambda encoder, x, normal: seen.append(normal is None))
    model.encoder = torch.nn.Linear(3, latent_dim)
    for jacobian in ("auto", "estimate"):
        Contraction(jacobian=jacobian).loss(Batch(model, VECTORS, None, torch.Generator()), None)
    assert seen == [exact, False]


def test_the_phate_target_is_standardized_and_reproducible():
    data, term = torch.cat([VECTORS, IMAGES.view(-1, 3)]), methods.PENALTIES["phate"]
    first, again = (term.prepare(Preparation(data, 2, seed=3)) for _ in range(2))
    assert torch.equal(first, again)
    assert_close(first.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    assert_close(first.std(0, correction=0), torch.ones(2))
    with pytest.raises(ValueError, match="phate_knn must be below the number of points, 4"):
        term.prepare(Preparation(data[:4], 2, seed=3))


def test_terms_with_the_same_k_share_one_graph(monkeypatch):
    calls, original = [], methods.terms.knn_graph
    monkeypatch.setattr(methods.terms, "knn_graph", lambda points, k: calls.append(k) or original(points, k))
    methods.get("nrspae_q").configure(n_neighbors=4).prepare(Preparation(VECTORS, 2, 0))
    assert calls == [4]


def test_the_generalized_autoencoder_takes_its_weights_from_the_codes_when_it_refreshes():
    objective = methods.get("gae").configure(refresh_epochs=2, n_neighbors=3)
    model, _, prepared = started(objective)
    preparation = Preparation(VECTORS, 2, 0)
    assert all(objective.refresh(epoch, model, preparation, prepared) is prepared for epoch in (0, 1, 3))
    graph, weights = objective.refresh(2, model, preparation, prepared)["reconstruction"]
    codes = model.encoder(VECTORS).detach()
    distance = torch.cdist(codes, codes).fill_diagonal_(float("inf"))
    assert torch.equal(graph, distance.argsort(1)[:, :3])
    squared = distance.gather(1, graph).square()
    assert_close(weights, torch.exp(-squared / squared.mean()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_method
def test_cuda_and_cpu_agree(name):
    """Exactly where the loss draws no random numbers (which differ between devices), within their spread elsewhere."""
    method = methods.get(name)
    objective = method.configure(**({"neighbors_per_point": 5} if "neighbors_per_point" in method.options else {}))

    def loss(device, seed):
        model = model_of(objective, EXACT).to(device)
        return objective.loss(*started(objective, EXACT.to(device), seed=seed, model=model)[1:]).item()

    on_cpu, on_cuda = ([loss(device, seed) for seed in range(20)] for device in ("cpu", "cuda"))
    spread = max(on_cpu) - min(on_cpu)
    assert sum(on_cuda) / 20 == pytest.approx(sum(on_cpu) / 20, rel=1e-9, abs=spread)


@each_method
def test_the_faster_kernels_give_the_same_loss_and_gradients(name, monkeypatch):
    """Whether a batch is large enough for the one-pass kernels must not show in the numbers."""
    found = []
    for least in (0, 10**9):
        monkeypatch.setattr(methods.terms, "_ONE_PASS_POINTS", least)
        found.append(loss_and_gradients(methods.get(name).objective, EXACT, torch.arange(20)))
    assert_close(*found, rtol=1e-9, atol=1e-12)
