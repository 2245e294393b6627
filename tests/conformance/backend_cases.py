"""Writes ONNX's own backend tests, as the installed package `onnx` has them, as files that need no Python.

    python3 backend_cases.py FOLDER

For every test in scope: NAME.onnx; NAME.constants.onnx, the same with all inputs but the first made constants, if it has
several (shapes, axes and the like are graph inputs in these tests and constants in real models); NAME.known.onnx, with
all of them made constants, where the first says how large the result is; NAME.npz with inputs and expected outputs. cases.txt names them all: name, operators, relative and absolute tolerance.

In scope: inference with dense tensors of float, double, float16, int8 to int64, uint8 and bool, by operators of
ai.onnx that give the same answer each time.
"""

import os
import pathlib
import sys
import warnings

warnings.filterwarnings("ignore")

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests, load_node_model_tests

TYPES = {"FLOAT", "DOUBLE", "FLOAT16", "INT8", "INT16", "INT32", "INT64", "UINT8", "BOOL", "UNDEFINED"}

# Random numbers, strings, sequences, optional values, images and training.
OUT_OF_SCOPE = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
    "ImageDecoder", "StringNormalizer", "TfIdfVectorizer", "RegexFullMatch", "StringConcat", "StringSplit",
    "SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "Gradient",
}  # fmt: skip


def nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)


def is_in_scope(name, model):
    graph = model.graph
    values = list(graph.input) + list(graph.output) + list(graph.value_info)
    if any(value.type.WhichOneof("value") not in (None, "tensor_type") for value in values):
        return False
    kinds = {TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in values}
    kinds |= {TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    for node in nodes(graph):
        if node.domain not in ("", "ai.onnx") or node.op_type in OUT_OF_SCOPE or node.op_type.startswith("Sequence"):
            return False
        if node.op_type == "Dropout" and len(node.input) > 2:
            return False
    return not kinds - TYPES and "train" not in name


def array(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value, order="C")


def cases():
    """Name, model, inputs, expected outputs and tolerances."""
    for case in load_node_model_tests():
        if case.model is not None and is_in_scope(case.name, case.model):
            inputs, outputs = case.data_sets[0]
            yield case.name, case.model, list(map(array, inputs)), list(map(array, outputs)), case
    for kind in ("simple", "pytorch-operator", "pytorch-converted"):
        for case in load_model_tests(kind=kind):
            folder = pathlib.Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            if not is_in_scope(case.name, model):
                continue
            data = folder / "test_data_set_0"

            def read(what, count, data=data):
                files = [data / f"{what}_{index}.pb" for index in range(count)]
                return [numpy_helper.to_array(TensorProto.FromString(file.read_bytes())) for file in files]

            count = sum(name.startswith("input") for name in os.listdir(data))
            yield case.name, model, read("input", count), read("output", len(model.graph.output)), case


# Their results are as large as their first operand says.
SIZED_BY_DATA = {
    "BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "Loop", "MelWeightMatrix", "NonZero", "Range",
    "Unique",
}  # fmt: skip


def with_constants(model, arrays, first=1):
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for value, array in list(zip(model.graph.input, arrays))[first:]:
        model.graph.input.remove(value)
        model.graph.initializer.append(numpy_helper.from_array(array, value.name))
    return model


def main():
    folder = pathlib.Path(sys.argv[1])
    # What fails is listed for one version.
    wanted = (pathlib.Path(__file__).parent / "requirements.txt").read_text().split()
    if f"onnx=={onnx.__version__}" not in wanted:
        sys.exit(f"onnx is {onnx.__version__}, expected one of {wanted}")
    lines = []
    for name, model, inputs, outputs, case in cases():
        operators = ",".join(sorted({node.op_type for node in nodes(model.graph)}))
        lines.append(f"{name} {operators or '-'} {max(case.rtol, 1e-3)} {max(case.atol, 1e-7)}")
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        if len(inputs) > 1:
            (folder / f"{name}.constants.onnx").write_bytes(with_constants(model, inputs).SerializeToString())
        if set(operators.split(",")) & SIZED_BY_DATA:
            (folder / f"{name}.known.onnx").write_bytes(with_constants(model, inputs, 0).SerializeToString())
        named = list(zip(model.graph.input, inputs)) + list(zip(model.graph.output, outputs))
        np.savez(folder / f"{name}.npz", **{value.name: array for value, array in named})
    (folder / "cases.txt").write_text("\n".join(sorted(lines)) + "\n")


if __name__ == "__main__":
    main()
