"""Models distributed over the accelerators of one machine.

Under `tf.distribute.MirroredStrategy` every variable has a copy on each device
and a training step is Python that runs once for each of them.
"""

import tensorflow as tf

_ONE_MACHINE = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)


def check_strategy(model):
    """Refuses a model whose replicas are not all on this machine."""
    strategy, default = model.distribute_strategy, None
    if not tf.distribute.has_strategy():
        default = tf.distribute.get_strategy()
    if strategy is not default and not isinstance(strategy, _ONE_MACHINE):
        raise ValueError(
            "`model` must be made without a `tf.distribute` strategy, or under "
            "`tf.distribute.MirroredStrategy` to use several accelerators of "
            "one machine. For several machines, give each trainings of its "
            "own: `python tools/find_ticket.py --scheduler=tcp://host:port` "
            "(`--workers` on one machine). "
            f"Received: a model under {type(strategy).__name__}"
        )


def once(function):
    """Calls a function once for all replicas, outside of them.

    In a replica an assignment reaches that replica's copy alone, and one to
    what the replicas share is made once for each.

    Args:
        function: without arguments. It must not be of another graph than the
            step that the replicas run.
    """
    if in_replica():
        context = tf.distribute.get_replica_context()
        context.merge_call(lambda strategy: function())
    else:
        function()


def in_replica():
    """Whether this is the Python of one replica of several."""
    inside = not tf.distribute.in_cross_replica_context()
    return tf.distribute.has_strategy() and inside


def copies(variable):
    """The `tf.Variable`s of a Keras variable, one for each device."""
    value = variable.value
    mirrored = isinstance(value, tf.distribute.DistributedValues)
    return value.values if mirrored else (value,)
