"""Cases of control flow, and of operators as their first versions were."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from vector_case import Constant, Given, Random, Weight, integers


def declare(cases):
    branches(cases)
    loops(cases)
    scans(cases)
    old_versions(cases)


def tensor(name, kind=TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def branches(cases):
    """A condition that is computed chooses between what both branches make."""
    then_branch = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "then", [], [tensor("t")])
    else_branch = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [], [tensor("e")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then_branch, else_branch=else_branch)
    for word, value in (("taken", True), ("not_taken", False)):
        cases.graph(f"if_computed_{word}", 17, [node], {"x": Random(2, 3), "c": Given(value, np.bool_)}, ["y"])
    greater = helper.make_node("Greater", ["s", "limit"], ["c"])
    cases.graph(
        "if_computed_of_data", 17, [helper.make_node("ReduceMax", ["x"], ["s"], keepdims=0), greater, node],
        {"x": Random(2, 3), "limit": Constant(0.5)}, ["y"],
    )


def loops(cases):
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["s", "w"], ["m"]),
            helper.make_node("Add", ["m", "f"], ["s2"]),
            helper.make_node("ReduceSum", ["s2"], ["row"], keepdims=0),
            helper.make_node("Identity", ["c"], ["c2"]),
        ],
        "body", [tensor("i", TensorProto.INT64, []), tensor("c", TensorProto.BOOL, []), tensor("s")],
        [tensor("c2", TensorProto.BOOL, []), tensor("s2"), tensor("row")],
        [numpy_helper.from_array(np.float32([0.5, 2.0, -1.0]), "w")],
    )
    loop = helper.make_node("Loop", ["n", "", "x"], ["y", "rows"], body=body)
    for opset in (11, 17):
        cases.graph(f"loop_counted_{opset}", opset, [loop], {"x": Random(2, 3), "n": Constant(4, np.int64)}, ["y", "rows"])
    until = helper.make_graph(
        [helper.make_node("Less", ["i", "last"], ["c2"]), helper.make_node("Add", ["s", "s"], ["s2"])],
        "body", [tensor("i", TensorProto.INT64, []), tensor("c", TensorProto.BOOL, []), tensor("s")],
        [tensor("c2", TensorProto.BOOL, []), tensor("s2")], [numpy_helper.from_array(np.int64(2), "last")],
    )
    node = helper.make_node("Loop", ["", "go", "x"], ["y"], body=until)
    cases.graph("loop_until", 17, [node], {"x": Random(2, 3), "go": Constant(True, np.bool_)}, ["y"])
    nested_body = helper.make_graph(
        [
            helper.make_node("Add", ["k", "one"], ["turns"]),
            helper.make_node("Loop", ["turns", "", "t"], ["t2", "inner_rows"], body=body),
            helper.make_node("Identity", ["go_on"], ["go_on2"]),
        ],
        "outer", [tensor("k", TensorProto.INT64, []), tensor("go_on", TensorProto.BOOL, []), tensor("t")],
        [tensor("go_on2", TensorProto.BOOL, []), tensor("t2")], [numpy_helper.from_array(np.int64(1), "one")],
    )
    nested = helper.make_node("Loop", ["n", "", "x"], ["y"], body=nested_body)
    cases.graph("loop_nested", 17, [nested], {"x": Random(2, 3), "n": Constant(3, np.int64)}, ["y"])
    cases.graph("loop_without_turns", 17, [node_without_turns(body)], {"x": Random(2, 3), "n": Constant(0, np.int64)}, ["y"])


def node_without_turns(body):
    return helper.make_node("Loop", ["n", "", "x"], ["y"], body=helper.make_graph(
        list(body.node), "body", list(body.input), list(body.output)[:2], list(body.initializer)))


def scans(cases):
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["s", "half"], ["kept"]), helper.make_node("Add", ["kept", "row"], ["s2"]),
            helper.make_node("Sub", ["s2", "row"], ["made"]),
        ],
        "body", [tensor("s"), tensor("row")], [tensor("s2"), tensor("made")], [numpy_helper.from_array(np.float32(0.5), "half")],
    )
    for name, attributes in (
        ("plain", {}), ("reverse", {"scan_input_directions": [1], "scan_output_directions": [1]}),
        ("axes", {"scan_input_axes": [1], "scan_output_axes": [1]}),
    ):
        scan = helper.make_node("Scan", ["s0", "x"], ["s", "y"], body=body, num_scan_inputs=1, **attributes)
        start, x = (Random(2), Random(2, 5)) if name == "axes" else (Random(3), Random(5, 3))
        cases.graph(f"scan_{name}", 17, [scan], {"s0": start, "x": x}, ["s", "y"])


def old_versions(cases):
    """Operators before they broadcast as numpy does; onnxruntime answers by their successors."""
    def case(name, operator, operands, before=None, **attributes):
        names = ["x", "b"][: len(operands)]
        old = helper.make_node(operator, names, ["y"], name="node", **attributes)
        later = {key: value for key, value in attributes.items() if key not in ("broadcast", "axis")}
        if before is None:
            modern = [helper.make_node(operator, names, ["y"], **later)]
        else:
            modern = [helper.make_node("Reshape", ["b", "shape"], ["wide"]), helper.make_node(operator, ["x", "wide"], ["y"], **later)]
            modern.insert(0, helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.int64(before))))
        cases.graph(name, 6, [old], dict(zip(names, operands)), ["y"], modern=(13, modern))

    x, channels = Random(2, 3, 4, 5), Weight(3, low=0.5, high=2)
    for operator in ("Add", "Sub", "Mul", "Div"):
        case(f"{operator.lower()}_6_axis", operator, [x, channels], before=[3, 1, 1], broadcast=1, axis=1)
        case(f"{operator.lower()}_6_last", operator, [x, Weight(5, low=0.5, high=2)], broadcast=1)
    case("prelu_6", "PRelu", [x, channels], before=[3, 1, 1])
    case("selu_6", "Selu", [Random(2, 3)])
