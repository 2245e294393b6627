"""Cases of element-wise operators: functions of one element, broadcasting operators, selection, casts."""

import numpy as np
from onnx import helper
from vector_case import ELEMENT, Constant, Given, Random, Weight

# Values at which functions change form, and some far out.
EDGES = [-40.0, -6.5, -3.0, -2.5, -1.0, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 3.0, 6.0, 9.0, 40.0]


def declare(cases):
    unary(cases)
    clip(cases)
    binary(cases)
    selection(cases)
    casts(cases)
    dropout(cases)


def unary(cases):
    plain = {
        "Relu": (7, 13, 14), "Sigmoid": (7, 13), "Tanh": (7, 13), "Softplus": (7, 22), "Neg": (7, 13), "Abs": (7, 13),
        "Erf": (9, 13), "Exp": (7, 13), "HardSwish": (14, 22), "Identity": (7, 13, 16, 25), "Floor": (7, 13),
        "Ceil": (7, 13), "Round": (11, 22),
    }
    for operator, opsets in plain.items():
        for opset in opsets:
            cases.node(f"{operator.lower()}_{opset}", opset, operator, [Random(2, 3, 5, low=-6, high=6)])
        if operator not in ("Exp", "Identity"):
            cases.node(f"{operator.lower()}_edges", opsets[-1], operator, [Given(EDGES)])
    for opset in (7, 13):
        cases.node(f"log_{opset}", opset, "Log", [Random(3, 7, low=0.125, high=8)])
        cases.node(f"sqrt_{opset}", opset, "Sqrt", [Random(3, 7, low=0, high=8)])
        cases.node(f"reciprocal_{opset}", opset, "Reciprocal", [Random(3, 7, low=0.25, high=8)])
    cases.node("exp_edges", 13, "Exp", [Given([-100.0, -20.0, -1.0, 0.0, 1.0, 20.0, 80.0])])
    cases.node("relu_rank_0", 17, "Relu", [Given(-1.5)])
    cases.node("not", 7, "Not", [Given([True, False, True], np.bool_)])
    cases.node("leaky_relu", 7, "LeakyRelu", [Random(2, 3, 4)])
    cases.node("leaky_relu_alpha", 16, "LeakyRelu", [Random(2, 3, 4)], alpha=0.3)
    cases.node("elu", 7, "Elu", [Random(2, 3, 4)])
    cases.node("elu_alpha", 22, "Elu", [Random(2, 3, 4)], alpha=0.4)
    cases.node("selu", 7, "Selu", [Random(2, 3, 4)])
    cases.node("selu_attributes", 22, "Selu", [Random(2, 3, 4)], alpha=1.5, gamma=2.0)
    cases.node("hard_sigmoid", 7, "HardSigmoid", [Random(2, 3, 4, low=-6, high=6)])
    cases.node("hard_sigmoid_attributes", 22, "HardSigmoid", [Random(2, 3, 4)], alpha=0.5, beta=0.25)
    cases.node("gelu", 20, "Gelu", [Random(2, 3, 4, low=-5, high=5)])
    cases.node("gelu_tanh", 20, "Gelu", [Random(2, 3, 4, low=-5, high=5)], approximate="tanh")
    # Gelu, Silu and a HardSwish as exporters before opset 14 spell them.
    cases.graph(
        "gelu_from_erf", 17,
        [
            helper.make_node("Div", ["x", "root_two"], ["scaled"]), helper.make_node("Erf", ["scaled"], ["erf"]),
            helper.make_node("Add", ["erf", "one"], ["shifted"]), helper.make_node("Mul", ["x", "shifted"], ["doubled"]),
            helper.make_node("Mul", ["doubled", "half"], ["y"]),
        ],
        {"x": Random(2, 9, low=-4, high=4), "root_two": Constant(2.0**0.5), "one": Constant(1.0), "half": Constant(0.5)},
        ["y"],
    )
    cases.graph(
        "silu", 17, [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])],
        {"x": Random(2, 9, low=-6, high=6)}, ["y"],
    )
    cases.graph(
        "hard_swish_from_hard_sigmoid", 11,
        [
            helper.make_node("HardSigmoid", ["x"], ["s"], alpha=1 / 6, beta=0.5),
            helper.make_node("Mul", ["x", "s"], ["y"]),
        ],
        {"x": Random(2, 9, low=-6, high=6)}, ["y"],
    )
    for opset in (7, 9, 16):
        cases.node(f"prelu_channel_{opset}", opset, "PRelu", [Random(2, 3, 4, 5), Weight(3, 1, 1)])
    cases.node("prelu_scalar", 16, "PRelu", [Random(2, 3, 4), Weight(1)])
    cases.node("prelu_full", 16, "PRelu", [Random(2, 3, 4), Weight(2, 3, 4)])
    cases.node("prelu_computed_slope", 16, "PRelu", [Random(2, 3, 4), Random(3, 1)])


def clip(cases):
    x = Random(3, 8, low=-8, high=8)
    cases.node("clip_6", 7, "Clip", [x], min=-1.0, max=2.5)
    cases.node("clip_6_min", 10, "Clip", [x], min=0.5)
    cases.node("clip_6_max", 10, "Clip", [x], max=0.5)
    cases.node("clip_6_none", 7, "Clip", [x])
    cases.node("clip_11", 11, "Clip", [x, Constant(0.0), Constant(6.0)])
    cases.node("clip_12_min", 12, "Clip", [x, Constant(-3.0)])
    cases.node("clip_13_max", 13, "Clip", [x, None, Constant(3.0)])
    cases.node("clip_13_none", 13, "Clip", [x])


