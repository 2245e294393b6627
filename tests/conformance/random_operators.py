"""Random graphs of one family of operators each: what `random_graphs --family` gives to compiler and onnxruntime.

`FAMILIES` names them. A family is a function that adds some nodes with random shapes, types and attributes to a
`Builder`; `model(family, seeds)` packs the graphs of some seeds into one model. What onnxruntime refuses is left out by
who calls, so families need not know every rule.
"""

import random

import numpy as np
import random_operators_more
from onnx import helper, numpy_helper

OPSET = 20


class Builder:
    """One graph in the making; names begin with a prefix, so that graphs can be packed."""

    def __init__(self, seed, prefix):
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.prefix, self.count = prefix, 0
        self.nodes, self.constants, self.feeds, self.outputs = [], [], {}, []

    def name(self, stem):
        self.count += 1
        return f"{self.prefix}{stem}{self.count}"

    def pick(self, *choices):
        return self.random.choice(choices)

    def chance(self, share):
        return self.random.random() < share

    def extents(self, rank, low=1, high=7):
        return [self.random.randint(low, high) for _ in range(rank)]

    def array(self, shape, dtype=np.float32, low=-20, high=20):
        """Normal floats, whole numbers of a range, or booleans."""
        dtype = np.dtype(dtype)
        if dtype == bool:
            return self.numbers.random(shape) > 0.5
        if dtype.kind in "iu":
            low = max(low, 0) if dtype.kind == "u" else low
            return self.numbers.integers(low, high, shape, endpoint=True).astype(dtype)
        return self.numbers.standard_normal(shape).astype(dtype)

    def input(self, shape, dtype=np.float32, low=-20, high=20):
        return self.feed(self.array(shape, dtype, low, high))

    def feed(self, array):
        name = self.name("x")
        self.feeds[name] = np.asarray(array)
        return name

    def constant(self, array):
        name = self.name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, shape, scale=None):
        fan = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 1
        scale = scale or 1.2 / np.sqrt(fan)
        return self.constant((self.numbers.standard_normal(shape) * scale).astype(np.float32))

    def either(self, shape, dtype=np.float32, low=-20, high=20):
        """A constant, or an input of the model."""
        array = self.array(shape, dtype, low, high)
        return self.constant(array) if self.chance(0.5) else self.feed(array)

    def ints(self, *values):
        return self.constant(np.array(values, np.int64))

    def node(self, op, inputs, results=1, domain="", **attributes):
        names = [self.name(op.lower()) for _ in range(results)]
        self.nodes.append(helper.make_node(op, inputs, names, name=names[0], domain=domain, **attributes))
        return names[0] if results == 1 else names

    def result(self, *names):
        self.outputs.extend(names)

    def broadcast(self, shape):
        """A shape that broadcasts to this one."""
        kept = [extent if self.chance(0.6) else 1 for extent in shape]
        return kept[self.random.randint(0, len(kept)) if kept and self.chance(0.4) else 0 :]


def windowed(b, taps, rank):
    """Attributes that convolutions and pools have in common."""
    attributes = {"strides": [b.pick(1, 1, 2, 3) for _ in range(rank)]}
    if b.chance(0.25):
        attributes["auto_pad"] = b.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    else:
        attributes["pads"] = [b.random.randint(0, taps[at % rank] - 1) for at in range(2 * rank)]
        attributes["dilations"] = [b.pick(1, 1, 1, 2) for _ in range(rank)]
    return attributes


