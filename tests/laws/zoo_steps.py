"""Gradients, and training steps of one's own, on each backend of Keras."""

import keras

BACKEND = keras.backend.backend()


def _penalty(variable):
    return 0.01 * keras.ops.sum(keras.ops.square(variable))


if BACKEND == "tensorflow":
    import tensorflow as tf

    def gradients(loss, variables, others=()):
        """(loss, gradients of `variables`) of a function without arguments."""
        with tf.GradientTape() as tape:
            value = loss()
        return value, tape.gradient(value, variables)

    def apply(optimizer, gradients, variables):
        """A step of an optimizer."""
        optimizer.apply(gradients, variables)

    def own_train_step(model, data):
        """Adds a penalty on the first weight to the loss."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True))
            loss = loss + _penalty(model.weights[0])
            scaled = model.optimizer.scale_loss(loss)
        variables = model.trainable_variables
        gradients = tape.gradient(scaled, variables)
        model.optimizer.apply(gradients, variables)
        return {"loss": loss}

    def compiled(function, optimizer, variables):
        """A function `loss` of a compiled step."""

        @tf.function
        def step():
            loss, found = gradients(function, variables)
            optimizer.apply(found, variables)
            return loss

        return step

elif BACKEND == "torch":
    import torch

    def gradients(loss, variables, others=()):
        """(loss, gradients of `variables`) of a function without arguments."""
        value = loss()
        found = torch.autograd.grad(
            value, [v.value for v in variables], allow_unused=True
        )
        return value.detach(), list(found)

    @torch.no_grad()
    def apply(optimizer, gradients, variables):
        """A step of an optimizer."""
        optimizer.apply(gradients, variables)

    def own_train_step(model, data):
        """Adds a penalty on the first weight to the loss."""
        x, y = data

        def scaled():
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True))
            return model.optimizer.scale_loss(loss + _penalty(model.weights[0]))

        variables = model.trainable_variables
        loss, found = gradients(scaled, variables)
        apply(model.optimizer, found, variables)
        return {"loss": loss}

    def compiled(function, optimizer, variables):
        """A step of a loop of one's own; nothing is compiled."""

        def step():
            loss, found = gradients(function, variables)
            apply(optimizer, found, variables)
            return loss

        return step

else:
    import jax

    def _stateless(loss, variables, others):
        """A function of values: (loss, the new values of `others`)."""

        def function(values, other_values):
            state = zip([*variables, *others], [*values, *other_values])
            with keras.StatelessScope(list(state)) as scope:
                value = loss()
            return value, [scope.get_current_value(v) for v in others]

        return jax.value_and_grad(function, has_aux=True)

    def gradients(loss, variables, others=()):
        """(loss, gradients of `variables`) of a function without arguments.

        Args:
            loss: the function.
            variables: list of `keras.Variable`.
            others: list of the variables that the function may assign.
        """
        values = [v.value for v in variables], [v.value for v in others]
        (value, new), found = _stateless(loss, variables, others)(*values)
        for variable, array in zip(others, new):
            variable.assign(array)
        return value, found

    def apply(optimizer, gradients, variables):
        """A step of an optimizer."""
        if not optimizer.built:
            optimizer.build(variables)
        groups = variables, optimizer.variables
        values = [[v.value for v in group] for group in groups]
        new = optimizer.stateless_apply(values[1], gradients, values[0])
        for group, arrays in zip(groups, new):
            for variable, array in zip(group, arrays):
                variable.assign(array)

    def own_train_step(model, state, data):
        """Adds a penalty on the first weight to the loss."""
        trained, untrained, optimizer, metrics = state
        x, y = data[:2]

        def scaled(values):
            y_pred, new = model.stateless_call(
                values, untrained, x, training=True
            )
            loss = model.compute_loss(x=x, y=y, y_pred=y_pred)
            loss = loss + _penalty(values[0])
            variables = list(zip(model.optimizer.variables, optimizer))
            with keras.StatelessScope(variables):
                return model.optimizer.scale_loss(loss), (loss, new)

        found, (loss, untrained) = jax.grad(scaled, has_aux=True)(trained)
        trained, optimizer = model.optimizer.stateless_apply(
            optimizer, found, trained
        )
        return {"loss": loss}, (trained, untrained, optimizer, metrics)

    def compiled(function, optimizer, variables):
        """A function `loss` of a compiled step."""
        optimizer.build(variables)
        function = _stateless(function, variables, ())

        @jax.jit
        def stateless_step(values, state):
            (loss, _), found = function(values, ())
            return loss, optimizer.stateless_apply(state, found, values)

        def step():
            loss, new = stateless_step(
                [v.value for v in variables],
                [v.value for v in optimizer.variables],
            )
            for group, arrays in zip((variables, optimizer.variables), new):
                for variable, array in zip(group, arrays):
                    variable.assign(array)
            return loss

        return step
