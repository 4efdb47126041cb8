"""Numba kernels: steps and evaluations that touch surviving weights alone.

A network is a chain of dense layers. All of its trained numbers lie in one
flat array, `theta`: the surviving weights of each kernel, output by output,
and its biases. Slots of the optimizer and gradients lie in arrays like it.

Activations are stored unit by unit, `LANES` examples of a unit next to each
other. So a weight is multiplied with a whole vector of examples, and what is
irregular about a sparse kernel, the index of the input, is looked up once for
all of them. More examples than that are several tiles, one after the other.

Every thread runs the same function, on a share of each phase of a step, and
meets the others at barriers. A number is always computed by one thread, in an
order that does not depend on how the work is shared, from operations whose
rounding IEEE 754 defines (a fused multiply-add is asked for where it is
wanted). So the same bits come of any number of threads.

Vectors of a fixed length are LLVM's own, reached by Numba intrinsics: an
innermost loop over 64 examples would be vectorised, but its sums would go
through memory.
"""

import math
import os
import platform
import typing

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

# Examples in a vector: four registers of AVX-512 in float32.
LANES = 64
# Of a square of numbers that is transposed in registers.
SIDE = 16

# Activations, of which the derivative follows from the value.
LINEAR, RELU, LEAKY_RELU, ELU, TANH, SIGMOID = range(6)
# Losses, by what they are computed from.
SPARSE_SOFTMAX, SOFTMAX, BINARY, SQUARED = range(4)
# Accuracies.
NONE, SPARSE_CLASS, CLASS, THRESHOLD = range(4)
# Updates.
SGD, MOMENTUM, NESTEROV, ADAM = range(4)
# Clipping.
UNCLIPPED, BY_VALUE, BY_NORM, BY_GLOBAL_NORM = range(4)


class Network(typing.NamedTuple):
    """A chain of layers as arrays.

    Attributes:
        units: units of the input and of each layer.
        units_at: where those begin among all units.
        starts: where each output's weights begin in `theta`: for each layer
            one number for each output, and the end.
        starts_at: where each layer's begin in `starts`.
        columns: of each number of `theta`, the input of the weight.
        biases_at: where each layer's biases begin in `theta`.
        biased: of each unit but the inputs, whether its bias is trained.
        in_starts: where each input's weights begin in `in_rows`; likewise.
        in_starts_at: where each layer's begin in `in_starts`.
        in_rows: input by input, the output of each weight.
        in_places: likewise, where the weight is in `theta`.
        activations: of each layer.
        slopes: of each layer's activation, for negative values.
    """

    units: np.ndarray
    units_at: np.ndarray
    starts: np.ndarray
    starts_at: np.ndarray
    columns: np.ndarray
    biases_at: np.ndarray
    biased: np.ndarray
    in_starts: np.ndarray
    in_starts_at: np.ndarray
    in_rows: np.ndarray
    in_places: np.ndarray
    activations: np.ndarray
    slopes: np.ndarray


class Shares(typing.NamedTuple):
    """Which part of each phase is which thread's.

    Attributes:
        outputs: array (layers, threads + 1), of the outputs of each layer.
        inputs: array (layers, threads + 1), of the inputs of each layer.
        counter: of arrivals at barriers.
    """

    outputs: np.ndarray
    inputs: np.ndarray
    counter: np.ndarray


class Recipe(typing.NamedTuple):
    """What a step does with outputs and with gradients.

    Attributes:
        loss: int.
        update: int.
        clipping: int.
        numbers: of the dtype of the network: the limit of the clipping,
            momentum or beta_1's complement, beta_2's complement, epsilon.
        penalised: whether any variable has a penalty.
        l1, l2: the penalties of each variable: of each layer its kernel, and
            its bias.
        decays: likewise, the decay of weights in a step of rate 1.
    """

    loss: int
    update: int
    clipping: int
    numbers: np.ndarray
    penalised: bool
    l1: np.ndarray
    l2: np.ndarray
    decays: np.ndarray


class State(typing.NamedTuple):
    """What a step changes.

    Attributes:
        theta: what is trained.
        first, second: slots like it, of which an optimizer may use none.
        gradients: likewise, of the last step.
    """

    theta: np.ndarray
    first: np.ndarray
    second: np.ndarray
    gradients: np.ndarray


class Buffers(typing.NamedTuple):
    """What a step leaves to the next phase.

    Attributes:
        values: tile by tile, those of all units.
        deltas: likewise, the derivatives of the loss, without the inputs'.
        losses: of each example of a batch.
        squares: a row for each unit but the inputs: the sum of the squares
            of the gradients of its weights, and that of its bias.
        penalties: of each unit but the inputs, the penalty of its weights.
        scales: a row for each thread: what clipping multiplies the gradients
            of each variable with.
    """

    values: np.ndarray
    deltas: np.ndarray
    losses: np.ndarray
    squares: np.ndarray
    penalties: np.ndarray
    scales: np.ndarray


