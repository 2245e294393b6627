"""Cases of quantized models: QuantizeLinear, DequantizeLinear, and operators between them."""

import numpy as np
from onnx import TensorProto, helper
from vector_case import Constant, Given, Random

# Beyond both ends of the grid, and halfway between its points.
TIES = [-700.0, -10.25, -1.75, -1.25, -0.75, -0.25, 0.0, 0.25, 0.75, 1.25, 3.0, 31.75, 32.0, 63.75, 64.25, 700.0]


class Whole:
    """Whole numbers of a small type over its whole range, or less."""

    def __init__(self, dtype, *shape, low=None, high=None, constant=True):
        self.dtype, self.shape, self.constant = dtype, shape, constant
        limits = np.iinfo(dtype)
        self.low, self.high = limits.min if low is None else low, limits.max if high is None else high

    def values(self, generator):
        return np.asarray(generator.integers(self.low, self.high, self.shape, endpoint=True), dtype=self.dtype)


def scale(*values):
    return Constant(values[0] if len(values) == 1 else list(values), np.float32)


def declare(cases):
    single(cases)
    layers(cases)


def single(cases):
    for opset in (10, 13, 19, 21):
        for dtype, zero in ((np.int8, -3), (np.uint8, 5)):
            word = np.dtype(dtype).name
            cases.node(f"quantize_{word}_{opset}", opset, "QuantizeLinear", [Given(TIES), scale(0.5), Constant(zero, dtype)])
            operands = [Whole(dtype, 3, 5, constant=False), scale(0.0371), Constant(zero, dtype)]
            cases.node(f"dequantize_{word}_{opset}", opset, "DequantizeLinear", operands)
    cases.node("quantize_without_zero", 13, "QuantizeLinear", [Given(TIES), scale(0.5)])
    cases.node("quantize_output_type", 21, "QuantizeLinear", [Given(TIES), scale(0.5)], output_dtype=TensorProto.INT8)
    scales, zeros = scale(0.5, 0.25, 0.031), Constant([0, 0, 0], np.int8)
    cases.node("quantize_axis", 13, "QuantizeLinear", [Random(2, 3, 4), scales, zeros], axis=1)
    cases.node("quantize_last_axis", 13, "QuantizeLinear", [Random(2, 4, 3), scales, zeros], axis=-1)
    shifts = Constant([3, -7, 100], np.int8)
    cases.node("dequantize_axis", 13, "DequantizeLinear", [Whole(np.int8, 2, 3, 4, constant=False), scales, shifts])
    cases.node("dequantize_int32", 13, "DequantizeLinear", [Given([-70000, 0, 3, 123456], np.int32), scale(0.001)])


def quantize(name, source, step, zero):
    return helper.make_node("QuantizeLinear", [source, step, zero], [name], name=f"make_{name}")


def dequantize(name, source, step, zero=None, **attributes):
    operands = [source, step] + ([zero] if zero else [])
    return helper.make_node("DequantizeLinear", operands, [name], name=f"make_{name}", **attributes)


def layers(cases):
    """Whole layers; scales are powers of two, so that onnxruntime's sums of real numbers are exact, too."""
    common = {
        "x": Whole(np.int8, 1, 4, 5, 6, constant=False), "sx": scale(0.0625), "zx": Constant(-3, np.int8),
        "sy": scale(0.5), "zy": Constant(7, np.int8),
    }
    for word, filters, channels, group in (("", 6, 4, 1), ("_depthwise", 4, 1, 4)):
        for last, clip in (("", []), ("_relu", ["Relu"]), ("_relu6", ["Clip"])):
            parameters = {
                "w": Whole(np.int8, filters, channels, 3, 3), "sw": Constant([2.0 ** -(4 + n % 3) for n in range(filters)], np.float32),
                "zw": Constant([0] * filters, np.int8), "b": Whole(np.int32, filters, low=-9000, high=9000),
                "sb": Constant([2.0 ** -(8 + n % 3) for n in range(filters)], np.float32),
                "low": Constant(0.0, np.float32), "high": Constant(6.0, np.float32),
            }
            nodes = [
                dequantize("real_x", "x", "sx", "zx"), dequantize("real_w", "w", "sw", "zw", axis=0),
                dequantize("real_b", "b", "sb", axis=0),
                helper.make_node("Conv", ["real_x", "real_w", "real_b"], ["sum"], name="conv", pads=[1, 1, 1, 1], group=group),
            ]
            before = "sum"
            if clip:
                operands = ["sum"] + (["low", "high"] if clip == ["Clip"] else [])
                nodes.append(helper.make_node(clip[0], operands, ["clipped"], name="clip"))
                before = "clipped"
            nodes.append(quantize("y", before, "sy", "zy"))
            used = {name for node in nodes for name in node.input}
            values = {name: value for name, value in {**common, **parameters}.items() if name in used}
            cases.graph(f"quantized_conv{word}{last}", 13, nodes, values, ["y"])
    product(cases, common)
    addition(cases, common)
    pooling(cases, common)
    network(cases)


