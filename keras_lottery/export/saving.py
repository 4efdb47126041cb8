"""Writes one traced function and its variables as a SavedModel.

Nothing else goes in: the object that is saved is a bare `tf.Module`, so that
no class has to be known to whoever loads it.
"""

import tensorflow as tf


def save(function, directory, names=None, holders=()):
    """Writes a SavedModel with the signature `serving_default`.

    Args:
        function: `ConcreteFunction` of named tensors, that gives a dict.
        directory: str, where to.
        names: optional dict, `id` of a `tf.Variable` -> the name its values
            have in the file. Defaults to the variables' own names.
        holders: iterable of objects, such as layers, whose attributes are
            the lookup tables that the function may use.
    """
    module = bare_module(function, names, holders)
    tf.saved_model.save(
        module,
        directory,
        signatures={"serving_default": function},
        # Gradients are no server's business.
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )


def bare_module(function, names=None, holders=()):
    """A `tf.Module` that holds what a function needs.

    Raises:
        ValueError: If it needs something that cannot be found, and so would
            not be in the file.
    """
    module = tf.Module()
    names = names or {}
    weights = {}
    for variable in function.variables:
        name = names.get(id(variable), variable.name.partition(":")[0])
        weights[_free(name, weights)] = variable
    module.weights = weights
    held = {id(v.handle) for v in function.variables}
    tables = {id(t.resource_handle): t for t in _tables(holders)}
    module.tables = []
    for outer, _ in function.graph.captures:
        if outer.dtype != tf.resource or id(outer) in held:
            continue
        if id(outer) not in tables:
            raise ValueError(
                "`model` must hold what it uses in layers' attributes. "
                "Received one that uses a resource which is no variable and "
                "no table of a layer."
            )
        module.tables.append(tables[id(outer)])
    return module


def _free(name, taken):
    number, free = 1, name
    while free in taken:
        free = f"{name}_{number}"
        number += 1
    return free


def _tables(holders):
    kind = tf.saved_model.experimental.TrackableResource
    for holder in holders:
        for value in vars(holder).values():
            if isinstance(value, kind):
                yield value