# Vectors.


class Vector(types.Type):
    """So many numbers of a dtype."""

    def __init__(self, dtype, lanes=LANES):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _vector_of(kind.dtype, kind.lanes))


def _element(dtype):
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def _vector_of(dtype, lanes=None):
    return ir.VectorType(_element(dtype), lanes or LANES)


def _pointer(context, builder, kind, array, index):
    """The address of a number, whose index is not negative."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _as_vector(builder, pointer, dtype, lanes=None):
    return builder.bitcast(pointer, ir.PointerType(_vector_of(dtype, lanes)))


def _load(context, builder, kind, array, index, lanes=None):
    pointer = _pointer(context, builder, kind, array, index)
    pointer = _as_vector(builder, pointer, kind.dtype, lanes)
    return builder.load(pointer, align=kind.dtype.bitwidth // 8)


def _store(context, builder, kind, array, index, vector):
    pointer = _pointer(context, builder, kind, array, index)
    lanes = vector.type.count
    pointer = _as_vector(builder, pointer, kind.dtype, lanes)
    builder.store(vector, pointer, align=kind.dtype.bitwidth // 8)


def _number(value):
    return ir.Constant(ir.IntType(64), value)


def _index(context, builder, kind, array, index):
    """A number of an array of 32-bit integers, in 64 bits."""
    number = builder.load(_pointer(context, builder, kind, array, index))
    return builder.sext(number, ir.IntType(64))


def _shuffled(builder, lanes, one, other=None):
    """Lanes of a vector, and of another, whose lanes count on."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    other = other or ir.Constant(one.type, ir.Undefined)
    return builder.shuffle_vector(one, other, mask)


def _spread(builder, value, dtype):
    one = ir.Constant(_vector_of(dtype), ir.Undefined)
    one = builder.insert_element(one, value, ir.Constant(ir.IntType(32), 0))
    return _shuffled(builder, [0] * LANES, one)


def _fused(builder, *operands):
    """a * b + c, rounded once."""
    kind = operands[0].type
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [kind] * 3),
        f"llvm.fma.v{kind.count}{kind.element.intrinsic_name}",
    )
    return builder.call(function, operands)


def _folded(builder, a, b):
    """The products of two vectors, those a `SIDE` apart added up."""

    def part(vector, first):
        return _shuffled(builder, list(range(first, first + SIDE)), vector)

    products = builder.fmul(part(a, 0), part(b, 0))
    for first in range(SIDE, LANES, SIDE):
        products = _fused(builder, part(a, first), part(b, first), products)
    return products


def _summed(builder, vector):
    """The sum of the lanes of a vector of `SIDE`: halves added to halves."""
    lanes = SIDE
    while lanes > 1:
        lanes //= 2
        low = _shuffled(builder, list(range(lanes)), vector)
        high = _shuffled(builder, list(range(lanes, 2 * lanes)), vector)
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _crossed(half):
    """Lanes by which two vectors exchange halves of their lanes.

    Where the bit `half` of a lane is not set, the first of the new vectors has
    the first's own lane; where it is, that of the second `half` before it.
    The other new vector has the rest.
    """
    lanes = range(SIDE)
    first = [j if not j & half else SIDE + (j ^ half) for j in lanes]
    second = [j ^ half if not j & half else SIDE + j for j in lanes]
    return first, second


def _all_summed(builder, vectors):
    """A vector of the sums of `SIDE` vectors, of the same bits as `_summed`."""
    half = SIDE // 2
    while half:
        first, second = _crossed(half)
        vectors = [
            builder.fadd(
                _shuffled(builder, first, one, other),
                _shuffled(builder, second, one, other),
            )
            for one, other in zip(vectors[:half], vectors[half:])
        ]
        half //= 2
    return vectors[0]


def _turned(builder, rows):
    """`SIDE` vectors as the columns of which they are the rows."""
    rows, half = list(rows), SIDE // 2
    while half:
        first, second = _crossed(half)
        for i in range(SIDE):
            if not i & half:
                one, other = rows[i], rows[i + half]
                rows[i] = _shuffled(builder, first, one, other)
                rows[i + half] = _shuffled(builder, second, one, other)
        half //= 2
    return rows


