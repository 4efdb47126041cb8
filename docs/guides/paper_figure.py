# %% [markdown]
# # Reproduce the paper's figure
#
# A small subnetwork that learns well is not yet a winning ticket. The paper
# compares it with *controls*: the same subnetwork from other weights, a random
# subnetwork, and a subnetwork that was cut in one step. An `Experiment` trains
# all of these, for several seeds, and draws the figure.
#
# Here it runs on the embedded digits, in half a minute. The same on MNIST is
# one command, at the end.

# %%
from keras_lottery import report
from keras_lottery.experiments import Experiment, Progress

experiment = Experiment(
    dataset="digits",
    model="lenet_300_100",
    arms=("ticket", "reinit", "random_mask"),
    rounds=10,
    iterations=300,
    eval_every=20,
    trials=2,
)

# %% [markdown]
# What is trained at each level is an *arm*; one seed of everything is a
# *trial*. Settings that you do not give come from the paper's recipe for the
# network.

# %%
results = experiment.run("runs/digits")
results

# %% [markdown]
# Points are means over the trials, bars reach from the smallest to the largest
# value. Early stopping is the step at which the validation loss was smallest,
# found after the training.

# %%
results.plot("LeNet-300-100 on digits, 300 steps")

# %% [markdown]
# On the left, the ticket keeps its accuracy to densities at which the same
# subnetwork from other weights, and a random one, have lost theirs. On the
# right there is nothing to see yet: in 300 steps the validation loss does not
# reach its minimum. The longer experiment on MNIST, below, shows that the
# ticket also learns faster.
#
# The same numbers as a table of pandas, to look at in your own way:

# %%
frame = results.to_pandas()
frame.groupby(["arm", "level"])["early_stop_test_accuracy"].mean().unstack(0)

# %% [markdown]
# ## The page with everything
#
# `report.write` makes one HTML file: all figures, learning curves, masks,
# comparisons between the arms, and the paper's claims.

# %%
report.write("runs/digits")

# %% [markdown]
# ## It goes on where it was stopped
#
# Each level is written when it is trained. The same experiment on the same
# directory trains only what is missing; here that is nothing. Another
# experiment on it is refused. `Progress` shows a line for each training and,
# in a notebook or a terminal, a bar.

# %%
experiment.run("runs/digits", progress=Progress()) == results

# %% [markdown]
# ## On MNIST, with the claims checked
#
# ```
# python tools/find_ticket.py --flagfile=configs/lenet_mnist.cfg --workers=2
# python tools/check_claims.py runs/lenet_mnist
# ```
#
# That is five trials of four arms and 19 levels, about an hour and a half on
# two cores. Its figure, its table and its verdicts are in [Results: LeNet on
# MNIST](../results/lenet.md). A smaller one of four minutes is
# `configs/lenet_mnist_quick.cfg`.
