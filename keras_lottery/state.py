"""SearchState: what a search is in the midst of, and what that allows.

```
                first batch              `fit` begins
    unbuilt ----------------> start ----------------------> training
                               ^  ^                          |    |
                 prune, rewind |  | `lottery.rewind()`       |    | `fit`
                               |  +--------------------------+    | ends
                               |                                  v
                               +------------------------------ trained
```

unbuilt: the model has no weights yet.
start: the weights are those that the level starts from, mask * theta.
training: the weights are in the hands of a training, or of the user: inside
    `fit`, after a `fit` that was interrupted or left NaN, after a `prune` that
    was not followed by a `rewind`.
trained: the level is trained and recorded. After the last of `rounds` levels
    the search is done and stays here; before it, the next `fit` prunes and
    rewinds first (which `fit` itself does when it ends, so that this state is
    met only in a file that was saved inside `trained()` or after an
    interrupt).

Two more hold beside these, for the time of a context manager: *paused* (`fit`
only trains) and *lent* (the weights are those that a level was trained to, and
are put back in the end).

| | unbuilt | start | training | trained | paused | lent |
|---|---|---|---|---|---|---|
| `fit` | builds | a level | goes on | next level | trains | trains |
| `prune`, `record` | refused | yes | yes | yes | yes | refused |
| `rewind`, `capture`, `load` | refused | yes | yes | yes | yes | refused |
| `find` | yes | yes | yes | yes | refused | refused |
| save | yes | yes | yes | yes | yes | yes |
| export | refused | refused after level 0 | yes | yes | yes | yes |

Weights that the user assigns are free in *training* and *trained*. In *start*
they are kept at level 0, whose rewind point is captured when its training
begins; at a later level they may be evaluated and exported, and the next `fit`
sets the level's start again and says so.
"""

import contextlib
import signal
import threading
import warnings

import numpy as np

from keras_lottery import rewinding
from keras_lottery.rewinding import RewindPoint

UNBUILT, START, TRAINING, TRAINED = "unbuilt", "start", "training", "trained"


