"""Writes the conformance vectors: vectors/NAME.onnx, vectors/NAME.npz and the table cases.txt.

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python make_vectors.py

NAME.npz holds the inputs and onnxruntime's outputs under the names that the graph gives them. Two runs write the same
bytes. Where onnx's own reference implementation disagrees with onnxruntime, the case is named on stderr: decide by the
text of the standard before keeping it.
"""

import pathlib
import sys

import cases_composed
import cases_control
import cases_defined
import cases_elementwise
import cases_microsoft
import cases_ml
import cases_quantized
import cases_tensors
import cases_types
import cases_windows
import numpy as np
import onnx.reference
from vector_case import Cases, build


def reference_differs(model, feeds, results):
    """None if onnx's reference implementation agrees with `results`, else what it says."""
    try:
        answers = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # It has gaps of its own; those prove nothing about onnxruntime.
        return f"cannot be evaluated: {str(error).splitlines()[0][:100]}"
    for (name, expected), answer in zip(results.items(), answers):
        answer = np.asarray(answer)
        if answer.shape != expected.shape:
            return f"{name} has shape {answer.shape}, onnxruntime {expected.shape}"
        difference = np.max(np.abs(answer.astype(np.float64) - expected.astype(np.float64)), initial=0.0)
        if difference > 1e-4 * max(1.0, np.max(np.abs(expected.astype(np.float64)), initial=0.0)):
            return f"{name} differs by {difference:.3g}"
    return None


def main():
    here = pathlib.Path(__file__).parent
    folder = here / "vectors"
    folder.mkdir(exist_ok=True)
    cases = Cases()
    for family in (cases_windows, cases_elementwise, cases_tensors, cases_types, cases_quantized, cases_defined, cases_composed, cases_control, cases_microsoft, cases_ml):
        family.declare(cases)
    lines = ["# name | opset | operators | inputs -> outputs"]
    for entry in sorted(cases.entries, key=lambda entry: entry[0]):
        name = entry[0]
        try:
            model, feeds, results = build(entry)
        except Exception as error:
            raise SystemExit(f"{name}: {error}") from error
        disagreement = reference_differs(model, feeds, results)
        if disagreement:
            print(f"{name}: onnx reference: {disagreement}", file=sys.stderr)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        np.savez_compressed(folder / f"{name}.npz", **feeds, **results)
        operators = ", ".join(node.op_type for node in model.graph.node)
        types = " -> ".join(", ".join(describe(*item) for item in group.items()) for group in (feeds, results))
        lines.append(f"{name} | {entry[1]} | {operators} | {types}")
    kept = {entry[0] for entry in cases.entries}
    for path in folder.iterdir():
        if path.stem not in kept:
            path.unlink()
    (here / "cases.txt").write_text("\n".join(lines) + "\n")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{len(kept)} cases, {size} bytes")


def describe(name, array):
    """`x: f32[1,3,8,8]`, as the graph's text form writes types."""
    word = str(array.dtype)
    short = word.replace("float", "f").replace("uint", "u").replace("int", "i")
    return f"{name}: {short}[{','.join(str(extent) for extent in array.shape)}]"


if __name__ == "__main__":
    main()
