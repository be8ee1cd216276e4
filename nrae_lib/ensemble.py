"""Trainings that differ only in seed, data values or coefficients, as one vectorised model.

The members' weights lie side by side, (E, ...), and ``torch.func.vmap`` computes all losses at once: small networks, whose
steps are bound by the number of kernel launches and not by arithmetic, train E at a time for little more than the time
of one. Every member has its own data, generator and learning rate, and equals the plain :func:`nrae_lib.training.fit` but
for rounding.
"""

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from nrae_lib import datasets, methods
from nrae_lib.feed import Feed, feed_of
from nrae_lib.graph import sample_neighbors
from nrae_lib.methods import Batch, Objective, Term
from nrae_lib.models import Autoencoder
from nrae_lib.training import loop
from nrae_lib.training.checkpoints import Interrupted, stop_event, stop_on_sigterm
from nrae_lib.training.loop import Trained, Training
from nrae_lib.training.optimization import Optimization
from nrae_lib.training.steps import captured, set_rate

if TYPE_CHECKING:
    from nrae_lib.runs import Run

# Where vectorising gains on a CPU, by benchmarks/ensembles.py (AMD EPYC, one thread): 1.1 to 2 times with five members,
# 1.4 to 7 times with twenty. Larger networks gain nothing, and from about two million parameters on they lose.
_MOST_PARAMETERS = 200_000
_MOST_WORK = 10_000_000  # parameters times points of a batch
_FEWEST, _MOST = 5, 20
# Numbers of a term that the model keeps, too: no loss could give them to the members one by one.
_OF_THE_MODEL = ("deviation",)


def fit_ensemble(
    models: list[Autoencoder],
    objectives: list[Objective],
    data: list[Tensor],
    optimizations: list[Optimization],
    seeds: list[int],
    frame_epochs: tuple[int, ...] = (),
    draws: list[Callable[[nn.Module], Tensor]] | None = None,
    checkpoints: list[Path] | None = None,
    checkpoint_seconds: float = 60.0,
    progress: Callable[[int, Tensor], None] | None = None,
    validation: list[Tensor | None] | None = None,
    done: Callable[[int, Trained | Exception], None] | None = None,
) -> list[Trained | Exception]:
    """:func:`nrae_lib.training.fit` for every member, all in one vectorised model where that is possible.

    Initial weights, order of the batches and everything the terms draw are those of the plain loop: each member draws
    from its own generator. A method that ``torch.func.vmap`` cannot map (found by trying it once) is trained member by
    member. A member whose loss explodes, or whose validation error has risen often enough, leaves; the others go on.

    Arguments:
        models: of one architecture, on one device; each is trained in place and left in evaluation mode.
        objectives: the same terms and options but for floats, which must be zero in all members or in none.
        data: (N, ...) training points of each member, of one shape.
        optimizations: alike in epochs, batch_size and precision.
        seeds, frame_epochs, checkpoint_seconds: see :func:`nrae_lib.training.fit`.
        draws: each member's ``draw``.
        checkpoints: one file per member, in the format of the plain loop, which can go on from it as well. Members
            that were not saved at the same step, because the process died in between, go on in separate ensembles.
        progress: called with the number of epochs done and the losses so far of the members that are still training,
            (members, epochs).
        validation: validation points of each member, or None for a member without.
        done: called with a member's number and its result the moment it is through.

    Returns:
        For each member what ``fit`` returns, its ``seconds`` being the member's share of the time, or the exception that
        ended this member alone, such as a :class:`nrae_lib.training.Diverged`.

    Raises:
        ValueError: if the members differ in more than an ensemble allows, naming what.
        Interrupted: as in ``fit``.
    """
    _check_alike(models, objectives, data, optimizations)
    device = next(models[0].parameters()).device
    checkpoints = checkpoints or [None] * len(models)
    results: list[Trained | Exception] = [None] * len(models)

    def through(i: int, result: Trained | Exception) -> None:
        results[i] = result
        if done:
            done(i, result)

    together: dict[tuple[int, int], dict[int, Training]] = {}
    with optimizations[0].numerics(device), stop_on_sigterm(checkpoints[0] is not None):
        for i, model in enumerate(models):
            try:
                member = Training(
                    model, objectives[i], feed_of(data[i], device), optimizations[i], seeds[i], checkpoints[i], False,
                    None if validation is None or validation[i] is None else feed_of(validation[i], device),
                )  # fmt: skip
            except Exception as error:  # of this member's preparation, such as a target that its data does not allow
                through(i, error)
                continue
            member._resume()
            together.setdefault((member.epoch, member.position), {})[i] = member
        for members in together.values():
            ensemble = Ensemble(members, through)
            run = ensemble.run if ensemble.maps() else ensemble.run_apart
            run(frame_epochs, draws, checkpoint_seconds, progress)
    return results


