"""KerasTuner's chief and workers, and what they do when a worker dies.

KerasTuner's own chief waits for a dead worker for ever, hangs when its oracle
raises, and sends workers home while others still train, so that nobody is left
to take over. This one hears from each worker every few seconds.
"""

import collections
import concurrent.futures
import contextlib
import os
import threading
import time

import grpc
import keras_tuner
from absl import logging
from keras_tuner.engine.trial import Trial, TrialStatus

# Private, for lack of a public way to the service that KerasTuner's workers
# speak to.
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_chief

# Seconds: between two signs of life, after which a worker counts as dead, and
# that a worker waits for a chief.
EVERY = 2.0
SILENCE = 30.0
PATIENCE = 600.0

# How often a trial may lose its worker before it is the trial's fault.
ATTEMPTS = 3

_SERVICE, _BEAT = "keras_lottery.Chief", "Beat"

# KerasTuner's environment variables.
ID = "KERASTUNER_TUNER_ID"
IP, PORT = "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"


def is_chief():
    """Whether this process is to be KerasTuner's chief."""
    return IP in os.environ and "chief" in os.environ.get(ID, "")


def is_worker():
    """Whether this process is to be one of KerasTuner's workers."""
    return IP in os.environ and not is_chief()


def address():
    """Where the chief is: `"host:port"`."""
    return f"{os.environ[IP]}:{os.environ[PORT]}"


def serve(oracle, silence=None):
    """Runs the chief: returns when all trials are over and all workers gone.

    Without workers it waits for some; a new one takes over what a dead one
    left.

    Args:
        oracle: `keras_tuner.Oracle`.
        silence: optional float, seconds after which a worker counts as dead.

    Raises:
        RuntimeError: If the port is in use, or too many trials failed.
    """
    chief = Chief(oracle, silence or SILENCE)
    # A single thread that all touch the oracle from: nothing to lock.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        # Else a second chief would share the port, and half the workers.
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        protos.get_service_grpc().add_OracleServicer_to_server(chief, server)
        server.add_generic_rpc_handlers((chief.beats(),))
        if not server.add_insecure_port(address()):
            raise RuntimeError(f"The chief cannot listen at {address()}.")
        server.start()
        try:
            while not pool.submit(chief.is_done).result():
                time.sleep(0.5)
        finally:
            server.stop(grace=1.0).wait()
    if chief.error:
        raise chief.error


class Chief(oracle_chief.OracleServicer):
    """Hands out trials, and those of dead workers again.

    Args:
        oracle: `keras_tuner.Oracle`.
        silence: float, seconds after which a worker counts as dead.
    """

    def __init__(self, oracle, silence):
        super().__init__(oracle)
        self.silence = silence
        self.error = None
        self._heard = {}
        self._gone = set()
        self._lost = collections.Counter()

    def beats(self):
        """The handler of signs of life."""

        def beat(tuner_id, context):
            # One that was in flight when its worker was sent home.
            if tuner_id.decode() not in self._gone:
                self._heard[tuner_id.decode()] = time.monotonic()
            return b""

        return grpc.method_handlers_generic_handler(
            _SERVICE, {_BEAT: grpc.unary_unary_rpc_method_handler(beat)}
        )

    def CreateTrial(self, request, context):
        """Gives a worker a trial, lets it wait or sends it home."""
        tuner_id = request.tuner_id
        self._heard[tuner_id] = time.monotonic()
        self._gone.discard(tuner_id)
        trial = self._next(tuner_id)
        if trial.status == TrialStatus.STOPPED:
            self.stop_triggered = True
            self._heard.pop(tuner_id)
            self._gone.add(tuner_id)
        return protos.get_service().CreateTrialResponse(trial=trial.to_proto())

    def _next(self, tuner_id):
        try:
            if not self.error:
                trial = self.oracle.create_trial(tuner_id)
                if trial.status == TrialStatus.STOPPED and self._ongoing:
                    # Whoever is here takes over from one that dies.
                    trial.status = TrialStatus.IDLE
                return trial
        except Exception as error:  # Any oracle's own, told when all is over.
            self.error = error
        empty = keras_tuner.HyperParameters()
        return Trial(empty, status=TrialStatus.STOPPED)

    def EndTrial(self, request, context):
        """Takes the end of a trial."""
        self._end(Trial.from_proto(request.trial))
        return protos.get_service().EndTrialResponse()

    def _end(self, trial):
        try:
            self.oracle.end_trial(trial)
        except RuntimeError as error:  # Too many failed one after another.
            self.error = error

    def is_done(self):
        """Looks after the dead; returns whether all is over."""
        now = time.monotonic()
        for tuner_id, heard in list(self._heard.items()):
            if now - heard > self.silence:
                self._bury(tuner_id)
        over = self.error or (self.stop_triggered and not self._ongoing)
        return bool(over) and not self._heard

    def _bury(self, tuner_id):
        del self._heard[tuner_id]
        self.oracle.tuner_ids.discard(tuner_id)
        trial = self._ongoing.pop(tuner_id, None)
        if trial is None:
            return
        self._lost[trial.trial_id] += 1
        times = self._lost[trial.trial_id]
        logging.warning("%s died in trial %s.", tuner_id, trial.trial_id)
        if times < ATTEMPTS:
            # As KerasTuner does with a trial that was ongoing on reload.
            self.oracle._retry_queue.append(trial.trial_id)
            self.oracle.save()
        else:
            trial.status = TrialStatus.FAILED
            trial.message = f"It lost its worker {times} times."
            self._end(trial)

    @property
    def _ongoing(self):
        return self.oracle.ongoing_trials


@contextlib.contextmanager
def heartbeat(tuner_id):
    """Tells the chief that this worker lives, as long as the context lasts.

    Args:
        tuner_id: str.

    Raises:
        RuntimeError: If no chief answers.
    """
    over = threading.Event()
    with grpc.insecure_channel(address()) as channel:
        try:
            grpc.channel_ready_future(channel).result(PATIENCE)
        except grpc.FutureTimeoutError:
            raise RuntimeError(
                f"No chief answers at {address()}. It must run, and the "
                "search not be over."
            ) from None
        beat = channel.unary_unary(f"/{_SERVICE}/{_BEAT}")

        def go_on():
            while not over.wait(EVERY):
                # A chief may be started again meanwhile.
                with contextlib.suppress(grpc.RpcError):
                    beat(tuner_id.encode(), timeout=EVERY)

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