def convolution(b):
    rank = b.pick(1, 2, 2, 2, 3)
    groups = b.pick(1, 1, 1, 2, 3)
    channels, filters = groups * b.random.randint(1, 5), groups * b.random.randint(1, 6)
    if b.chance(0.2):
        groups, filters = channels, channels * b.pick(1, 2)
    places = b.extents(rank, 4, 11 if rank < 3 else 7)
    taps = [b.pick(1, 2, 3, 3, 5) for _ in range(rank)]
    x = b.input([b.pick(1, 1, 2), channels, *places])
    if b.chance(0.3):
        attributes = {"strides": [b.pick(1, 2, 3) for _ in range(rank)], "group": groups}
        attributes["pads"] = [b.random.randint(0, taps[at % rank] - 1) for at in range(2 * rank)]
        attributes["dilations"] = [b.pick(1, 1, 2) for _ in range(rank)]
        attributes["output_padding"] = [b.random.randint(0, stride - 1) for stride in attributes["strides"]]
        operands = [x, b.weight([channels, filters // groups, *taps])]
        op = "ConvTranspose"
    else:
        attributes = {"group": groups, **windowed(b, taps, rank)}
        operands = [x, b.weight([filters, channels // groups, *taps])]
        op = "Conv"
    if b.chance(0.7):
        operands.append(b.weight([filters], 0.5))
    y = b.node(op, operands, kernel_shape=taps, **attributes)
    if b.chance(0.5):
        y = b.node(b.pick("Relu", "Sigmoid", "Tanh", "HardSwish"), [y])
    b.result(y)


def pool(b):
    rank = b.pick(1, 2, 2, 3)
    taps = [b.pick(1, 2, 3, 3) for _ in range(rank)]
    x = b.input([b.pick(1, 2), b.random.randint(1, 9), *b.extents(rank, 4, 11 if rank < 3 else 7)])
    if b.chance(0.15):
        return b.result(b.node(b.pick("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), [x]))
    attributes = {"kernel_shape": taps, **windowed(b, taps, rank)}
    if "pads" in attributes:
        attributes["ceil_mode"] = b.pick(0, 0, 1)
    op = b.pick("MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool")
    if op == "MaxPool":
        attributes["storage_order"] = 0
        b.result(*b.node(op, [x], 2, **attributes)) if b.chance(0.3) else b.result(b.node(op, [x], **attributes))
        return
    if op == "AveragePool":
        attributes["count_include_pad"] = b.pick(0, 1)
    b.result(b.node(op, [x], **attributes))


def product(b):
    kind = b.pick("Gemm", "MatMul", "MatMul", "Einsum")
    m, k, n = b.extents(3, 1, 19)
    if kind == "Gemm":
        transposed = [b.pick(0, 1), b.pick(0, 1)]
        a = b.input([k, m] if transposed[0] else [m, k])
        operands = [a, b.either([n, k] if transposed[1] else [k, n])]
        if b.chance(0.7):
            operands.append(b.either(b.pick([n], [1, n], [m, 1], [m, n], [], [1])))
        attributes = {"transA": transposed[0], "transB": transposed[1], "alpha": b.pick(1.0, 0.5), "beta": b.pick(1.0, 2.0)}
        return b.result(b.node("Gemm", operands, **attributes))
    if kind == "MatMul":
        batch = b.extents(b.pick(0, 0, 1, 2), 1, 4)
        left = b.pick([m, k], [*batch, m, k], [*b.broadcast(batch), m, k], [k])
        right = b.pick([k, n], [*batch, k, n], [*b.broadcast(batch), k, n], [k])
        return b.result(b.node("MatMul", [b.input(left), b.either(right)]))
    equation = b.pick("ij,jk->ik", "bij,bjk->bik", "bhqd,bhkd->bhqk", "ij,ij->i", "ij->ji", "ij->j", "i,j->ij", "ijk,kl->ijl", "...ij,...jk->...ik", "bqhd,bkhd->bhqk", "ii->i")
    sizes = {label: b.random.randint(1, 6) for label in "bijklhqd."}
    terms = equation.split("->")[0].replace("...", ".").split(",")
    b.result(b.node("Einsum", [b.input([sizes[label] for label in term]) for term in terms], equation=equation))


SAFE = ["Relu", "Sigmoid", "Tanh", "Erf", "Abs", "Neg", "Softplus", "Softsign", "Sin", "Cos", "Atan", "Asinh", "Sign", "Floor", "Ceil", "Round", "HardSwish", "Mish", "Exp", "IsNaN", "Identity"]
ATTRIBUTES = {"LeakyRelu": ["alpha"], "Elu": ["alpha"], "Selu": ["alpha", "gamma"], "HardSigmoid": ["alpha", "beta"], "ThresholdedRelu": ["alpha"], "Celu": ["alpha"], "Shrink": ["lambd", "bias"]}


def function(b):
    x = b.input(b.extents(b.random.randint(0, 4), 1, 9))
    for _ in range(b.random.randint(1, 3)):
        kind = b.random.random()
        if kind < 0.55:
            op = b.random.choice(SAFE)
            x = b.node(op, [x])
            if op == "IsNaN":
                return b.result(x)
        elif kind < 0.8:
            op = b.random.choice(list(ATTRIBUTES))
            x = b.node(op, [x], **{name: b.random.uniform(0.2, 1.5) for name in ATTRIBUTES[op]})
        elif kind < 0.9:
            x = b.node(b.pick("Sqrt", "Log", "Reciprocal"), [b.node("Add", [b.node("Abs", [x]), b.constant(np.float32(0.5))])])
        elif kind < 0.95:
            x = b.node("Gelu", [x], approximate=b.pick("none", "tanh"))
        else:
            bounds = [b.constant(np.float32(-0.7)) if b.chance(0.7) else "", b.constant(np.float32(0.9))]
            x = b.node("Clip", [x, *bounds])
    b.result(x)


NUMBERS = [np.float32, np.float32, np.float64, np.int32, np.int64, np.int8, np.uint8, np.float16]


def arithmetic(b):
    dtype = b.random.choice(NUMBERS)
    shape = b.extents(b.random.randint(0, 4), 1, 6)
    x = b.input(shape, dtype, 0, 11)
    for _ in range(b.random.randint(1, 3)):
        op = b.pick("Add", "Sub", "Mul", "Div", "Min", "Max", "Mod", "Pow", "Sum", "Mean", "PRelu")
        other = b.either(b.broadcast(shape) if b.chance(0.6) else shape, dtype, 1, 5)
        if op == "Div" or op == "Mod":
            divisor = b.constant(np.array(b.pick(2, 3, 5), dtype))
            x = b.node(op, [x, divisor], **({"fmod": 1} if op == "Mod" and np.dtype(dtype).kind == "f" else {}))
        elif op == "Pow":
            x = b.node(op, [x, b.constant(np.array(b.pick(1, 2, 3), b.pick(dtype, np.float32)))])
        else:
            operands = [x, other] if op == "PRelu" or b.chance(0.6) else [other, x]
            x = b.node(op, operands)
    b.result(x)


def logic(b):
    shape = b.extents(b.random.randint(0, 4), 1, 6)
    kind = b.random.random()
    dtype = b.pick(np.float32, np.int32, np.int64, np.float64)
    if kind < 0.4:
        condition = b.node(b.pick("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"), [b.input(shape, dtype, -3, 3), b.either(b.broadcast(shape), dtype, -3, 3)])
        if b.chance(0.5):
            condition = b.node(b.pick("And", "Or", "Xor"), [condition, b.either(shape, bool)])
        if b.chance(0.3):
            condition = b.node("Not", [condition])
        if b.chance(0.4):
            return b.result(condition)
        return b.result(b.node("Where", [condition, b.either(b.broadcast(shape), dtype), b.input(shape, dtype)]))
    if kind < 0.6:
        dtype = b.pick(np.int32, np.int64, np.uint8, np.int8)
        return b.result(b.node(b.pick("BitwiseAnd", "BitwiseOr", "BitwiseXor"), [b.input(shape, dtype), b.either(b.broadcast(shape), dtype)]))
    if kind < 0.7:
        return b.result(b.node("BitShift", [b.input(shape, np.uint8, 0, 255), b.either(shape, np.uint8, 0, 7)], direction=b.pick("LEFT", "RIGHT")))
    kinds = [np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_, np.int16, np.uint16]
    source, target = b.random.choice(kinds), b.random.choice(kinds)
    b.result(b.node("Cast", [b.input(shape, source, 0, 100)], to=helper.np_dtype_to_tensor_dtype(np.dtype(target))))


def normalisation(b):
    rank = b.random.randint(2, 4)
    shape = [b.pick(1, 2), 2 * b.random.randint(1, 4), *b.extents(rank - 2, 2, 6)]
    x = b.input(shape)
    channels = [shape[1]]
    kinds = ["BatchNormalization", "LayerNormalization", "LRN", "LpNormalization", "Softmax", "LogSoftmax", "Hardmax"]
    kinds += ["InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization"] if rank > 2 else []
    kind = b.random.choice(kinds)
    positive = lambda: b.constant((b.numbers.random(channels) + 0.5).astype(np.float32))
    axis = b.random.randint(-rank, rank - 1)
    if kind == "BatchNormalization":
        y = b.node(kind, [x, b.weight(channels), b.weight(channels), b.weight(channels), positive()], epsilon=b.pick(1e-5, 1e-2))
    elif kind == "InstanceNormalization":
        y = b.node(kind, [x, b.weight(channels), b.weight(channels)], epsilon=1e-2)
    elif kind == "GroupNormalization":
        groups = b.pick(1, 2, shape[1])
        y = b.node(kind, [x, b.weight([groups]), b.weight([groups])], num_groups=groups, epsilon=1e-2)
    elif kind == "LayerNormalization":
        tail = shape[axis:] if axis < 0 else shape[axis:]
        operands = [x, b.weight(tail), *([b.weight(tail)] if b.chance(0.7) else [])]
        y = b.node(kind, operands, axis=axis, epsilon=1e-2)
    elif kind == "LRN":
        y = b.node(kind, [x], size=b.pick(1, 3, 5), alpha=0.1, beta=0.75, bias=1.0)
    elif kind == "LpNormalization":
        y = b.node(kind, [x], axis=axis, p=b.pick(1, 2))
    elif kind == "MeanVarianceNormalization":
        y = b.node(kind, [x], axes=sorted(b.random.sample(range(rank), b.random.randint(1, rank))))
    else:
        y = b.node(kind, [x], axis=axis)
    b.result(y)


FAMILIES = {
    "convolution": convolution,
    "pool": pool,
    "product": product,
    "function": function,
    "arithmetic": arithmetic,
    "logic": logic,
    "normalisation": normalisation,
    **random_operators_more.FAMILIES,
}


def model(family, seeds):
    """The graphs of some seeds in one model, and its inputs."""
    build = FAMILIES[family]
    graphs = []
    for seed in seeds:
        graph = Builder(seed * 1009 + sorted(FAMILIES).index(family), f"g{seed}_")
        build(graph)
        graphs.append(graph)
    feeds = {name: array for graph in graphs for name, array in graph.feeds.items()}
    given = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in feeds.items()]
    results = [helper.make_empty_tensor_value_info(name) for graph in graphs for name in graph.outputs]
    joined = lambda part: [item for graph in graphs for item in getattr(graph, part)]
    whole = helper.make_graph(joined("nodes"), "random", given, results, joined("constants"))
    sets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(whole, opset_imports=sets, ir_version=9), feeds