def groups(runs: Iterable["Run"], device: str = "cpu", largest: int | None = None) -> list[tuple["Run", ...]]:
    """``runs`` in the tuples that train together, by their structure and by what the device gains.

    Runs differ within a tuple in their seeds, in the floats of data (such as the noise) and method, and in learning rate,
    decay and patience. On a CPU an ensemble gains where a step's time is that of its kernel launches, not of its
    arithmetic: with five members or more, up to 200,000 parameters and 10 million parameters times points of a batch, as
    measured by ``benchmarks/ensembles.py``. On CUDA nobody has measured yet: there the limit is a quarter of the memory.

    Arguments:
        runs: as in :class:`nrae_lib.runs.Run`.
        device: "auto" (CUDA if there is one), "cpu", "cuda", ...
        largest: members of an ensemble, at most, such as the number of runs over that of the workers.

    Returns:
        Tuples in the order of their first runs, many of a single run.
    """
    alike: dict[str, list[Run]] = {}
    for run in runs:
        alike.setdefault(_structure(run), []).append(run)
    found = []
    for members in alike.values():
        most = min(len(members), largest or len(members))
        if most >= _FEWEST:
            try:
                most = min(most, _members(members[0], device))
            except Exception:  # an impossible run says so itself, when it is its turn
                most = 1
        # Even parts: eleven and ten rather than twenty and one.
        size = -(-len(members) // -(-len(members) // most))
        size = size if size >= _FEWEST else 1
        found += [tuple(members[start : start + size]) for start in range(0, len(members), size)]
    return found


def _structure(run: "Run") -> str:
    """What runs that train together agree in."""
    bare = {
        name: "number" if isinstance(value, float) else value
        for name, value in datasets.bound_options(run.data, run.data_options).items()
    }
    objective = methods.get(run.method).configure(**run.method_options)
    optimization = run.optimization
    return repr([
        run.data, bare, _skeleton(objective), run.network, run.keep, optimization.epochs, optimization.batch_size,
        optimization.precision,
    ])  # fmt: skip


def _members(run: "Run", device: str) -> int:
    """How many of such runs train together at most; 1 where that does not gain."""
    shape = datasets.make(run.data, run.seed, **run.data_options).train.shape
    model = methods.get(run.method).configure(**run.method_options).build(run.network, tuple(shape[1:]), 0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    points = min(run.optimization.batch_size, shape[0])
    if not (device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())):
        gains = parameters <= _MOST_PARAMETERS and parameters * points <= _MOST_WORK
        return _MOST if gains else 1
    if not torch.cuda.is_available():  # a GPU elsewhere, that of a cluster's worker
        return _MOST
    memory = torch.cuda.get_device_properties("cuda" if device == "auto" else device).total_memory
    # Weights, gradients and two moments; for the points, roughly, six rows of ten layers as wide as the widest.
    needed = 4 * (4 * parameters + 60 * points * max(shape[1:].numel(), round(parameters**0.5)))
    return max(1, memory // 4 // needed)


def _check_alike(models, objectives, data, optimizations) -> None:
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in models]
    parts = {
        "architecture": [f"{model} {shape}" for model, shape in zip(models, shapes, strict=True)],
        "objective": [_skeleton(objective) for objective in objectives],
        "shape of the data": [tuple(points.shape) for points in data],
        "optimization": [(each.epochs, each.batch_size, each.precision) for each in optimizations],
    }
    for what, values in parts.items():
        if any(value != values[0] for value in values):
            raise ValueError(f"members of an ensemble must agree in their {what}: {values[0]} and others were given")


def _skeleton(objective: Objective) -> dict[str, Any]:
    """What the members' objectives must agree in: everything but the values of floats that are not zero."""

    def bare(content: dict[str, Any]) -> dict[str, Any]:
        free = (name for name, value in content.items() if isinstance(value, float) and name not in _OF_THE_MODEL)
        return content | {name: "zero" if content[name] == 0 else "number" for name in free}

    return {name: bare(part) if isinstance(part, dict) else part for name, part in objective.identity().items()}


class _PerMember:
    """A coefficient inside the mapped function: a number that differs between the members, zero in none of them."""

    def __init__(self, value: Tensor):
        self.value = value

    def __mul__(self, other):
        return self.value * other

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self.value / other


def _coefficients(objectives: list[Objective], kind: dict[str, Any]) -> list[dict[str, dict[str, Tensor]]]:
    """Of every member, by term and option: the floats in which the members differ, as scalars of ``kind``."""
    found = [{} for _ in objectives]
    for name, term in objectives[0].terms.items():
        for option in (entry.name for entry in fields(term)):
            values = [getattr(objective.terms[name], option) for objective in objectives]
            if isinstance(values[0], float) and len(set(values)) > 1:
                for mine, value in zip(found, values, strict=True):
                    mine.setdefault(name, {})[option] = torch.tensor(value, **kind)
    return found


def _with(objective: Objective, coefficients: dict[str, dict[str, Tensor]]) -> Objective:
    """``objective`` with tensors for some of its floats, past the checks, which are for numbers."""

    def changed(term: Term, name: str) -> Term:
        term = copy.copy(term)
        for option, value in coefficients.get(name, {}).items():
            object.__setattr__(term, option, _PerMember(value))
        return term

    if not coefficients:
        return objective
    made = copy.copy(objective)
    object.__setattr__(made, "reconstruction", changed(objective.reconstruction, "reconstruction"))
    object.__setattr__(made, "penalties", tuple(changed(penalty, penalty.name) for penalty in objective.penalties))
    return made


class _Rows(Feed):
    """One member's training points inside the mapped function."""

    resident = True

    def __init__(self, data: Tensor):
        super().__init__(data, data.dtype, data.device)

    def rows(self, index: Tensor | None = None) -> Tensor:
        return self.raw if index is None else self.raw[index]


class _MemberBatch(Batch):
    """A batch inside the mapped function: its tensors are one member's, and so is what it is given of every draw.

    Arguments:
        drawn: calls a function with every member's generator, and gives what belongs to this member.
    """

    def __init__(self, model: nn.Module, data: Tensor, index: Tensor | None, drawn: Callable[[Callable], Tensor]):
        super().__init__(model, _Rows(data), index, None)
        self.drawn = drawn

    def normal(self, like: Tensor) -> Tensor:
        return self._filled(like, Tensor.normal_)

    def uniform(self, like: Tensor) -> Tensor:
        return self._filled(like, Tensor.uniform_)

    def _filled(self, like: Tensor, fill: Callable) -> Tensor:
        # Not empty_like, which would be mapped: a generator cannot draw for several members.
        shape, kind = like.shape, {"dtype": like.dtype, "device": like.device}
        return self.drawn(lambda generator: fill(torch.empty(shape, **kind), generator=generator))

    def near(self, graph: Tensor, count: int | None = None, replace: bool = False) -> Tensor:
        key = id(graph), count
        if count is not None and key not in self._near:
            # What is drawn are places in the lists of neighbours, which are the same for all members.
            own = torch.arange(len(self.index), device=graph.device)
            places = torch.arange(graph.shape[1], device=graph.device).expand(len(own), -1)
            drawn = self.drawn(lambda generator: sample_neighbors(places, own, count, generator, replace))
            self._near[key] = graph[self.index, drawn]
        return super().near(graph, count, replace)

    def of(self, x: Tensor) -> Batch:
        return _MemberBatch(self.model, x, None, self.drawn)


class _Places:
    """Where a model keeps its parameters and buffers, tied ones several times, to put others there for a while."""

    def __init__(self, model: nn.Module):
        names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        self.places = [
            (kept, name, names[id(tensor)])
            for module in model.modules()
            for kept in (module._parameters, module._buffers)
            for name, tensor in kept.items()
            if tensor is not None
        ]

    @contextmanager
    def holding(self, tensors: dict[str, Tensor]) -> Iterator[None]:
        """What torch.func.functional_call does, without its bookkeeping, which is much of a small network's step."""
        before = [kept[name] for kept, name, _ in self.places]
        try:
            for kept, name, key in self.places:
                kept[name] = tensors[key]
            yield
        finally:
            for (kept, name, _), tensor in zip(self.places, before, strict=True):
                kept[name] = tensor


class Ensemble:
    """Members in lockstep: plain trainings whose weights, moments and records are rows of stacked tensors."""

    def __init__(self, members, through=lambda number, result: None):  # {number: Training}
        self.members, self.through = members, through
        self.capture = next(iter(members.values())).feed.device.type == "cuda"

    # ------------------------------------------------------------ one tensor for all members, and back

    def join(self) -> None:
        """Stack the members' state; their models and records become views of it."""
        members = list(self.members.values())
        self.parameters = _stacked([dict(member.model.named_parameters()) for member in members])
        self.buffers = _stacked([dict(member.model.named_buffers()) for member in members])
        self.record = _stacked([{"record": member.record} for member in members])["record"]
        for parameter in self.parameters.values():
            parameter.requires_grad_()
        self.row = torch.zeros(1, dtype=torch.int64, device=self.record.device)
        self.places = _Places(members[0].model)
        self._share()
        schedules = [
            [member.optimization.rate(epoch) for epoch in range(member.optimization.epochs)] for member in members
        ]
        self.one_rate = all(schedule == schedules[0] for schedule in schedules)
        # Where the rates differ, Adam moves zeros by the rate one, and each member's move is then scaled.
        self.moved = self.parameters if self.one_rate else {
            name: torch.zeros_like(tensor) for name, tensor in self.parameters.items()
        }  # fmt: skip
        like = next(iter(self.parameters.values()))
        self.rates = like.new_ones(len(members))
        graph = like.device.type == "cuda"  # there a captured step reads the rate from a tensor
        self.optimizer = torch.optim.Adam(
            self.moved.values(), like.new_ones(()) if graph else 1.0, fused=True, capturable=graph
        )
        for name, moved in self.moved.items():
            states = [member.optimizer.state.get(member.model.get_parameter(name)) for member in members]
            if states[0]:
                self.optimizer.state[moved] = {
                    key: value.clone() if key == "step" else torch.stack([state[key] for state in states])
                    for key, value in states[0].items()
                }

    def _share(self) -> None:
        """What the mapped function reads beside the state; what is equal in all members is kept once."""
        self.captured = None  # it holds the old tensors
        members = list(self.members.values())
        kind = {"dtype": members[0].feed.dtype, "device": members[0].feed.device}
        coefficients = _coefficients([member.objective for member in members], kind)
        leaves, (self.structure, *_) = zip(
            *(tree_flatten((member.feed.rows(None), member.prepared, mine))
              for member, mine in zip(members, coefficients, strict=True)), strict=True,
        )  # fmt: skip
        self.leaves, self.dims = [], []
        for column in zip(*leaves, strict=True):
            shared = not isinstance(column[0], Tensor) or all(torch.equal(column[0], other) for other in column[1:])
            self.leaves.append(column[0] if shared else torch.stack(column))
            self.dims.append(None if shared else 0)

    def _split(self) -> None:
        """Give every member a state of its own again."""
        for i, member in enumerate(self.members.values()):
            for tensor in (*member.model.parameters(), *member.model.buffers(), member.record):
                tensor.data = tensor.data.clone()
            for name, moved in self.moved.items():
                if moved in self.optimizer.state:
                    member.optimizer.state[member.model.get_parameter(name)] = {
                        key: (value if key == "step" else value[i]).clone()
                        for key, value in self.optimizer.state[moved].items()
                    }

    # ------------------------------------------------------------ a step

    def _terms(self, index: Tensor | None) -> Tensor:
        """(members, terms) contributions to the losses of the batches at ``index``, (members, B) or None for all."""
        members = list(self.members.values())
        places, model = self.places, members[0].model
        objective, generators = members[0].objective, [member.generator for member in members]

        def of_one(tensors, leaves, index, place) -> Tensor:
            data, prepared, coefficients = tree_unflatten(leaves, self.structure)

            def drawn(draw: Callable[[torch.Generator], Tensor]) -> Tensor:
                return torch.stack([draw(generator) for generator in generators]).index_select(0, place).squeeze(0)

            with places.holding(tensors):
                batch = _MemberBatch(model, data, index, drawn)
                return torch.stack(list(_with(objective, coefficients).weighted(batch, prepared).values()))

        place = torch.arange(len(members), device=members[0].feed.device)[:, None]
        dims = (0, self.dims, None if index is None else 0, 0)
        # Without functions of its own, "same" lets the draws be what they are outside of the map.
        optimization, device = members[0].optimization, members[0].feed.device
        with optimization.autocast(device) if optimization.precision == "bf16" else nullcontext():
            return torch.func.vmap(of_one, dims, randomness="same")(
                self.parameters | self.buffers, self.leaves, index, place
            )

    def step(self) -> None:
        """One step of every member."""
        members = list(self.members.values())
        indices = [member._index(member.position) for member in members]
        index = None if indices[0] is None else torch.stack(indices)
        if self.capture and self.captured is None:
            state = [*self.parameters.values(), *self.buffers.values(), self.record, self.row]
            shape = None if index is None else (len(members), self.first.bounds[0][1])
            random = [member.generator for member in members]
            self.captured = captured(self.take, shape, state, self.optimizer, random)
            self.capture = self.captured is not None
        if self.captured and (index is None or index.shape == self.captured.index.shape):
            self.captured(index)
        else:
            self.take(index)
        for member in members:
            member.position += 1
            member.trained.steps += 1

    def take(self, index: Tensor | None) -> None:
        """The part of a step that is the device's alone: nothing here waits for it or depends on the step's number."""
        terms = self._terms(index)
        for parameter in self.parameters.values():
            parameter.grad = None
        # Each member's weights only reach its own loss: the gradient of the sum is that of every one.
        terms.sum().backward()
        if not self.one_rate:
            for name, moved in self.moved.items():
                moved.grad = self.parameters[name].grad
                moved.zero_()
        self.optimizer.step()
        with torch.no_grad():
            if not self.one_rate:
                for name, parameter in self.parameters.items():
                    parameter.addcmul_(self.moved[name], self.rates.view(-1, *[1] * (parameter.dim() - 1)))
            self.record.index_copy_(1, self.row, terms.detach().to(self.record.dtype)[:, None])
            self.row.add_(1)

    def maps(self) -> bool:
        """Whether the terms can be vectorised, found by trying; nothing is changed."""
        members = list(self.members.values())
        if len(members) < 2 or not all(member.feed.resident for member in members):
            return False
        self.join()
        random = [member.generator.get_state() for member in members]
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        count, size = len(members[0].feed), members[0].bounds[0][1]
        index = None if size == count else torch.arange(size, device=members[0].feed.device).expand(len(members), -1)
        try:
            self._terms(index).sum().backward()
        except Exception as error:  # whatever it is: if the plain loop has it, too, it will say so
            warnings.warn(f"these trainings run one after the other: {error}", stacklevel=3)
            return False
        finally:
            for member, state in zip(members, random, strict=True):
                member.generator.set_state(state)
            for name, buffer in buffers.items():
                self.buffers[name].copy_(buffer)
            self._split()
        return True

    # ------------------------------------------------------------ the loop

    def run(self, frame_epochs, draws, checkpoint_seconds, progress) -> None:
        """Train all members."""
        self.clock = saved = shown = time.perf_counter()
        self.join()

        def ended(i: int, member: Training) -> Trained | None:
            """Close the epoch."""
            member.epoch, member.position, member.order = member.epoch + 1, 0, None
            if member.epoch - member.looked == len(member.record) // len(member.bounds):
                member._look()
            if member.validation is not None:
                member._validate()
            return drawn(i, member)

        def drawn(i: int, member: Training) -> Trained | None:
            if member.epoch in frame_epochs and member.position == 0:
                member.trained.frames.append(member._drawn(draws[i]))
            return member.finish() if member.done else None

        unsaved = []

        def save(_, member: Training) -> None:
            if not member._save():
                unsaved.append(member)

        def save_all() -> None:
            checkpoint = self.first.checkpoint
            self._each(save, apart=True)
            if stop_event.is_set():
                raise Interrupted(checkpoint, not unsaved)

        if self.first.checkpoint and stop_event.is_set():
            save_all()
        if self.first.epoch == self.first.position == 0:
            self._each(drawn)
        while self.members:
            if self.first.position == 0:
                self.begin_epoch()
            if self.members:
                self.set_rates()
            while self.members and self.first.position < len(self.first.bounds):
                self.step()
                if self.first.checkpoint and (stop_event.is_set() or time.perf_counter() - saved > checkpoint_seconds):
                    save_all()
                    saved = time.perf_counter()
                    if self.members:
                        self.set_rates()
            self._each(ended)
            if progress and self.members and time.perf_counter() - shown > loop.PROGRESS_SECONDS:
                for member in self.members.values():
                    member._sum_up()
                losses = [member.trained.loss[: member.epoch] for member in self.members.values()]
                progress(self.first.epoch, torch.stack(losses))
                shown = time.perf_counter()

    @property
    def first(self) -> Training:
        return next(iter(self.members.values()))

    def set_rates(self) -> None:
        """The learning rates of the epoch, and the place where its losses go."""
        rates = [member.optimization.rate(member.epoch) for member in self.members.values()]
        if self.one_rate:
            set_rate(self.optimizer, rates[0])
        else:
            self.rates.copy_(self.rates.new_tensor(rates))
        first = self.first
        self.row.fill_((first.epoch - first.looked) * len(first.bounds) + first.position)

    def begin_epoch(self) -> None:
        """New orders of the points, and what the terms prepare anew."""
        changed = []

        def begin(_, member: Training) -> None:
            if member.refresh():
                changed.append(member)
            if len(member.bounds) > 1:
                count, device = len(member.feed), member.feed.device
                member.order = torch.randperm(count, generator=member.generator, device=device)

        self._each(begin)
        if changed and self.members:
            self._share()

    def _each(self, action: Callable[[int, Training], Trained | None], apart: bool = False) -> None:
        """Call ``action`` on every member; one for which it has a result, or that fails, leaves.

        Arguments:
            apart: whether it needs members with a state of their own.
        """
        now = time.perf_counter()
        for member in self.members.values():
            member.trained.seconds += (now - self.clock) / len(self.members)
        self.clock = now
        if apart:
            self._split()
        left = {}
        for i, member in self.members.items():
            try:
                result = action(i, member)
            except Exception as error:
                result = error
            if result is not None:
                left[i] = result
        if left and not apart:
            self._split()
        for i, result in left.items():
            del self.members[i]
            self.through(i, result)
        if (left or apart) and self.members:
            self.join()

    def run_apart(self, frame_epochs, draws, checkpoint_seconds, progress) -> None:
        """Train the members by the plain loop, one after the other."""
        for i, member in self.members.items():
            own = progress and (lambda epoch, loss: progress(epoch, loss[None]))
            try:
                result = member.run(frame_epochs, draws and draws[i], checkpoint_seconds, own)
            except Exception as error:
                result = error
            self.through(i, result)


def _stacked(named: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The members' tensors side by side, (E, ...) by name; the members' own become views of them."""
    stacked = {name: torch.stack([own[name].detach() for own in named]) for name in named[0]}
    for i, own in enumerate(named):
        for name, tensor in own.items():
            tensor.data = stacked[name][i]
    return stacked