class SearchState:
    """Where a `LotteryTicketPruner` is in its search.

    Args:
        pruner: `LotteryTicketPruner`.

    Attributes:
        phase: str: "unbuilt", "start", "training" or "trained".
        is_paused: bool, whether `fit` only trains.
        in_fit: bool, whether `fit` is training a level now.
        point: the `RewindPoint`, or `None` before the model is built.
        lent: the level whose trained weights are lent, or `None`.
        captured: bool, whether the rewind point is that of a training that
            has begun. Until then level 0 starts from whatever the model holds.
    """

    def __init__(self, pruner):
        self.pruner = pruner
        self.phase, self.captured, self.point = UNBUILT, False, None
        self.is_paused, self.lent = False, None
        # The level that the weights are of, if they came from a file.
        self._loaded = None
        self.in_fit = False
        # The next level and its masks, while they are being put on.
        self._due, self._rewind_due, self._advancing = None, False, False
        # Those at the end of a training: callbacks changed them until then.
        self._learning_rates = {}

    # What is allowed.

    def require(self, action):
        """Refuses what must not be done now, and ends what was cut short.

        Args:
            action: str, the name of a method of the pruner.

        Raises:
            ValueError: If the model is not built, if its weights are lent, or
                if they are not those that the search began with.
        """
        if self.lent is not None:
            raise ValueError(
                f"`{action}` must not be called inside `trained()`, which puts "
                "other weights back when it ends: call it after the `with` "
                "block."
            )
        self.pruner.require_attached()
        self.check_variables()
        self.finish()

    def check_find(self):
        """Refuses `find` where `fit` would be no round."""
        if self.pruner.is_paused:
            where = "while paused" if self.lent is None else "in `trained()`"
            raise ValueError(
                f"`find` must not be called {where}: call it after the `with` "
                "block."
            )

    def check_variables(self):
        """Refuses a model that gained or lost weights since it was wrapped."""
        if not self.pruner.attached:
            return
        before = self.pruner.rewind_point.weights
        now = rewinding.model_state(self.pruner.model)
        new = [path for path in now if path not in before]
        gone = [path for path in before if path not in now]
        if new or gone:
            raise ValueError(
                "The model must keep the weights that its search began with "
                "(`add` and `enable_lora` change them). Take the search off "
                "by `keras_lottery.unwrap`, change the model, and wrap it "
                'again, with masks="zeros" if it was pruned. Received: new '
                f"weights {new[:3]}, missing weights {gone[:3]}"
            )

    def check_export(self):
        """Refuses to export a model that was rewound and is not trained."""
        pruner = self.pruner
        pruner.require_attached()
        if self.phase != START or not pruner.level or self._changed_weights():
            return
        raise ValueError(
            f"The model must be trained to be exported: it was rewound to the "
            f"start of level {pruner.level}. Export what a level was trained "
            "to: inside `with model.lottery.trained():`, or by `level=-1` "
            "where that is an argument. Trained levels: "
            f"{[record.index for record in pruner.levels]}"
        )

    # Transitions.

    def attached(self):
        """The masks are on."""
        self.capture()
        if self.phase == UNBUILT:
            self.phase = START

    def resume(self):
        """Called before a training: brings the model to where it begins."""
        if not self.pruner.attached:
            return
        self.finish()
        if self.phase == TRAINED and not self.pruner.resting:
            self.advance()

    def begin(self):
        """Called when the training of a level begins.

        Returns:
            bool, whether the rewind point is that of this training.
        """
        pruner, first = self.pruner, not self.captured
        self.check_variables()
        if first and pruner.attached:
            self.capture()
        elif self.phase == START:
            loaded = self._loaded is not None
            self._adopt_learning_rates(self._learning_rates if loaded else None)
            self._return_to_start()
        self._before = self.phase
        self.phase, self.captured, self._loaded = TRAINING, True, None
        return first

    def nothing_trained(self):
        """The training that began did not take a step."""
        self.phase = self._before

    def trained(self):
        """The level is trained and recorded."""
        self.phase = TRAINED

    def touched(self):
        """A training ended that is no round."""
        if self.phase == START and self.captured:
            self.phase = TRAINING
        self.note_learning_rates()

    def advance(self):
        """Prunes and rewinds, as one step."""
        self._advancing = True
        try:
            self.pruner.prune()
        finally:
            self._advancing = False
        self.finish()

    def prune(self, level, masks):
        """Goes over to the next level's masks, all of them or none."""
        before = self.pruner.masks
        empty = [p for p, m in masks.items() if before[p].any() > m.any()]
        if empty:
            warnings.warn(
                without_connection(f"Level {level}", empty[0]), stacklevel=4
            )
        with uninterrupted():
            self._due, self._rewind_due = (level, masks), self._advancing
            self._finish_pruning()

    def rewind(self):
        """Sets the model to the start of its level."""
        if self.phase == TRAINING:
            self._adopt_learning_rates(self._learning_rates)
        with uninterrupted():
            self._rewind_due = True
            self.restore()
            self.started()

    def finish(self):
        """Ends a `prune` or a `rewind` that an error cut short."""
        if self._due is not None:
            self._finish_pruning()
        if self._rewind_due:
            self.rewind()

    def _finish_pruning(self):
        level, masks = self._due
        self.pruner.attachment.assign_masks(masks)
        self.pruner.attachment.apply_masks()
        self.pruner.attachment.clear_pruned_slots()
        self.pruner.level, self.phase = level, TRAINING
        self._learning_rates, self._due = {}, None

    def capture(self, step=0):
        """Makes the state of training the rewind point.

        That of a later step is what the search starts from: `fit` does not
        take another.
        """
        pruner, self.captured = self.pruner, self.captured or step > 0
        self.point = RewindPoint.capture(
            pruner.model, step, pruner.optimizers()
        )

    def restore(self):
        """Sets what is rewound back to the rewind point."""
        pruner = self.pruner
        weights, optimizers = rewinding.parts_rewound(pruner.rewind_to)
        if weights:
            self.point.restore_weights(pruner.model)
        if optimizers:
            self.point.restore_optimizers(pruner.model, pruner.optimizers())
            pruner.attachment.clear_pruned_slots()
            pruner.fit_hooks.rewound()
        pruner.attachment.apply_masks()

    def meet(self, name, optimizer, replaces):
        """A new optimizer's fresh state belongs to the rewind point."""
        if self.point is not None:
            early = self.pruner.fit_hooks.at_begin.get(name)
            self.point.meet(name, optimizer, early, replaces)

    def take(self, ticket, names=None):
        """A ticket's masks, rewind point and level; weights stay."""
        pruner, point = self.pruner, ticket.rewind_point
        pruner.require_attached()
        places = ticket.match(pruner.model, names)
        masks = {places[p]: mask for p, mask in ticket.masks.items()}
        pruner.attachment.check_masked(masks)
        # Seeds that the ticket does not hold stay those of the model.
        weights = rewinding.copy_state(pruner.model)
        weights |= {p: point.weights[saved] for saved, p in places.items()}
        # Of an optimizer that was not built yet, a ticket holds no state.
        own = (
            self.point.optimizers if self.point.step == point.step == 0 else {}
        )
        self.point = RewindPoint(
            point.step, weights, {**own, **point.optimizers}
        )
        pruner.attachment.assign_masks(masks)
        pruner.level = ticket.level
        self.loaded(ticket.level)
        pruner.attachment.meet_optimizers(again=True)

    def started(self):
        """The model is at the start of its level."""
        self.phase, self._rewind_due, self._loaded = START, False, None
        self._learning_rates = {}

    def loaded(self, level):
        """A ticket was taken."""
        self.captured = level > 0 or self.point.step > 0
        self._due = None
        self.started()

    def weights_loaded(self, level):
        """The model holds the weights of a level, from a file of the search."""
        self._loaded = level
        # Those of that training: nobody chose them for the next level.
        self.note_learning_rates()

    def progress(self):
        """Dict that JSON can hold: what a file keeps beside the ticket."""
        return {
            "phase": self.phase,
            "captured": self.captured,
            "steps": self.pruner.fit_hooks.steps_to_capture(),
        }

    def restored(self, progress, in_fit=None):
        """A file was loaded.

        Args:
            progress: dict that `progress` gave, or `None`.
            in_fit: optional str, the phase if it was loaded inside `fit`.
        """
        if progress is not None:
            self.phase = in_fit or progress["phase"]
            self.captured = progress["captured"]
            self.pruner.fit_hooks.resumed(progress["steps"])

    def held_level(self):
        """The level whose weights the model holds."""
        if self.phase == START and self._loaded is not None:
            return self._loaded
        return self.pruner.level

    def held_masks(self):
        """Dict, weight path -> boolean array, of the weights that it holds."""
        if self.held_level() == self.pruner.level:
            return self.pruner.masks
        kernels = self.pruner.attachment.kernels
        return {path: np.asarray(v.numpy()) != 0 for path, v in kernels.items()}

    @contextlib.contextmanager
    def lending(self, record):
        """Context manager: the weights that a level was trained to."""
        pruner = self.pruner
        pruner.require_attached()
        self.finish()
        own = dict(vars(self)), pruner.level, pruner.masks
        weights = rewinding.copy_state(pruner.model)
        held = pruner.optimizers()
        optimizers = rewinding.copy_optimizers(pruner.model, held)
        try:
            pruner.level = self.lent = record.index
            self.phase = TRAINED
            pruner.attachment.assign_masks(record.masks)
            rewinding.assign_state(pruner.model, record.trained_weights)
            yield
        finally:
            with uninterrupted():
                state, pruner.level, masks = own
                vars(self).update(state)
                pruner.attachment.assign_masks(masks)
                rewinding.assign_state(pruner.model, weights)
                for name, optimizer in pruner.optimizers().items():
                    # One that was compiled meanwhile has a state of its own.
                    if name in optimizers and held[name] is optimizer:
                        rewinding.restore_optimizer(optimizer, optimizers[name])

    # Learning rates: what callbacks change is rewound; what is set between
    # trainings stays.

    def note_learning_rates(self):
        """Remembers the learning rates at the end of a training."""
        self._learning_rates = {
            name: rewinding.learning_rates(optimizer)
            for name, optimizer in self.pruner.optimizers().items()
        }

    def _adopt_learning_rates(self, before=None):
        point = self.pruner.rewind_point
        for name, optimizer in self.pruner.optimizers().items():
            if name in point.optimizers:
                known = None if before is None else before.get(name, {})
                point.adopt_learning_rates(name, optimizer, known)

    # The start of a level.

    def _changed_weights(self):
        """Paths of weights that are not those of the start of the level."""
        pruner = self.pruner
        if not rewinding.parts_rewound(pruner.rewind_to)[0]:
            return []
        masks = pruner.attachment.all_masks()
        start = pruner.rewind_point.weights
        seeds = rewinding.seed_paths(pruner.model)
        changed = []
        for path, variable in rewinding.model_state(pruner.model).items():
            expected = start[path]
            if path in masks:
                zero = np.zeros((), expected.dtype)
                expected = np.where(masks[path], expected, zero)
            now = np.asarray(variable.numpy())
            if path not in seeds and now.tobytes() != expected.tobytes():
                changed.append(path)
        return changed

    def _return_to_start(self):
        known = self._loaded is not None
        changed = [] if known else self._changed_weights()
        if changed:
            warnings.warn(
                f"The weights were changed since level {self.pruner.level} "
                "was rewound, by `load_weights`, `set_weights` or an "
                f"assignment: {changed[0]}, {len(changed)} in all. The level "
                "starts from its rewind point all the same. To start from the "
                "weights as they were, call `lottery.capture()` before `fit`.",
                stacklevel=2,
            )
        self.restore()


@contextlib.contextmanager
def uninterrupted():
    """Context manager: Ctrl-C waits until the block has ended."""
    handler = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or not callable(handler):
        yield
        return
    caught = []
    signal.signal(signal.SIGINT, lambda *arguments: caught.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[-1])


def without_connection(level, path):
    """What a warning says of a level at which a layer has lost all weights.

    Args:
        level: str, the level.
        path: str, the layer's kernel.
    """
    return (
        f"{level} has no connection left in {path}: what that layer computes "
        "does not depend on its inputs any more. Give it a smaller rate in "
        "`rates`, or 0 to leave it alone."
    )
