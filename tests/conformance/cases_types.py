"""Cases of element types other than float32: what stays integer or bool on devices, what becomes float32 and back."""

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper
from vector_case import Constant, Given, Random, integers

KINDS = {
    "f64": (np.float64, TensorProto.DOUBLE), "f16": (np.float16, TensorProto.FLOAT16),
    "i64": (np.int64, TensorProto.INT64), "i32": (np.int32, TensorProto.INT32),
    "i16": (np.int16, TensorProto.INT16), "i8": (np.int8, TensorProto.INT8),
    "u64": (np.uint64, TensorProto.UINT64), "u32": (np.uint32, TensorProto.UINT32),
    "u16": (np.uint16, TensorProto.UINT16), "u8": (np.uint8, TensorProto.UINT8), "bool": (np.bool_, TensorProto.BOOL),
}


class Any:
    """Elements of any type over its whole range, or less; floats are multiples of 1/8."""

    def __init__(self, kind, *shape, low=None, high=None, constant=False):
        self.dtype, self.shape, self.constant = KINDS[kind][0], shape, constant
        self.low, self.high = low, high

    def values(self, generator):
        if self.dtype == np.bool_:
            return generator.integers(0, 2, self.shape).astype(np.bool_)
        if np.issubdtype(self.dtype, np.floating):
            low, high = -8 if self.low is None else self.low, 8 if self.high is None else self.high
            return (generator.integers(low * 8, high * 8, self.shape) / 8).astype(self.dtype)
        limits = np.iinfo(self.dtype)
        low, high = limits.min if self.low is None else self.low, limits.max if self.high is None else self.high
        return np.asarray(generator.integers(low, high, self.shape, dtype=self.dtype, endpoint=True))


def declare(cases):
    arithmetic(cases)
    movements(cases)
    casts(cases)
    real(cases)
    quantized(cases)
    everything(cases)


def arithmetic(cases):
    for kind in ("i64", "i32", "u64", "u32", "f64"):
        few = {"low": -9 if kind[0] != "u" else 0, "high": 9}
        for operator in ("Add", "Sub", "Mul"):
            cases.node(f"types_{operator.lower()}_{kind}", 14, operator, [Any(kind, 2, 3, 4), Any(kind, 3, 1)])
        over = Any(kind, 3, 1, low=1, high=9)
        cases.node(f"types_div_{kind}", 14, "Div", [Any(kind, 2, 3, 4, **few), over])
        for operator in ("Min", "Max"):
            cases.node(f"types_{operator.lower()}_{kind}", 13, operator, [Any(kind, 2, 5), Any(kind, 5), Any(kind, 2, 1)])
        for operator, opset in (("Less", 13), ("Greater", 13), ("LessOrEqual", 16), ("GreaterOrEqual", 16), ("Equal", 13)):
            if operator == "Equal" and kind[0] == "u":
                continue
            operands = [Any(kind, 4, 5, **few), Any(kind, 5, **few)]
            cases.node(f"types_{operator.lower()}_{kind}", opset, operator, operands)
    for kind in ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8"):
        below = -1 if kind[0] != "u" else 1
        divisor = Given([[3], [7 * below], [5]], KINDS[kind][0])
        cases.node(f"types_mod_{kind}", 13, "Mod", [Any(kind, 3, 6, low=-100 if kind[0] != "u" else 0, high=100), divisor])
    for operator in ("Neg", "Abs"):
        for kind in ("i64", "i32", "i8", "f64"):
            cases.node(f"types_{operator.lower()}_{kind}", 13, operator, [Any(kind, 2, 7, low=-100, high=100)])
    cases.node("types_relu_i32", 14, "Relu", [Any("i32", 2, 7)])
    cases.node("types_relu_i8", 14, "Relu", [Any("i8", 2, 7)])
    for kind in ("i32", "i64"):
        operands = [Any(kind, 2, 3, low=-4, high=4), Any(kind, 3, low=0, high=5)]
        cases.node(f"types_pow_{kind}", 15, "Pow", operands)
        for operator, since in (("ReduceSum", 13), ("ReduceMean", 18), ("ReduceMax", 18), ("ReduceMin", 18)):
            x = Any(kind, 2, 3, 4, low=-1000, high=1000)
            cases.node(f"types_{operator.lower()}_{kind}", since, operator, [x, integers(-1, 0)], keepdims=0)
    for kind in ("i8", "u8"):
        for operator in ("ReduceMax", "ReduceMin"):
            cases.node(f"types_{operator.lower()}_{kind}", 18, operator, [Any(kind, 2, 3, 4), integers(1)])
        cases.node(f"types_clip_{kind}", 13, "Clip", [Any(kind, 4, 6), Constant(3, KINDS[kind][0]), Constant(90, KINDS[kind][0])])
    for kind in ("i32", "i8", "u8", "f64"):
        cases.node(f"types_argmax_{kind}", 13, "ArgMax", [Any(kind, 3, 5, 4, low=0, high=3)], axis=1)
    cases.node("types_equal_bool", 13, "Equal", [Any("bool", 4, 5), Any("bool", 5)])
    cases.node("types_and_run_time", 7, "And", [Any("bool", 4, 5), Any("bool", 4, 1)])
    cases.node("types_clip_at_run_time", 13, "Clip", [Random(3, 8), Given(-0.5), Given(0.75)])
    cases.node("types_clip_upper_at_run_time", 13, "Clip", [Random(3, 8), None, Given(0.75)])
    for name, nodes in (
        ("threshold", [helper.make_node("Greater", ["x", "t"], ["m"]), helper.make_node("Where", ["m", "x", "z"], ["y"])]),
        ("mask", [
            helper.make_node("Greater", ["x", "t"], ["m"]), helper.make_node("Not", ["m"], ["n"]),
            helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["f", "x"], ["y"]),
        ]),
    ):
        operands = {"x": Random(2, 3, 4), "t": Constant(0.25), "z": Constant([0.0])}
        if name == "mask":
            del operands["z"]
        cases.graph(f"types_{name}", 13, nodes, operands, ["y"])
    ids = Given([[5, 9, 2, 0, 0], [7, 0, 0, 0, 0]], np.int64)
    cases.graph("types_token_mask", 13, [
        helper.make_node("Equal", ["ids", "pad"], ["m"]), helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Unsqueeze", ["m", "last"], ["w"]), helper.make_node("Where", ["w", "low", "e"], ["y"]),
    ], {"ids": ids, "pad": Constant(0, np.int64), "table": Any("f64", 10, 3, constant=True), "last": integers(-1), "low": Constant(-8.0, np.float64)}, ["y", "m"])