def binary(cases):
    shapes = {
        "same": ((2, 3, 4), (2, 3, 4)), "scalar": ((2, 3, 4), ()), "channel": ((2, 3, 4, 5), (3, 1, 1)),
        "last_axis": ((2, 3, 4), (4,)), "both_ways": ((3, 1, 4), (2, 1, 5, 1)), "left_smaller": ((4,), (2, 3, 4)),
        "middle": ((2, 1, 4), (2, 3, 1)), "ones": ((1, 1), (2, 1, 3)),
    }
    for operator in ("Add", "Sub", "Mul", "Div"):
        low = 0.5 if operator == "Div" else -2
        for index, (label, (left, right)) in enumerate(shapes.items()):
            cases.node(
                f"{operator.lower()}_{label}", (7, 13, 14)[index % 3], operator, [Random(*left), Random(*right, low=low)],
            )
        cases.node(f"{operator.lower()}_constant", 14, operator, [Random(1, 3, 4, 4), Weight(1, 3, 1, 1, low=low)])
        cases.node(f"{operator.lower()}_constant_left", 14, operator, [Weight(3, 1), Random(2, 3, 4, low=low)])
    cases.node("add_self", 14, "Add", [Random(2, 5), Weight(2, 5)])
    cases.node("add_i64", 14, "Add", [Given([1, -2, 3], np.int64), Given([[5], [7]], np.int64)])
    cases.node("mul_i32", 14, "Mul", [Given([1, -2, 3], np.int32), Given([[5], [7]], np.int32)])
    cases.node("div_i64", 14, "Div", [Given([7, -7, 9, -9], np.int64), Given([2, 2, -4, -4], np.int64)])
    for opset in (7, 12, 13, 15):
        cases.node(f"pow_{opset}", opset, "Pow", [Random(2, 3, 4, low=0.25, high=3), Random(4)])
    cases.node("pow_square", 13, "Pow", [Random(2, 7), Constant(2.0)])
    cases.node("pow_half", 13, "Pow", [Random(2, 7, low=0), Constant(0.5)])
    cases.node("pow_cube_negative", 13, "Pow", [Random(2, 7), Constant(3.0)])
    for operator in ("Min", "Max", "Sum"):
        label = operator.lower()
        cases.node(f"{label}_one", 8, operator, [Random(2, 3)])
        cases.node(f"{label}_two", 8, operator, [Random(2, 3), Random(2, 3)])
        cases.node(f"{label}_three_broadcast", 13, operator, [Random(2, 3, 4), Random(3, 1), Weight(4)])
        cases.node(f"{label}_7", 7, operator, [Random(2, 3), Random(2, 3), Random(2, 3)])
        cases.node(f"{label}_four", 13, operator, [Random(2, 1), Random(1, 3), Random(2, 3), Random(1)])
    for operator, opset in (("Equal", 13), ("Less", 13), ("LessOrEqual", 16), ("Greater", 9), ("GreaterOrEqual", 12)):
        cases.node(
            f"{operator.lower()}", opset, operator,
            [Given([[-1.0, 0.0, 2.5], [3.0, -4.0, 1.0]]), Given([-1.0, 0.5, 2.5])],
        )
    cases.node("equal_i64", 11, "Equal", [Given([1, 2, 3], np.int64), Given([[3], [2]], np.int64)])
    for operator in ("And", "Or"):
        cases.node(
            operator.lower(), 7, operator, [Given([True, False, True, False], np.bool_), Given([True, True, False, False], np.bool_)],
        )
    cases.node("mod_i64", 13, "Mod", [Given([7, -7, 7, -7], np.int64), Given([3, 3, -3, -3], np.int64)])
    cases.node("mod_float", 13, "Mod", [Given([7.5, -7.5, 7.5, -7.5]), Given([2.0, 2.0, -2.0, -2.0])], fmod=1)


def selection(cases):
    condition = Given([[True], [False], [True]], np.bool_)
    cases.node("where_broadcast", 9, "Where", [condition, Random(3, 4), Random(4)])
    cases.node("where_scalar", 16, "Where", [condition, Random(2, 3, 4), Constant(-1.0)])
    cases.graph(
        "where_from_less", 16,
        [helper.make_node("Less", ["a", "b"], ["less"]), helper.make_node("Where", ["less", "a", "b"], ["y"])],
        {"a": Random(2, 6), "b": Random(2, 6)}, ["y"],
    )


def casts(cases):
    floats = [-300.75, -2.5, -1.0, -0.5, 0.0, 0.5, 0.99, 1.5, 2.5, 7.0]
    for target in ("i32", "i64", "bool"):
        cases.node(f"cast_f32_to_{target}", 13, "Cast", [Given(floats)], to=ELEMENT[target])
    for source, dtype in (("i32", np.int32), ("i64", np.int64), ("bool", np.bool_)):
        cases.node(f"cast_{source}_to_f32", 9, "Cast", [Given([0, 1, 2, -7, 16777217], dtype)], to=ELEMENT["f32"])
    cases.node("cast_i64_to_i32", 19, "Cast", [Given([0, -5, 2**31 - 1], np.int64)], to=ELEMENT["i32"])
    cases.node("cast_i32_to_i64", 24, "Cast", [Given([0, -5, 2**31 - 1], np.int32)], to=ELEMENT["i64"])
    cases.node("cast_i64_to_bool", 13, "Cast", [Given([0, -5, 1], np.int64)], to=ELEMENT["bool"])


def dropout(cases):
    x = Random(2, 3, 4)
    cases.node("dropout_7", 7, "Dropout", [x], ratio=0.4)
    cases.node("dropout_10", 10, "Dropout", [x])
    cases.node("dropout_12", 12, "Dropout", [x, Constant(0.3)])
    cases.node("dropout_22_training_false", 22, "Dropout", [x, Constant(0.3), Constant(False, np.bool_)])