@intrinsic
def item(typing_context, array, index):
    """`array[index]`, of an index that is not negative."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, array, *arguments)
        return builder.load(pointer)

    return array.dtype(array, types.int64), generate


@intrinsic
def load(typing_context, array, index):
    """The vector that begins at an index."""

    def generate(context, builder, signature, arguments):
        return _load(context, builder, array, *arguments)

    return Vector(array.dtype)(array, types.int64), generate


@intrinsic
def store(typing_context, array, index, vector):
    """Stores a vector from an index on."""

    def generate(context, builder, signature, arguments):
        _store(context, builder, array, *arguments)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


@intrinsic
def spread(typing_context, value):
    """A vector that has a number in every lane."""

    def generate(context, builder, signature, arguments):
        return _spread(builder, arguments[0], value)

    return Vector(value)(value), generate


@intrinsic
def load_side(typing_context, array, index):
    """The vector of `SIDE` that begins at an index."""

    def generate(context, builder, signature, arguments):
        return _load(context, builder, array, *arguments, SIDE)

    return Vector(array.dtype, SIDE)(array, types.int64), generate


@intrinsic
def full(typing_context, array, number):
    """A vector of an integer, of the dtype of an array."""

    def generate(context, builder, signature, arguments):
        kind = _element(array.dtype)
        value = builder.sitofp(arguments[1], kind)
        return _spread(builder, value, array.dtype)

    return Vector(array.dtype)(array, types.int64), generate


@intrinsic
def add(typing_context, a, b):
    """a + b."""

    def generate(context, builder, signature, arguments):
        return builder.fadd(*arguments)

    return a(a, b), generate


@intrinsic
def add_product(typing_context, number, vector, to):
    """to + number * vector, rounded once."""

    def generate(context, builder, signature, arguments):
        factor = _spread(builder, arguments[0], number)
        return _fused(builder, factor, *arguments[1:])

    return to(number, vector, to), generate


@intrinsic
def dot(typing_context, a, b):
    """The sum of the products of the lanes of two vectors."""

    def generate(context, builder, signature, arguments):
        return _summed(builder, _folded(builder, *arguments))

    return a.dtype(a, b), generate


@intrinsic
def dots(typing_context, vector, array, at, columns, k):
    """`SIDE` dot products, of the same bits as `dot`.

    They are those of a vector with the vectors of an array whose numbers are
    in `columns` from `k` on, where the first of all is at an index.
    """

    def generate(context, builder, signature, arguments):
        vector, array, at, columns, k = arguments
        kinds, folded = signature.args, []
        for i in range(SIDE):
            place = builder.add(k, _number(i))
            column = _index(context, builder, kinds[3], columns, place)
            place = builder.add(at, builder.mul(column, _number(LANES)))
            other = _load(context, builder, kinds[1], array, place)
            folded.append(_folded(builder, vector, other))
        return _all_summed(builder, folded)

    kinds = vector, array, types.int64, columns, types.int64
    return Vector(vector.dtype, SIDE)(*kinds), generate


@intrinsic
def turn(typing_context, x, features, feature, rows, at, values, to):
    """Transposes `SIDE` examples by `SIDE` features.

    Args:
        x: flat array, example by example.
        features: int, how many an example has.
        feature: int, the first feature.
        rows: array of int32, the examples are those from `at` on.
        values: flat array, `LANES` examples of a feature next to each other.
        to: int, where the first example and feature goes.
    """

    def generate(context, builder, signature, arguments):
        x, features, feature, rows, at, values, to = arguments
        kinds, loaded = signature.args, []
        for i in range(SIDE):
            place = builder.add(at, _number(i))
            row = _index(context, builder, kinds[3], rows, place)
            place = builder.add(builder.mul(row, features), feature)
            loaded.append(_load(context, builder, kinds[0], x, place, SIDE))
        for i, vector in enumerate(_turned(builder, loaded)):
            place = builder.add(to, _number(LANES * i))
            _store(context, builder, kinds[5], values, place, vector)
        return context.get_dummy_value()

    number = types.int64
    kinds = x, number, number, rows, number, values, number
    return types.void(*kinds), generate


@intrinsic
def rectified(typing_context, vector):
    """Zero where a vector is negative; NaN stays."""

    def generate(context, builder, signature, arguments):
        zero = ir.Constant(arguments[0].type, None)
        negative = builder.fcmp_ordered("<", arguments[0], zero)
        return builder.select(negative, zero, arguments[0])

    return vector(vector), generate


@intrinsic
def where_positive(typing_context, condition, vector):
    """A vector, with zero where another is not positive."""

    def generate(context, builder, signature, arguments):
        zero = ir.Constant(arguments[0].type, None)
        positive = builder.fcmp_ordered(">", arguments[0], zero)
        return builder.select(positive, arguments[1], zero)

    return vector(condition, vector), generate


# Denormal numbers.

# Where processors keep it, and the bits by which numbers that are too small
# for an exponent of their own count as zero, as TensorFlow has it.
_CONTROL = {
    "x86_64": ("x86.sse.stmxcsr", "x86.sse.ldmxcsr", 0x8040),
    "amd64": ("x86.sse.stmxcsr", "x86.sse.ldmxcsr", 0x8040),
    "aarch64": ("aarch64.get.fpcr", "aarch64.set.fpcr", 1 << 24),
    "arm64": ("aarch64.get.fpcr", "aarch64.set.fpcr", 1 << 24),
}.get(platform.machine().lower())


def _call(builder, name, result, *arguments):
    kinds = [argument.type for argument in arguments]
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, kinds), f"llvm.{name}"
    )
    return builder.call(function, arguments)


def _control(builder):
    """The control word of the processor, as 64 bits."""
    long = ir.IntType(64)
    if _CONTROL is None:
        return ir.Constant(long, 0)
    if not _CONTROL[0].startswith("x86"):
        return _call(builder, _CONTROL[0], long)
    place = cgutils.alloca_once(builder, ir.IntType(32))
    address = builder.bitcast(place, ir.IntType(8).as_pointer())
    _call(builder, _CONTROL[0], ir.VoidType(), address)
    return builder.zext(builder.load(place), long)


def _set_control(builder, word):
    if _CONTROL is None:
        return
    if not _CONTROL[0].startswith("x86"):
        _call(builder, _CONTROL[1], ir.VoidType(), word)
        return
    place = cgutils.alloca_once(builder, ir.IntType(32))
    builder.store(builder.trunc(word, ir.IntType(32)), place)
    address = builder.bitcast(place, ir.IntType(8).as_pointer())
    _call(builder, _CONTROL[1], ir.VoidType(), address)


@intrinsic
def flush_denormals(typing_context):
    """Makes denormal numbers zero from now on, in this thread.

    They take a hundred times as long, and what decays to zero, such as the
    momentum of a unit that died, ends in them.

    Returns:
        Int, for `restore`.
    """

    def generate(context, builder, signature, arguments):
        word = _control(builder)
        bits = _number(_CONTROL[2] if _CONTROL else 0)
        _set_control(builder, builder.or_(word, bits))
        return word

    return types.int64(), generate


@intrinsic
def restore(typing_context, word):
    """Undoes `flush_denormals`."""

    def generate(context, builder, signature, arguments):
        _set_control(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


# Threads.


@intrinsic
def _arrive(typing_context, counter):
    """Adds one to a counter, and returns what it was."""

    def generate(context, builder, signature, arguments):
        zero = ir.Constant(ir.IntType(64), 0)
        pointer = _pointer(context, builder, counter, arguments[0], zero)
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", pointer, one, "seq_cst")

    return types.int64(counter), generate


@intrinsic
def _arrived(typing_context, counter):
    """What a counter is now."""

    def generate(context, builder, signature, arguments):
        zero = ir.Constant(ir.IntType(64), 0)
        pointer = _pointer(context, builder, counter, arguments[0], zero)
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(counter), generate


@intrinsic
def _give_way(typing_context):
    """Lets other threads of the machine run."""

    def generate(context, builder, signature, arguments):
        if os.name == "posix":
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.IntType(32), []),
                "sched_yield",
            )
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), generate


_kernel = njit(cache=True, nogil=True, error_model="numpy")
# About ten microseconds, more than a phase of a small network lasts.
_SPINS = 5_000


@_kernel
def _wait(counter, threads):
    """Returns when all threads have come here."""
    if threads == 1:
        return
    ticket = _arrive(counter)
    expected = (ticket // threads + 1) * threads
    spins = 0
    while _arrived(counter) < expected:
        spins += 1
        if spins > _SPINS:
            _give_way()


# Phases.


@_kernel
def _transpose(x, features, rows, at, values, to, first, last):
    """Puts features `first` to `last` of examples where the layers want them.

    Args:
        x: flat array, example by example.
        features: int, how many an example has.
        rows: array of int32, the examples: `LANES` of them from `at` on.
        values: flat array.
        to: int, where the first feature goes.
    """
    whole = last - (last - first) % SIDE
    for lane in range(0, LANES, SIDE):
        for feature in range(first, whole, SIDE):
            place = to + LANES * feature + lane
            turn(x, features, feature, rows, at + lane, values, place)
    for lane in range(LANES):
        row = rows[at + lane] * features
        for feature in range(whole, last):
            values[to + LANES * feature + lane] = x[row + feature]


@_kernel
def _activate(values, at, kind, slope):
    for i in range(at, at + LANES):
        value = values[i]
        if kind == LEAKY_RELU:
            if value < 0:
                values[i] = slope * value
        elif kind == ELU:
            if value < 0:
                values[i] = slope * math.expm1(value)
        elif kind == TANH:
            values[i] = math.tanh(value)
        elif kind == SIGMOID:
            values[i] = 1 / (1 + math.exp(-value))


@_kernel
def _derivative(kind, slope, value):
    """The derivative of an activation, from its value."""
    if kind == RELU:
        return 1.0 if value > 0 else 0.0
    if kind == LEAKY_RELU:
        return 1.0 if value > 0 else slope
    if kind == ELU:
        return value + slope if value < 0 else 1.0
    if kind == TANH:
        return 1.0 - value * value
    if kind == SIGMOID:
        return value * (1.0 - value)
    return 1.0


@_kernel
def _forward(network, layer, theta, inputs, inputs_at, values, at, first, last):
    """Outputs `first` to `last` of a layer, on one tile."""
    starts_at, bias_at = network.starts_at[layer], network.biases_at[layer]
    kind, columns = network.activations[layer], network.columns
    for output in range(first, last):
        begin = item(network.starts, starts_at + output)
        end = item(network.starts, starts_at + output + 1)
        # Two sums, since a product can begin before an addition ends.
        even, odd = spread(item(theta, bias_at + output)), full(theta, 0)
        middle = begin + (end - begin) // 2 * 2
        for k in range(begin, middle, 2):
            one = load(inputs, inputs_at + LANES * item(columns, k))
            two = load(inputs, inputs_at + LANES * item(columns, k + 1))
            even = add_product(item(theta, k), one, even)
            odd = add_product(item(theta, k + 1), two, odd)
        if middle < end:
            one = load(inputs, inputs_at + LANES * item(columns, middle))
            even = add_product(item(theta, middle), one, even)
        even, place = add(even, odd), at + LANES * output
        if kind == RELU:
            even = rectified(even)
        store(values, place, even)
        if kind > RELU:
            _activate(values, place, kind, network.slopes[layer])


@_kernel
def _backward(
    network, layer, theta, deltas, at, values, shift, to, first, last
):
    """The derivatives by inputs `first` to `last` of a layer, on one tile.

    Args:
        at: where those by its outputs are in `deltas`.
        shift: how much further a unit is in `values` than in `deltas`, apart
            from the inputs of its own tile.
        to: where the result goes in `deltas`.
    """
    starts_at = network.in_starts_at[layer]
    kind, slope = network.activations[layer - 1], network.slopes[layer - 1]
    rows, places = network.in_rows, network.in_places
    skipped = shift + LANES * network.units[0]
    for unit in range(first, last):
        begin = item(network.in_starts, starts_at + unit)
        end = item(network.in_starts, starts_at + unit + 1)
        even, odd = full(theta, 0), full(theta, 0)
        middle = begin + (end - begin) // 2 * 2
        for k in range(begin, middle, 2):
            one = load(deltas, at + LANES * item(rows, k))
            two = load(deltas, at + LANES * item(rows, k + 1))
            even = add_product(item(theta, item(places, k)), one, even)
            odd = add_product(item(theta, item(places, k + 1)), two, odd)
        if middle < end:
            one = load(deltas, at + LANES * item(rows, middle))
            even = add_product(item(theta, item(places, middle)), one, even)
        even, place = add(even, odd), to + LANES * unit
        if kind == RELU:
            even = where_positive(load(values, skipped + place), even)
        store(deltas, place, even)
        if kind > RELU:
            for i in range(place, place + LANES):
                deltas[i] *= _derivative(kind, slope, values[skipped + i])


@_kernel
def _gradients(
    network, layer, state, values, inputs_at, deltas, at, first, last, again
):
    """The gradients of the weights of outputs `first` to `last`, by one tile.

    They are added to what is there if `again`.
    """
    starts_at, bias_at = network.starts_at[layer], network.biases_at[layer]
    gradients, columns = state.gradients, network.columns
    unit_at = network.units_at[layer + 1] - network.units[0]
    ones = full(gradients, 1)
    for output in range(first, last):
        begin = item(network.starts, starts_at + output)
        end = item(network.starts, starts_at + output + 1)
        delta = load(deltas, at + LANES * output)
        done = begin
        while done + SIDE <= end:
            several = dots(delta, values, inputs_at, columns, done)
            if again:
                several = add(several, load_side(gradients, done))
            store(gradients, done, several)
            done += SIDE
        if done < end and begin + SIDE <= end and not again:
            # Some are computed a second time, all at once.
            done = end - SIDE
            several = dots(delta, values, inputs_at, columns, done)
            store(gradients, done, several)
            done = end
        for k in range(done, end):
            column = inputs_at + LANES * item(columns, k)
            gradient = dot(delta, load(values, column))
            gradients[k] = gradients[k] + gradient if again else gradient
        k = bias_at + output
        if network.biased[unit_at + output]:
            gradient = dot(delta, ones)
            gradients[k] = gradients[k] + gradient if again else gradient
        else:
            gradients[k] = 0


@_kernel
def _finish(network, layer, recipe, state, buffers, first, last):
    """Adds what regularizers do, and sums what clipping needs."""
    starts_at, bias_at = network.starts_at[layer], network.biases_at[layer]
    unit_at = network.units_at[layer + 1] - network.units[0]
    kernel, bias = 2 * layer, 2 * layer + 1
    if recipe.penalised:
        for output in range(first, last):
            begin = network.starts[starts_at + output]
            end = network.starts[starts_at + output + 1]
            penalty = _penalise(recipe, state, kernel, begin, end)
            k = bias_at + output
            penalty += _penalise(recipe, state, bias, k, k + 1)
            buffers.penalties[unit_at + output] = penalty
    if recipe.clipping >= BY_NORM:
        for output in range(first, last):
            begin = network.starts[starts_at + output]
            end = network.starts[starts_at + output + 1]
            k = bias_at + output
            squares = buffers.squares[unit_at + output]
            squares[0] = _squares(state.gradients, begin, end)
            squares[1] = _squares(state.gradients, k, k + 1)


@_kernel
def _penalise(recipe, state, variable, first, last):
    l1, l2, penalty = recipe.l1[variable], recipe.l2[variable], 0.0
    for k in range(first, last):
        weight = state.theta[k]
        sign = (weight > 0) - (weight < 0)
        state.gradients[k] += 2 * l2 * weight + l1 * sign
        penalty += l2 * weight * weight + l1 * abs(weight)
    return penalty


@_kernel
def _squares(array, first, last):
    squares = 0.0
    for k in range(first, last):
        squares += array[k] * float(array[k])
    return squares


# Losses.


@_kernel
def _loss(kind, values, at, units, targets, row, summed):
    """The loss of an example, whose first output is at an index.

    `summed` is what `_log_of_sum` returns for it, if the loss is a softmax's.
    """
    loss = 0.0
    if kind == SQUARED:
        for unit in range(units):
            error = float(values[at + LANES * unit]) - targets[row, unit]
            loss += error * error
        return loss / units
    if kind == BINARY:
        for unit in range(units):
            z = float(values[at + LANES * unit])
            loss += max(z, 0.0) - z * targets[row, unit]
            loss += math.log1p(math.exp(-abs(z)))
        return loss / units
    if kind == SPARSE_SOFTMAX:
        return summed - values[at + LANES * int(targets[row, 0])]
    for unit in range(units):
        loss += targets[row, unit] * (summed - values[at + LANES * unit])
    return loss


@_kernel
def _log_of_sum(kind, values, at, units):
    """The logarithm of the sum of the exponentials of outputs, for softmax."""
    if kind > SOFTMAX:
        return 0.0
    stop = at + LANES * units
    highest, summed = values[at], 0.0
    for i in range(at, stop, LANES):
        highest = max(highest, values[i])
    for i in range(at, stop, LANES):
        summed += math.exp(values[i] - highest)
    return math.log(summed) + highest


@_kernel
def _loss_deltas(
    kind, activation, slope, values, at, deltas, to, units, targets, row,
    summed, scale,
):  # fmt: skip
    """The derivatives of `scale` times the loss of an example."""
    if kind <= SOFTMAX:
        for unit in range(units):
            z = values[at + LANES * unit]
            deltas[to + LANES * unit] = scale * math.exp(z - summed)
        if kind == SPARSE_SOFTMAX:
            deltas[to + LANES * int(targets[row, 0])] -= scale
        else:
            for unit in range(units):
                deltas[to + LANES * unit] -= scale * targets[row, unit]
        return
    scale = scale / units
    for unit in range(units):
        value = float(values[at + LANES * unit])
        if kind == BINARY:
            value = 1 / (1 + math.exp(-value)) - targets[row, unit]
        else:
            inner = _derivative(activation, slope, value)
            value = 2 * (value - targets[row, unit]) * inner
        deltas[to + LANES * unit] = scale * value


@_kernel
def _accuracy(kind, threshold, values, at, units, targets, row):
    """How much of an example is predicted right, from 0 to 1."""
    if kind == THRESHOLD:
        right = 0
        for unit in range(units):
            positive = values[at + LANES * unit] > threshold
            right += positive == targets[row, unit]
        return right / units
    best = 0
    for unit in range(1, units):
        if values[at + LANES * unit] > values[at + LANES * best]:
            best = unit
    if kind == SPARSE_CLASS:
        return 1.0 if best == targets[row, 0] else 0.0
    target = 0
    for unit in range(1, units):
        if targets[row, unit] > targets[row, target]:
            target = unit
    return 1.0 if best == target else 0.0


# Updates.


@_kernel
def _set_scales(network, recipe, squares, scales):
    """What gradients are multiplied with, a number for each variable."""
    limit, everything = float(recipe.numbers[0]), 0.0
    unit = 0
    for layer in range(len(network.activations)):
        kernel = bias = 0.0
        for _ in range(network.units[layer + 1]):
            kernel += squares[unit, 0]
            bias += squares[unit, 1]
            unit += 1
        scales[2 * layer] = limit / max(math.sqrt(kernel), limit)
        scales[2 * layer + 1] = limit / max(math.sqrt(bias), limit)
        everything += kernel + bias
    if recipe.clipping == BY_GLOBAL_NORM:
        norm = math.sqrt(everything)
        scales[:] = limit * min(1 / norm, 1 / limit) + (norm - norm)


@_kernel
def _update(recipe, state, variable, scale, rate, alpha, first, last):
    """Updates numbers `first` to `last` of `theta`, all of one variable."""
    theta, gradients = state.theta, state.gradients
    limit = recipe.numbers[0]
    if recipe.clipping == BY_VALUE:
        for k in range(first, last):
            gradient = gradients[k]
            # Neither is true of NaN, which stays.
            if gradient > limit:
                gradients[k] = limit
            elif gradient < -limit:
                gradients[k] = -limit
    elif recipe.clipping:
        for k in range(first, last):
            gradients[k] *= scale
    decay = recipe.decays[variable]
    if decay:
        for k in range(first, last):
            theta[k] -= theta[k] * decay * rate
    m, v, keep = state.first, state.second, recipe.numbers[1]
    if recipe.update == ADAM:
        square_keep, epsilon = recipe.numbers[2], recipe.numbers[3]
        for k in range(first, last):
            gradient = gradients[k]
            m[k] += (gradient - m[k]) * keep
            v[k] += (gradient * gradient - v[k]) * square_keep
            theta[k] -= m[k] * alpha / (np.sqrt(v[k]) + epsilon)
    elif recipe.update == SGD:
        for k in range(first, last):
            theta[k] -= gradients[k] * rate
    else:
        for k in range(first, last):
            m[k] = m[k] * keep - gradients[k] * rate
        if recipe.update == MOMENTUM:
            for k in range(first, last):
                theta[k] += m[k]
        else:
            for k in range(first, last):
                theta[k] += m[k] * keep - gradients[k] * rate


# What is called.


@_kernel
def train(
    thread, network, shares, recipe, state, buffers, x, targets, rows, batch,
    rates, alphas,
):  # fmt: skip
    """One thread's share of as many steps as there are rates.

    Args:
        thread: int, from 0.
        network: `Network`.
        shares: `Shares`.
        recipe: `Recipe`.
        state: `State`.
        buffers: `Buffers`.
        x: flat array of the inputs, example by example.
        targets: array, a row an example.
        rows: array, a row a step: the examples, the first of which stands in
            for those that fill the last tile.
        batch: int, how many of these are not to fill it.
        rates: array, the learning rate of each step.
        alphas: likewise, Adam's, corrected for its bias.

    Returns:
        Float, the sum of the losses of all steps, of thread 0.
    """
    threads, layers = shares.outputs.shape[1] - 1, len(network.activations)
    features, units = network.units[0], network.units_at[layers + 1]
    tiles, last_layer = rows.shape[1] // LANES, layers - 1
    values, deltas = buffers.values, buffers.deltas
    scales, all_losses = buffers.scales[thread], 0.0
    control = flush_denormals()
    outputs = network.units[layers]
    for step in range(len(rates)):
        blocks = (features + SIDE - 1) // SIDE
        first = blocks * thread // threads * SIDE
        last = min(blocks * (thread + 1) // threads * SIDE, features)
        for tile in range(tiles):
            place = LANES * tile * units
            _transpose(
                x, features, rows[step], LANES * tile, values, place, first,
                last,
            )  # fmt: skip
        _wait(shares.counter, threads)

        for layer in range(layers):
            first = shares.outputs[layer, thread]
            last = shares.outputs[layer, thread + 1]
            for tile in range(tiles):
                here = tile * units
                place = LANES * (here + network.units_at[layer])
                to = LANES * (here + network.units_at[layer + 1])
                _forward(
                    network, layer, state.theta, values, place, values, to,
                    first, last,
                )  # fmt: skip
            _wait(shares.counter, threads)

        first = batch * thread // threads
        last = batch * (thread + 1) // threads
        for example in range(first, last):
            tile, lane = example // LANES, example % LANES
            to = tile * (units - features)
            to = LANES * (to + network.units_at[last_layer + 1] - features)
            place = LANES * (tile * units + network.units_at[last_layer + 1])
            row = rows[step, example]
            summed = _log_of_sum(recipe.loss, values, place + lane, outputs)
            buffers.losses[example] = _loss(
                recipe.loss, values, place + lane, outputs, targets, row,
                summed,
            )  # fmt: skip
            _loss_deltas(
                recipe.loss, network.activations[last_layer],
                network.slopes[last_layer], values, place + lane, deltas,
                to + lane, outputs, targets, row, summed, 1 / batch,
            )  # fmt: skip
        _wait(shares.counter, threads)

        for layer in range(last_layer, 0, -1):
            first = shares.inputs[layer, thread]
            last = shares.inputs[layer, thread + 1]
            for tile in range(tiles):
                here = tile * (units - features) - features
                place = LANES * (here + network.units_at[layer + 1])
                to = LANES * (here + network.units_at[layer])
                shift = LANES * tile * features
                _backward(
                    network, layer, state.theta, deltas, place, values, shift,
                    to, first, last,
                )  # fmt: skip
            _wait(shares.counter, threads)

        for layer in range(layers):
            first = shares.outputs[layer, thread]
            last = shares.outputs[layer, thread + 1]
            for tile in range(tiles):
                here = tile * (units - features) - features
                place = LANES * (here + network.units_at[layer + 1])
                inputs = LANES * (tile * units + network.units_at[layer])
                _gradients(
                    network, layer, state, values, inputs, deltas, place,
                    first, last, tile > 0,
                )  # fmt: skip
            _finish(network, layer, recipe, state, buffers, first, last)
        if recipe.clipping >= BY_NORM:
            _wait(shares.counter, threads)
            _set_scales(network, recipe, buffers.squares, scales)
        for layer in range(layers):
            first = shares.outputs[layer, thread]
            last = shares.outputs[layer, thread + 1]
            starts_at, at = network.starts_at[layer], network.biases_at[layer]
            _update(
                recipe, state, 2 * layer, scales[2 * layer], rates[step],
                alphas[step], network.starts[starts_at + first],
                network.starts[starts_at + last],
            )  # fmt: skip
            _update(
                recipe, state, 2 * layer + 1, scales[2 * layer + 1],
                rates[step], alphas[step], at + first, at + last,
            )  # fmt: skip
        _wait(shares.counter, threads)
        if thread == 0:
            for example in range(batch):
                all_losses += buffers.losses[example] / batch
            if recipe.penalised:
                for penalty in buffers.penalties:
                    all_losses += penalty
    restore(control)
    return all_losses


@_kernel
def evaluate(
    network, loss, accuracy, threshold, theta, x, tiles, targets, values,
    first, last, measured,
):  # fmt: skip
    """Evaluates tiles `first` to `last` of a set.

    Args:
        network: `Network`.
        loss: int.
        accuracy: int.
        threshold: float, above which an output says yes.
        theta: array.
        x: flat array of the inputs, example by example.
        tiles: flat array of the inputs as `transpose` returns it, or empty.
        targets: array, a row an example.
        values: array for the units of one tile, this thread's own.
        measured: array, a row a tile: its losses' sum, and its accuracies'.
    """
    layers, features = len(network.activations), network.units[0]
    outputs = network.units[layers]
    rows, control = np.empty(LANES, np.int32), flush_denormals()
    for tile in range(first, last):
        begin = tile * LANES
        end = min(begin + LANES, len(targets))
        if len(tiles) == 0:
            for lane in range(LANES):
                rows[lane] = min(begin + lane, end - 1)
            _transpose(x, features, rows, 0, values, 0, 0, features)
        for layer in range(layers):
            place = LANES * network.units_at[layer]
            to = LANES * network.units_at[layer + 1]
            count = network.units[layer + 1]
            if layer == 0 and len(tiles):
                place = LANES * tile * features
                _forward(
                    network, layer, theta, tiles, place, values, to, 0, count
                )
            else:
                _forward(
                    network, layer, theta, values, place, values, to, 0, count
                )
        at = LANES * network.units_at[layers]
        measured[tile] = 0
        for row in range(begin, end):
            place = at + row - begin
            summed = _log_of_sum(loss, values, place, outputs)
            measured[tile, 0] += _loss(
                loss, values, place, outputs, targets, row, summed
            )
            if accuracy:
                measured[tile, 1] += _accuracy(
                    accuracy, threshold, values, place, outputs, targets, row
                )
    restore(control)


@_kernel
def transpose(x, features, size, tiles):
    """Fills `tiles` with all examples, for `evaluate`."""
    rows = np.empty(LANES, np.int32)
    for begin in range(0, size, LANES):
        for lane in range(LANES):
            rows[lane] = min(begin + lane, size - 1)
        _transpose(x, features, rows, 0, tiles, begin * features, 0, features)
