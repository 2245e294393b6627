"""How one conformance case is described, built, run in onnxruntime and stored.

A case is one small ONNX model with its inputs and the outputs that onnxruntime computes for them. Values are seeded by
the name of the case, so a new case leaves the files of all others unchanged.
"""

import zlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


class Random:
    """A float32 array of multiples of 1/64, uniform in [low, high): short files, and ties that ArgMax must break."""

    constant = False

    def __init__(self, *shape, low=-2.0, high=2.0):
        self.shape, self.low, self.high = shape, low, high

    def values(self, generator):
        steps = generator.integers(int(self.low * 64), int(self.high * 64), self.shape)
        return np.asarray(steps / 64.0, dtype=np.float32)


class Weight(Random):
    """Like Random, but stored in the model."""

    constant = True


class Given:
    """Exactly these values as an input."""

    constant = False

    def __init__(self, values, dtype=np.float32):
        self.array = np.array(values, dtype=dtype)

    def values(self, _generator):
        return self.array


class Constant(Given):
    """Exactly these values, stored in the model."""

    constant = True


def integers(*values):
    """A constant int64 vector."""
    return Constant(list(values), np.int64)


class Cases:
    """All cases in the order in which they are declared."""

    def __init__(self):
        self.entries = []
        self.names = set()

    def node(self, name, opset, operator, operands, outputs=1, **attributes):
        """Declares a case of one node. Operands are Random, Weight, Given, Constant, or None for an absent input."""
        names = [f"y{index}" if outputs > 1 else "y" for index in range(outputs)]
        labels = {
            index: "x" if index == 0 else f"x{index}" for index, operand in enumerate(operands) if operand is not None
        }
        values = {labels[index]: operand for index, operand in enumerate(operands) if operand is not None}
        inputs = [labels.get(index, "") for index in range(len(operands))]
        self.graph(name, opset, [helper.make_node(operator, inputs, names, name="node", **attributes)], values, names)

    def graph(self, name, opset, nodes, values, outputs, free_batch=False, modern=None):
        """Declares a case of several nodes over named values. With `free_batch` the first axis of inputs is symbolic.

        `modern` are an opset and nodes that give the same results, for versions that onnxruntime has not kept.
        """
        assert name not in self.names, f"two cases are called {name}"
        self.names.add(name)
        self.entries.append((name, opset, nodes, values, outputs, free_batch, modern))


def build(entry):
    """Returns (model, inputs, outputs) of a case; outputs are onnxruntime's."""
    name, opset, nodes, operands, outputs, free_batch, modern = entry
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    arrays = {label: operand.values(generator) for label, operand in operands.items()}
    # Before IR 4 (opset 9) initializers must be listed among the inputs, as old exporters do.
    lists_initializers = opset < 9
    inputs, initializers = [], []
    for label, operand in operands.items():
        array = arrays[label]
        dims = list(array.shape)
        if operand.constant:
            initializers.append(numpy_helper.from_array(array, label))
            if not lists_initializers:
                continue
        elif free_batch:
            dims[0] = "N"
        inputs.append(helper.make_tensor_value_info(label, helper.np_dtype_to_tensor_dtype(array.dtype), dims))
    model = assemble(name, opset, nodes, inputs, [onnx.ValueInfoProto(name=output) for output in outputs], initializers)
    feeds = {label: arrays[label] for label, operand in operands.items() if not operand.constant}
    answered = model if modern is None else assemble(name, modern[0], modern[1], inputs, list(model.graph.output), initializers)
    results = dict(zip(outputs, run(answered, feeds)))
    typed = []
    for output, result in results.items():
        dims = list(result.shape)
        if free_batch:
            dims[0] = "N"
        typed.append(helper.make_tensor_value_info(output, helper.np_dtype_to_tensor_dtype(result.dtype), dims))
    model = assemble(name, opset, nodes, inputs, typed, initializers)
    if not any(node.domain == "" and node.op_type in UNKNOWN_TO_ONNX for node in nodes):
        onnx.checker.check_model(model)
    return model, feeds, results


def assemble(name, opset, nodes, inputs, outputs, initializers):
    """A model with the oldest IR version that the opset allows."""
    imports = [helper.make_opsetid("", opset)]
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    version = 3 if opset < 9 else max(4, helper.find_min_ir_version_for(imports))
    for domain in sorted({node.domain for node in nodes} - {""}):
        since = max(SINCE.get(node.op_type, 1) for node in nodes if node.domain == domain)
        imports.append(helper.make_opsetid(domain, since))
    return helper.make_model(graph, opset_imports=imports, ir_version=version, producer_name="partita conformance")


def run(model, feeds):
    """Outputs of onnxruntime, without its graph optimisations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


# First version of a domain other than the default one that has an operator as it is used here, where that is not 1.
SINCE = {"TreeEnsemble": 5, "LabelEncoder": 4}

# What onnxruntime has in the default domain without ONNX knowing it.
UNKNOWN_TO_ONNX = {"SimplifiedLayerNormalization"}

ELEMENT = {"f32": TensorProto.FLOAT, "i64": TensorProto.INT64, "i32": TensorProto.INT32, "bool": TensorProto.BOOL}
