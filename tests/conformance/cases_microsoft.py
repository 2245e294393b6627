"""Cases of operators of com.microsoft, which exporters for onnxruntime write."""

import numpy as np
from vector_case import Constant, Random, Weight

DOMAIN = "com.microsoft"


def declare(cases):
    recurrent(cases)


def whole(dtype, *shape, seed=1):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, endpoint=True, dtype=dtype)


def recurrent(cases):
    x = Random(4, 2, 3)
    for name, directions, dtype, word in (("forward", 1, np.int8, "forward"), ("both", 2, np.uint8, "bidirectional")):
        zero = Constant(np.full(directions, 0 if dtype == np.int8 else 120), dtype)
        scale = Constant(np.linspace(0.002, 0.004, directions), np.float32)
        operands = [
            x, Constant(whole(dtype, directions, 3, 16), dtype), Constant(whole(dtype, directions, 4, 16, seed=2), dtype),
            Weight(directions, 32), None, None, None, None, scale, zero, scale, zero,
        ]
        cases.node(
            f"dynamic_quantize_lstm_{name}", 14, "DynamicQuantizeLSTM", operands, outputs=3, domain=DOMAIN, hidden_size=4,
            direction=word,
        )
