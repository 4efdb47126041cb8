"""LotteryTicketPruner: the algorithm.

rewind_point = capture()            # theta_0
for level in range(rounds + 1):
    train()                         # mask * theta_0 -> mask * theta_T
    record(level)
    if level < rounds:
        mask = prune(theta_T, mask) # per layer, `rate` of the survivors
        rewind()                    # theta <- mask * theta_0
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_lottery import criteria, display, rewinding, schedules, state
from keras_lottery import masks as masks_lib
from keras_lottery.attachment import Attachment, check_masks
from keras_lottery.callbacks import FitHooks
from keras_lottery.checks import check_integer
from keras_lottery.levels import Level, Levels
from keras_lottery.rewinding import RewindPoint
from keras_lottery.scopes import BlockSizes, Rates, check_model
from keras_lottery.tickets import Ticket, search_config

Arrays = dict[str, NDArray]
Masks = dict[str, NDArray]
Schedule = Callable[[int], float]
Criterion = Callable[[NDArray, NDArray], NDArray]


_FIXED = (
    "model", "rate", "output_rate", "rates", "scope", "criterion",
    "rewind_to", "seed", "block_size",
)  # fmt: skip


class LotteryTicketPruner:
    """Finds lottery tickets in a Keras model.

    It captures the model's initial weights, keeps pruned weights at zero by a
    constraint on each kernel and by masking gradients inside the optimizer,
    and after each training removes the weights that score lowest and rewinds
    the rest. `keras_lottery.wrap` puts one under a model, so that `fit` runs
    a round; alone it serves training loops of one's own.

    What breaks it: assigning weights between rounds is undone by the next
    rewind, and a mask holds only where training goes through a Keras
    optimizer that was compiled into the model or given to `wrap_optimizer`.

    Args:
        model: `keras.Model`, built or not. An unbuilt one is prepared when it
            is first trained.
        rate: float in [0, 1) or a schedule (see `keras_lottery.schedules`):
            the fraction of surviving weights that a round removes from each
            layer. Defaults to `0.2`.
        output_rate: the same for output layers. Defaults to half of `rate`;
            with `scope="global"` to `rate`.
        rates: dict of overrides: {layer, layer name, regular expression found
            in a weight's path, or layer class: rate}. 0 leaves it alone.
        scope: `"layerwise"`: each layer loses its own share; or `"global"`:
            one threshold over all layers. Defaults to `"layerwise"`.
        criterion: name of `keras_lottery.criteria` or a callable
            `(initial, trained) -> scores`. Defaults to `"magnitude"`.
        rewind_to: int, the training step of the rewind point; 0, the default,
            is initialisation. `"learning_rate"` keeps the trained weights and
            rewinds the optimizer and its schedule alone (Renda et al.,
            2003.02389). `None` rewinds nothing (strategy 2 of 1803.03635,
            appendix B).
        masks: where to start from: `"zeros"`, the model's exact zeros; a dict
            from weight path to boolean array; or a `Ticket`, of which the
            masks are taken. Defaults to `None`, all weights.
        block_size: what is pruned as one: `None`, single weights; a pair such
            as `(4, 1)` or `"4x1"`, so many inputs of so many outputs of the
            kernel as a matrix; `"2:4"`, single weights of which at most 2 of
            every 4 inputs survive the first round; `"channel"`, all that
            leads to one unit, filter or head of attention, with its bias and
            its normalisation, and what is added to it; or a dict of these by
            layer, as `rates`. A block's score is the mean of its weights'
            scores, and the rate counts blocks. Defaults to `None`.
        rounds: optional int: after that many rounds, `fit` trains the ticket
            and leaves it trained. Defaults to `None`, no end.
        seed: optional int, for the criterion `"random"`.

    Attributes:
        level: int, the level the model is at.
        levels: list of `Level`, one per trained level.

    Example:

    ```python
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    pruner = LotteryTicketPruner(model, rate=0.5)
    levels = pruner.find(np.ones((8, 4)), np.ones((8, 3)), rounds=2)
    ```

    Source: Frankle & Carbin, 1803.03635, sections 1 and 2.
    """

    def __init__(
        self,
        model: keras.Model,
        rate: float | Schedule = 0.2,
        output_rate: float | Schedule | None = None,
        rates: dict[Any, float | Schedule] | None = None,
        scope: str = "layerwise",
        criterion: str | Criterion = "magnitude",
        rewind_to: int | str | None = 0,
        masks: str | Masks | Ticket | None = None,
        block_size: Any = None,
        rounds: int | None = None,
        seed: int | None = None,
    ) -> None:
        check_model(model)
        self._rates = Rates(rate, output_rate, rates, scope)
        block_sizes = BlockSizes(block_size)
        self._score = criteria.get(criterion)
        if rounds is not None:
            rounds = check_integer("rounds", rounds, minimum=0)
        if seed is not None:
            seed = check_integer("seed", seed, minimum=0)
        check_masks(masks)
        self.model = model
        self.rate, self.output_rate, self.rates = rate, output_rate, rates
        self.scope, self.criterion = scope, criterion
        self.block_size = block_size
        self.rewind_to = rewinding.check_rewind_to(rewind_to)
        self.rounds, self.seed = rounds, seed
        self.level = 0
        self.levels = Levels()
        self.state = state.SearchState(self)
        self.fit_hooks = FitHooks(self)
        self.attachment = Attachment(
            model,
            self._rates,
            block_sizes,
            masks,
            self.state.attached,
            self.state.meet,
        )
        self.attach()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and name in vars(self):
            raise AttributeError(
                f"`{name}` cannot be changed once a model is wrapped: what it "
                "prunes was decided then. For a rate of each round, give a "
                "schedule (`keras_lottery.schedules`) or a function of the "
                f"round. Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return display.search_text(self)

    def _repr_html_(self) -> str:
        return display.search_html(self)

    # The algorithm.

    def round(self, train: Callable[[], Any]) -> Any:
        """One round: trains, records, prunes, rewinds.

        Args:
            train: function without arguments that trains the model and
                returns Keras' `History`, or `None`.

        Returns:
            What `train` returned.
        """
        self.state.resume()
        if self.resting:
            return self.fit_hooks.untouched(train)
        with self.fit_hooks.watched():
            history = train()
        if self.fit_hooks.failed():
            return history
        self.record(history)
        if not self.resting:
            self.state.advance()  # `prune` and `rewind`, as one step.
        return history

    def run_fit(
        self, fit: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """One round, of which the training is a call of Keras' `fit`."""
        return self.round(lambda: self.fit_hooks.call(fit, args, kwargs))

    def find(
        self,
        x: Any,
        y: Any = None,
        *,
        rounds: int | None = None,
        **fit_arguments: Any,
    ) -> Levels:
        """Runs the rounds and trains the last ticket.

        Args:
            x: training data, as in `fit`.
            y: targets, as in `fit`.
            rounds: int, number of rounds. Defaults to the pruner's own.
            **fit_arguments: passed on to every `fit`.

        Returns:
            `levels`. The model holds the trained weights of the last one.

        Raises:
            TypeError: If `fit` does not take an argument.
            ValueError: If an argument is wrong.
        """
        rounds = self.rounds if rounds is None else rounds
        with self.fit_hooks.fitting(rounds, fit_arguments) as fit:
            self.state.check_find()
            before, self.rounds = self.rounds, rounds
            try:
                while not self.resting:
                    self.run_fit(fit, x, y, **fit_arguments)
                    if self.fit_hooks.problem is not None:
                        raise self.fit_hooks.problem
            finally:
                self.rounds = before
        return self.levels

    def prune(self) -> None:
        """Takes the next mask from the weights as they are now.

        Nothing is rewound: pruned weights become zero, the others stay.
        """
        self.state.require("prune")
        rewinding.check_captured(self.rewind_to, self.rewind_point.step)
        if self.state.phase != state.TRAINED:
            self.record()
        initial, trained = self.rewind_point.weights, self.attachment.kernels
        masks = self.next_masks(self.level, self.masks, initial, trained)
        self.state.prune(self.level + 1, masks)

    def next_masks(
        self,
        level: int,
        masks: Masks,
        initial: Arrays,
        trained: Arrays,
        seed: int | None = None,
    ) -> Masks:
        """The masks of the level after, from arrays alone.

        Args:
            level: int, the level the weights were trained at.
            masks: dict, weight path -> boolean array: that level's.
            initial: dict, weight path -> array at the rewind point.
            trained: dict, weight path -> array or variable.
            seed: optional int, of criteria that draw. Defaults to that of the
                pruner.

        Returns:
            A dict, weight path -> boolean array.
        """
        score = self.scores(level, masks, initial, trained, seed)
        schedules_of = self.attachment.schedules_now()
        live = {path: masks[path] for path in schedules_of}

        def cut(masks: Masks, score: Callable[[str], NDArray]) -> Masks:
            if self.scope == "global":
                rate = schedules.rate_at(self._rates.rate, level, "the pool")
                return masks_lib.prune_global(masks, rate, score)
            rates = {
                name: schedules.rate_at(schedules_of[name], level, name)
                for name in masks
            }
            return masks_lib.prune_layerwise(masks, rates, score)

        return masks | self.attachment.pattern.prune(live, score, cut)

    def scores(
        self,
        level: int,
        masks: Masks,
        initial: Arrays,
        trained: Arrays,
        seed: int | None = None,
    ) -> Callable[[str], NDArray]:
        """The criterion's scores, of which the lowest are pruned.

        Args:
            level, masks, initial, trained, seed: as in `next_masks`.

        Returns:
            A function, weight path -> array of scores.
        """
        index = {path: i for i, path in enumerate(masks)}
        seed = (self.seed or 0) if seed is None else seed

        def score(path: str) -> NDArray:
            return criteria.scores(
                self._score,
                initial[path],
                np.asarray(trained[path]),
                [seed, level, index[path]],
            )

        return score

    def rewind(self) -> None:
        """Sets everything that training changes back to the rewind point.

        Weights become mask * theta; see `RewindPoint` for all that goes back.
        """
        self.state.require("rewind")
        self.state.rewind()

    def capture(self, step: int = 0) -> None:
        """Makes the state of training as it is now the rewind point.

        `fit` does it by itself; a training loop of one's own calls it after
        `step` steps, if it is not to rewind to where the pruner was made.
        """
        self.state.require("capture")
        self.state.capture(step)

    def record(self, history: Any = None) -> Level:
        """Appends the level, as trained now, to `levels`."""
        self.state.require("record")
        with state.uninterrupted():
            self.attachment.apply_masks()
            record = self.levels.record(
                self.level,
                self.masks,
                rewinding.copy_state(self.model),
                dict(history.history) if history is not None else None,
                self.fit_hooks.evaluated_at(history),
            )
            self.state.trained()
        return record

    # What can be asked of it.

    @property
    def masks(self) -> Masks:
        """Dict, weight path -> boolean array, `True` where it survives."""
        self.require_attached()
        return self.attachment.masks()

    @property
    def attached(self) -> bool:
        """Whether the model has been built and its kernels are masked."""
        return bool(self.attachment.kernels)

    @property
    def resting(self) -> bool:
        """Whether `fit` only trains: paused, or the last ticket is trained."""
        done = self.rounds is not None and self.level >= self.rounds
        return self.is_paused or (done and self.state.phase == state.TRAINED)

    @property
    def is_paused(self) -> bool:
        """Whether `fit` trains under the mask, without a round."""
        return self.state.is_paused or self.state.lent is not None

    @property
    def density(self) -> float:
        """Kept / total over all prunable weights, a fraction."""
        return masks_lib.density(self.masks)

    @property
    def sparsity(self) -> float:
        """1 - density."""
        return 1.0 - self.density

    def densities(self) -> dict[str, float]:
        """Kept / total of each prunable weight, by path."""
        return masks_lib.densities(self.masks)

    @property
    def rewind_point(self) -> RewindPoint:
        """The `RewindPoint`."""
        self.require_attached()
        return self.state.point

    def ticket(self, level: int | None = None) -> Ticket:
        """A `Ticket`: masks and rewind point.

        Args:
            level: int, a trained level, -1 for the last of them, or `None`,
                the level that the model is at.

        Returns:
            A `Ticket`; that of a trained level also holds what it was
            trained to.
        """
        self.require_attached()
        # The pruner's own goes on to meet other optimizers.
        point, config = self.rewind_point.copy(), self.get_config()
        if level is None:
            point = self.fit_hooks.late_rewind_point() or point
            return Ticket(self.masks, point, self.level, config)
        record = self.levels.find(level)
        return Ticket(
            record.masks, point, record.index, config, record.trained_weights
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments, as far as a file can hold them."""
        return search_config(self, self.attachment)

    def load(
        self,
        ticket: Ticket | str | os.PathLike[str],
        names: dict[str, str] | None = None,
        with_optimizers: bool = False,
    ) -> None:
        """Takes a ticket's masks, rewind point and level.

        Args:
            ticket: `Ticket` of a model of the same architecture, or the path
                of its file.
            names: optional dict, a path of the ticket -> the model's.
            with_optimizers: bool, whether the state of optimizers is the
                ticket's also where the model has a fresh one of its own.
        """
        if isinstance(ticket, (str, os.PathLike)):
            ticket = Ticket.load(ticket)
        self.state.require("load")
        self.state.take(ticket, names)
        point = self.rewind_point
        point.restore_weights(self.model)
        if with_optimizers:
            point.optimizers.update(ticket.rewind_point.optimizers)
        # At level 0 `fit` starts from what the model and its optimizers hold.
        for name, optimizer in self.optimizers().items():
            if name not in point.optimizers or not optimizer.built:
                continue
            if not with_optimizers:
                point.adopt_learning_rates(name, optimizer)
            # One of another kind is refused when training begins.
            with contextlib.suppress(ValueError):
                rewinding.restore_optimizer(optimizer, point.optimizers[name])

    # Contexts.

    @contextlib.contextmanager
    def trained(self, level: int = -1) -> Iterator[keras.Model]:
        """The model with the weights that a level was trained to.

        They are lent: what `fit` makes of them here is no round, and is gone
        in the end.

        Args:
            level: int, a trained level. Defaults to -1, the last.

        Example:

        ```python
        with model.lottery.trained():
            model.evaluate(x, y)
        ```
        """
        with self.state.lending(self.levels.find(level)):
            yield self.model

    @contextlib.contextmanager
    def paused(self) -> Iterator[keras.Model]:
        """`fit` trains under the mask, without pruning or rewinding."""
        before, self.state.is_paused = self.state.is_paused, True
        try:
            yield self.model
        finally:
            self.state.is_paused = before

    def wrap_optimizer(self, optimizer: Any) -> Any:
        """The same optimizer, for a custom loop: its gradients are masked
        and `rewind` sets it back."""
        self.attachment.give(optimizer)
        return optimizer

    # The model under it.

    def attach(self, data: Any = None) -> None:
        """Puts masks and hooks on what of the model is there by now.

        Args:
            data: optional batch `(x,)` or `(x, y)`, to build an unbuilt model
                with, or to find the output layers of one that does not know
                the shapes of its inputs. `x` may be a dict from the names of
                the arguments of `call`.
        """
        self.attachment.attach(data)

    def detach(self) -> None:
        """Takes masks and hooks off the model, which keeps its zeros."""
        self.attachment.detach()

    def optimizers(self) -> dict[str, Any]:
        """Dict, name -> optimizer: the model's and those it was given."""
        return self.attachment.optimizers()

    def require_attached(self) -> None:
        """Refuses a model that has no masks yet."""
        if not self.attached:
            self.attach()
        if not self.attached:
            raise self.attachment.not_built()
