"""Writes compiler/onnx/src/signatures.txt: of every operator, since which version it takes which attributes and operands.

    .venv/bin/python make_signatures.py

The text follows from the schemas of the onnx package alone (requirements.txt says which version).
"""

import pathlib

from onnx import defs

VARIADIC = 2147483647


def main():
    repository = pathlib.Path(__file__).parents[2]
    lines = [
        f"# Made by tests/conformance/make_signatures.py from the schemas up to opset {defs.onnx_opset_version()}.",
        "# Operator, version, most operands (* for any number), attributes; a line where one of them changes.",
    ]
    before = {}
    schemas = [schema for schema in defs.get_all_schemas_with_history() if schema.domain == ""]
    for schema in sorted(schemas, key=lambda schema: (schema.name, schema.since_version)):
        most = "*" if schema.max_input >= VARIADIC else str(schema.max_input)
        signature = [most, *sorted(schema.attributes)]
        if before.get(schema.name) != signature:
            lines.append(" ".join([schema.name, str(schema.since_version), *signature]))
        before[schema.name] = signature
    (repository / "compiler/onnx/src/signatures.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