def movements(cases):
    for kind in ("i64", "i32", "i8", "u8", "bool", "f16", "f64"):
        x = Any(kind, 2, 3, 4)
        cases.node(f"types_transpose_{kind}", 13, "Transpose", [x], perm=[2, 0, 1])
        cases.node(f"types_concat_{kind}", 13, "Concat", [x, Any(kind, 2, 1, 4, constant=True), Any(kind, 2, 2, 4)], axis=1)
        cases.node(f"types_slice_{kind}", 13, "Slice", [x, integers(2, 1), integers(-9, 4), integers(1, 2), integers(-1, 2)])
        cases.node(f"types_expand_{kind}", 13, "Expand", [Any(kind, 3, 1), integers(2, 3, 4)])
        cases.node(f"types_gather_{kind}", 13, "Gather", [x, Given([[2, 0], [-1, 1]], np.int32)], axis=1)
        if kind != "bool":
            cases.node(f"types_where_{kind}", 16, "Where", [Any("bool", 3, 1), x, Any(kind, 1, 4)])
        cases.node(f"types_split_{kind}", 13, "Split", [x, integers(1, 2)], outputs=2, axis=1)
        if kind != "f16":
            fill = [Constant(1, KINDS[kind][0])] if kind not in ("bool",) else [Constant(True, np.bool_)]
            cases.node(f"types_pad_{kind}", 13, "Pad", [x, integers(0, 1, 2, 1, 0, 3)] + fill)
    cases.node("types_maxpool_i8", 12, "MaxPool", [Any("i8", 1, 3, 6, 6)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    cases.node("types_maxpool_u8", 12, "MaxPool", [Any("u8", 1, 3, 6, 6)], kernel_shape=[2, 2])
    scales = Constant([1.0, 1.0, 2.0, 2.0])
    cases.node("types_resize_u8", 13, "Resize", [Any("u8", 1, 2, 3, 3), None, scales], mode="nearest")


def casts(cases):
    numbers = [-3.5, -1.0, -0.25, 0.0, 0.75, 1.0, 2.5, 100.0]
    for to, (_, code) in KINDS.items():
        cases.node(f"types_cast_f32_to_{to}", 13, "Cast", [Given(numbers if to[0] != "u" else numbers[3:])], to=code)
        for source in ("i64", "i32", "u8", "bool", "f64", "f16"):
            if source != to and not (source == "bool" and to == "bool"):
                low = {"low": 0, "high": 120} if source != "bool" else {}
                cases.node(f"types_cast_{source}_to_{to}", 13, "Cast", [Any(source, 2, 5, **low)], to=code)
    halves = Given([70000.0, 65519.0, 65520.0, -1e9, 0.1, 1e-8, 2049.0, 2051.0, 6.1e-5, 3.3e-5])
    for name, code in (("f16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)):
        nodes = [helper.make_node("Cast", ["x"], ["h"], to=code), helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)]
        cases.graph(f"types_through_{name}", 13, nodes, {"x": halves}, ["y"])


def real(cases):
    """Models of float16 and double: computed in float32, returned as what they promise."""
    parameters = {
        "x": Any("f16", 1, 3, 5, 5, low=-2, high=2), "w": Any("f16", 4, 3, 3, 3, low=-1, high=1, constant=True),
        "b": Any("f16", 4, low=-2, high=2, constant=True), "half": Constant(0.5, np.float16),
    }
    cases.graph("types_network_f16", 13, [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Mul", ["r", "half"], ["m"]), helper.make_node("GlobalAveragePool", ["m"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("Softmax", ["f"], ["y"], axis=-1),
    ], parameters, ["y", "m"])
    parameters = {
        "x": Any("f64", 4, 6, low=-2, high=2), "w": Any("f64", 6, 5, low=-1, high=1, constant=True),
        "b": Any("f64", 5, low=-2, high=2, constant=True), "third": Constant(1 / 3, np.float64),
    }
    cases.graph("types_network_f64", 13, [
        helper.make_node("Gemm", ["x", "w", "b"], ["c"]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Mul", ["r", "third"], ["m"]), helper.make_node("Softmax", ["m"], ["y"], axis=-1),
    ], parameters, ["y", "m"])
    for kind in ("f16", "f64"):
        cases.graph(f"types_inside_{kind}", 13, [
            helper.make_node("Cast", ["x"], ["h"], to=KINDS[kind][1]), helper.make_node("Mul", ["h", "half"], ["m"]),
            helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT), helper.make_node("Cast", ["y"], ["z"], to=KINDS[kind][1]),
        ], {"x": Random(2, 5), "half": Constant(0.5, KINDS[kind][0])}, ["y", "z"])
    cases.node("types_lstm_f16", 14, "LSTM", [Any("f16", 4, 1, 3, low=-2, high=2), *(
        Any("f16", 1, 16, *size, low=-1, high=1, constant=True) for size in ((3,), (4,))
    ), Any("f16", 1, 32, low=-1, high=1, constant=True)], outputs=3, hidden_size=4)
    for kind in (ml_dtypes.int4, ml_dtypes.uint4):
        name = np.dtype(kind).name
        cases.graph(f"types_quantized_{name}", 21, [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ], {"x": Random(3, 9, low=-6, high=6), "s": Constant(0.25), "z": Constant(1, kind)}, ["y"])
    cases.graph("types_f16_quantized", 21, [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ], {"x": Any("f16", 3, 5), "s": Constant(0.25, np.float16), "z": Constant(3, np.int8)}, ["y", "q"])


def quantized(cases):
    """Results of int8 and uint8 behind operators that move or choose elements."""
    quantize = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    for kind in ("i8", "u8"):
        dtype = KINDS[kind][0]
        base = {"x": Random(1, 2, 4, 4, low=-3, high=3), "s": Constant(0.05, np.float32), "z": Constant(7, dtype)}
        for name, nodes, more in (
            ("reshape", [helper.make_node("Reshape", ["q", "shape"], ["y"])], {"shape": integers(2, -1)}),
            ("transpose", [helper.make_node("Transpose", ["q"], ["y"], perm=[0, 2, 3, 1])], {}),
            ("maxpool", [helper.make_node("MaxPool", ["q"], ["y"], kernel_shape=[2, 2])], {}),
            ("gather", [helper.make_node("Gather", ["q", "at"], ["y"], axis=2)], {"at": Given([3, 0], np.int32)}),
            ("concat", [helper.make_node("Concat", ["q", "c"], ["y"], axis=1)], {"c": Any(kind, 1, 1, 4, 4, constant=True)}),
            ("concat_input", [helper.make_node("Concat", ["c", "q"], ["y"], axis=1)], {"c": Any(kind, 1, 1, 4, 4)}),
            ("where", [helper.make_node("Where", ["m", "q", "c"], ["y"])], {"m": Any("bool", 4), "c": Constant(9, dtype)}),
            ("equal", [helper.make_node("Cast", ["q"], ["i"], to=TensorProto.INT32), helper.make_node("Equal", ["i", "c"], ["y"])], {"c": Constant(7, np.int32)}),
            ("cast", [helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)], {}),
            ("both", [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["r"]), helper.make_node("Relu", ["r"], ["y"])], {}),
        ):
            outputs = ["y", "q"] if name in ("both", "transpose") else ["y"]
            cases.graph(f"types_quantized_{name}_{kind}", 13, [quantize, *nodes], base | more, outputs)


def everything(cases):
    """One graph of all of it, for emitted programs: the layers can be shared among devices."""
    node = helper.make_node
    to = {kind: code for kind, (_, code) in KINDS.items()}
    nodes = [
        node("Conv", ["x", "w", "bias"], ["conv"], pads=[1, 1, 1, 1]),
        node("Greater", ["conv", "between"], ["above"]), node("Where", ["above", "conv", "zero"], ["chosen"]),
        node("Cast", ["above"], ["counts"], to=to["i32"]), node("Add", ["counts", "counts"], ["doubled"]),
        node("Cast", ["doubled"], ["bytes"], to=to["u8"]),
        node("Not", ["flags"], ["unset"]), node("Less", ["n", "three"], ["small"]), node("And", ["unset", "small"], ["both"]),
        node("Where", ["flags", "n", "minus"], ["picked"]), node("Mul", ["n", "n"], ["squares"]), node("Mod", ["n", "three"], ["rest"]),
        node("Div", ["n", "three"], ["parts"]), node("ReduceSum", ["squares", "last"], ["sums"], keepdims=0), node("Neg", ["n"], ["negative"]),
        node("Add", ["ids", "two"], ["positions"]), node("Gather", ["table", "positions"], ["rows"]), node("Equal", ["ids", "none"], ["padded"]),
        node("Gather", ["b", "at"], ["columns"], axis=2), node("Transpose", ["b"], ["turned"], perm=[0, 2, 1]),
        node("Concat", ["c", "more"], ["joined"], axis=1), node("Slice", ["joined", "begin", "end", "second"], ["part"]),
        node("Pad", ["c", "pads", "fill"], ["wide"]), node("Max", ["c", "seven"], ["raised"]), node("ReduceMax", ["b"], ["largest"], axes=[1], keepdims=0),
        node("Expand", ["flags", "shape"], ["spread"]), node("Or", ["spread", "padded_too"], ["either"]),
        node("Mul", ["h", "half"], ["halves"]), node("Mul", ["d", "third"], ["thirds"]), node("Cast", ["n"], ["longs"], to=to["i64"]),
        node("Cast", ["x"], ["narrow"], to=to["f16"]), node("Clip", ["x", "low", "quarter"], ["clipped"]),
        node("QuantizeLinear", ["clipped", "scale", "point"], ["q"]), node("MaxPool", ["q"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["pooled", "flat"], ["answer"]), node("ArgMax", ["clipped"], ["best"], axis=1),
        node("Cast", ["low"], ["low_long"], to=to["i64"]), node("Not", ["unset_too"], ["again"]),
    ]
    inputs = {
        "x": Random(1, 8, 12, 8), "n": Any("i32", 6, 5, low=-20, high=20), "flags": Any("bool", 6, 5), "padded_too": Any("bool", 2, 6, 1),
        "ids": Given([[5, 0, 7, 0, 1, 2, 3]], np.int64), "at": Given([3, -1], np.int32), "low": Given(-0.5), "unset_too": Any("bool", 3),
        "b": Any("u8", 3, 5, 4), "c": Any("i8", 3, 5, 4), "h": Any("f16", 3, 7), "d": Any("f64", 3, 7),
    }
    constants = {
        "w": Any("f64", 16, 8, 3, 3, low=-1, high=1), "bias": Any("f64", 16, low=-1, high=1), "quarter": Constant(0.25),
        # Between two sums: those are multiples of 1/512, but not every way to compute them is exact.
        "between": Constant(0.25 + 1 / 1024), "zero": Constant(0.0),
        "three": Constant([3], np.int32), "minus": Constant(-1, np.int32), "last": integers(-1), "two": Constant(2, np.int64),
        "none": Constant(0, np.int64), "table": Random(12, 6), "more": Any("i8", 3, 2, 4), "begin": integers(1), "end": integers(6), "second": integers(1),
        "pads": integers(0, 1, 2, 0, 0, 1), "fill": Constant(-3, np.int8), "seven": Constant([7], np.int8), "shape": integers(2, 6, 5),
        "half": Constant(0.5, np.float16), "third": Constant(1 / 3, np.float64), "scale": Constant(0.03125), "point": Constant(11, np.uint8), "flat": integers(4, -1),
    }
    for operand in constants.values():
        operand.constant = True
    for name in ("w", "bias"):
        constants[name].dtype = np.float32
    outputs = [
        "chosen", "bytes", "both", "picked", "rest", "parts", "sums", "negative", "rows", "padded", "columns", "turned", "part", "wide", "raised",
        "largest", "either", "halves", "thirds", "longs", "narrow", "clipped", "answer", "best", "again", "low_long",
    ]
    cases.graph("types_everything", 13, nodes, inputs | constants, outputs)