def product(cases, common):
    values = {
        "x": Whole(np.int8, 2, 9, constant=False), "w": Whole(np.int8, 9, 5), "sw": scale(0.25), "b": Whole(np.int32, 5, low=-9000, high=9000),
        "sb": scale(0.015625), **{name: common[name] for name in ("sx", "zx", "sy", "zy")},
    }
    ends = [dequantize("real_x", "x", "sx", "zx"), dequantize("real_w", "w", "sw"), dequantize("real_b", "b", "sb")]
    gemm = helper.make_node("Gemm", ["real_x", "real_w", "real_b"], ["sum"], name="gemm")
    cases.graph("quantized_gemm", 13, [*ends, gemm, quantize("y", "sum", "sy", "zy")], values, ["y"])
    matmul = helper.make_node("MatMul", ["real_x", "real_w"], ["product"], name="matmul")
    add = helper.make_node("Add", ["product", "real_b"], ["sum"], name="add")
    cases.graph("quantized_matmul_add", 13, [*ends, matmul, add, quantize("y", "sum", "sy", "zy")], values, ["y"])
    cases.graph("quantized_matmul_real", 13, [*ends, matmul, add], {name: value for name, value in values.items() if name not in ("sy", "zy")}, ["sum"])


def addition(cases, common):
    values = {**common, "other": Whole(np.int8, 1, 4, 5, 6, constant=False), "so": scale(0.125), "zo": Constant(11, np.int8)}
    nodes = [
        dequantize("real_x", "x", "sx", "zx"), dequantize("real_other", "other", "so", "zo"),
        helper.make_node("Add", ["real_x", "real_other"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["positive"], name="relu"), quantize("y", "positive", "sy", "zy"),
    ]
    cases.graph("quantized_add_relu", 13, nodes, values, ["y"])


def pooling(cases, common):
    for operator, attributes in (("AveragePool", {"kernel_shape": [2, 2]}), ("MaxPool", {"kernel_shape": [2, 2]}), ("GlobalAveragePool", {})):
        nodes = [
            dequantize("real_x", "x", "sx", "zx"),
            helper.make_node(operator, ["real_x"], ["pooled"], name="pool", **attributes), quantize("y", "pooled", "sy", "zy"),
        ]
        cases.graph(f"quantized_{operator.lower()}", 13, nodes, common, ["y"])


def network(cases):
    """Convolutions, a residual addition, pooling and a product, with quantized tensors between them all."""
    values = {
        "x": Whole(np.int8, 1, 4, 6, 6, constant=False), "low": Constant(0.0, np.float32), "high": Constant(6.0, np.float32),
        "w1": Whole(np.int8, 6, 4, 3, 3), "b1": Whole(np.int32, 6, low=-9000, high=9000),
        "w2": Whole(np.int8, 6, 1, 3, 3), "b2": Whole(np.int32, 6, low=-900, high=900),
        "w3": Whole(np.int8, 54, 5), "b3": Whole(np.int32, 5, low=-9000, high=9000), "flat": Constant([1, 54], np.int64),
    }
    # Powers of two, so that onnxruntime's sums of real numbers are exact, too.
    scales = {"x": 4, "w1": 6, "b1": 10, "q1": 5, "w2": 5, "b2": 10, "q2": 2, "q3": 2, "q4": 3, "w3": 7, "b3": 10, "y": -2}
    zeros = {"x": -3, "q1": -128, "q2": -128, "q3": -120, "q4": -100, "y": 7}
    values |= {f"s_{name}": scale(2.0 ** -power) for name, power in scales.items()}
    values |= {f"z_{name}": Constant(zero, np.int8) for name, zero in zeros.items()}

    def real(name, source=None):
        return dequantize(f"real_{name}", source or name, f"s_{name}", f"z_{name}" if name in zeros else None)

    def whole(name, source):
        return quantize(name, source, f"s_{name}", f"z_{name}")

    nodes = [real(name) for name in ("x", "w1", "b1", "w2", "b2", "w3", "b3")] + [
        helper.make_node("Conv", ["real_x", "real_w1", "real_b1"], ["sum1"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["sum1", "low", "high"], ["clipped"], name="clip"), whole("q1", "clipped"), real("q1"),
        helper.make_node("Conv", ["real_q1", "real_w2", "real_b2"], ["sum2"], name="depthwise", pads=[1, 1, 1, 1], group=6),
        helper.make_node("Relu", ["sum2"], ["positive"], name="relu"), whole("q2", "positive"), real("q2"),
        helper.make_node("Add", ["real_q1", "real_q2"], ["sum3"], name="add"), whole("q3", "sum3"), real("q3"),
        helper.make_node("AveragePool", ["real_q3"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]), whole("q4", "pooled"),
        helper.make_node("Reshape", ["q4", "flat"], ["flat_q4"], name="reshape"), real("q4", "flat_q4"),
        helper.make_node("Gemm", ["real_q4", "real_w3", "real_b3"], ["sum4"], name="gemm"), whole("y", "sum4"),
    ]
    cases.graph("quantized_network", 13, nodes, values, ["y"])
