# %% [markdown]
# # Many machines
#
# An experiment is many trainings, most of which do not wait for each other. It
# can use several processes of one machine, or the workers of a Dask cluster.
# The results do not depend on it.
#
# ## Several processes
#
# `workers=2` trains in two processes, each with its share of the cores. The
# bits are those of one worker as long as sums are not split by the number of
# threads.

# %%
import dataclasses
import os
import subprocess
import sys

from keras_lottery.experiments import Experiment

experiment = Experiment(
    dataset="digits",
    rounds=1,
    iterations=100,
    eval_every=20,
    trials=2,
    backend="graph",
)
one = experiment.run("runs/one")
two = experiment.run("runs/two", workers=2)


def untimed(results):
    return [dataclasses.replace(result, seconds=0.0) for result in results]


untimed(one) == untimed(two)

# %% [markdown]
# ## A Dask cluster
#
# Install the extra, `pip install "keras-lottery[dask]"`, on every machine.
# Then start a scheduler on one of them and a worker on each, or several:
#
# ```
# dask scheduler
# dask worker tcp://scheduler:8786 --nthreads 1
# ```
#
# and give the scheduler's address to the experiment, in Python or on the
# command line:
#
# ```
# python tools/find_ticket.py --scheduler=tcp://scheduler:8786 --trials=5
# ```
#
# This guide starts one worker on this machine.


# %%
def start(*command):
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


scheduler = start(
    "distributed.cli.dask_scheduler",
    *("--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
)
address = next(
    line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line
)
worker = start(
    "distributed.cli.dask_worker",
    *(address, "--nthreads", "1", "--no-nanny", "--no-dashboard"),
)
try:
    results = experiment.run("runs/cluster", scheduler=address)
finally:
    worker.kill()
    scheduler.kill()
untimed(results) == untimed(one)

# %% [markdown]
# - Workers need no shared file system: what a training builds on is sent to
#   them, and the coordinator alone writes files.
# - A worker that dies costs its training, which another one repeats.
# - Each level needs the one before. The longest chain of levels is what limits
#   the time, not the number of workers; see [Results: the whole
#   campaign](../results/campaign.md).
#
# ## Several GPUs for one training
#
# A model that is built and compiled under `tf.distribute.MirroredStrategy` is
# wrapped like any other, and the guarantees hold on every replica.
