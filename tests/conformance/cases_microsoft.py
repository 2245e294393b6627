"""Cases of operators of com.microsoft, which exporters for onnxruntime write."""

import ml_dtypes
import numpy as np
from onnx import helper
from vector_case import Constant, Given, Random, Weight

DOMAIN = "com.microsoft"


def declare(cases):
    recurrent(cases)
    fused(cases)
    attention(cases)
    quantized(cases)
    tables(cases)
    quantized_transformers(cases)


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


def fused(cases):
    x = Random(2, 3, 8)
    for operator, operands, attributes in (
        ("Gelu", [x], {}), ("FastGelu", [x, Weight(8)], {}), ("BiasGelu", [x, Weight(8)], {}), ("QuickGelu", [x], {"alpha": 1.5}),
        ("SkipLayerNormalization", [x, Random(2, 3, 8), Weight(8), Weight(8), Weight(8)], {"epsilon": 1e-5}),
        ("SkipSimplifiedLayerNormalization", [x, Random(2, 3, 8), Weight(8)], {"epsilon": 1e-5}),
        ("FusedMatMul", [Random(2, 4, 3), Weight(5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}),
    ):
        cases.node(f"microsoft_{operator.lower()}", 14, operator, operands, domain=DOMAIN, **attributes)
    convolution = [Random(1, 3, 5, 5), Weight(4, 3, 3, 3), Weight(4), Random(1, 4, 5, 5)]
    cases.node("fused_conv_sum", 14, "FusedConv", convolution, domain=DOMAIN, activation="Relu", pads=[1, 1, 1, 1])
    cases.node(
        "fused_conv_leaky", 14, "FusedConv", convolution[:3], domain=DOMAIN, activation="LeakyRelu", activation_params=[0.25],
    )
    tokens, segments = Given([[1, 4, 2], [0, 3, 3]], np.int32), Given([[0, 0, 1], [1, 1, 0]], np.int32)
    tables = [Weight(5, 8), Weight(6, 8), Weight(2, 8), Weight(8), Weight(8)]
    names = ["ids", "segments", "words", "places", "kinds", "gamma", "beta"]
    node = helper.make_node("EmbedLayerNormalization", names, ["y", "mask"], domain=DOMAIN, epsilon=1e-5)
    cases.graph("embed_layer_normalization", 14, [node], dict(zip(names, [tokens, segments, *tables])), ["y"])


def attention(cases):
    qkv = [Random(2, 5, 8), Weight(8, 24), Weight(24)]
    cases.node("microsoft_attention", 14, "Attention", qkv, domain=DOMAIN, num_heads=2)
    mask = Given([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], np.int32)
    cases.node("microsoft_attention_mask", 14, "Attention", [*qkv, mask], domain=DOMAIN, num_heads=2)
    cases.node("microsoft_attention_causal", 14, "Attention", qkv, domain=DOMAIN, num_heads=4, unidirectional=1)
    heads = [Random(2, 3, 8), Random(2, 5, 8), Random(2, 5, 8), Weight(24)]
    cases.node("multi_head_attention", 14, "MultiHeadAttention", heads, domain=DOMAIN, num_heads=2)
    cases.node(
        "multi_head_attention_bias", 14, "MultiHeadAttention", [*heads[:3], None, None, Random(2, 2, 3, 5)], domain=DOMAIN,
        num_heads=2, scale=0.3,
    )
    tables = [Weight(8, 4), Weight(8, 4)]
    # Six heads of queries share two of keys and values; what came before fills the cache, or a part of it.
    shared = {"domain": DOMAIN, "num_heads": 6, "kv_num_heads": 2}
    numbers = lambda *values: Constant(values, np.int32)
    prompt = [Random(1, 4, 48), Random(1, 4, 16), Random(1, 4, 16), None, None, numbers(3), Constant(4, np.int32)]
    cases.node("group_query_attention", 14, "GroupQueryAttention", prompt, outputs=3, local_window_size=3, softcap=2.0, **shared)
    step = [Random(1, 1, 160), None, None, Random(1, 2, 3, 16), Random(1, 2, 3, 16), Given([3], np.int32), Constant(4, np.int32)]
    turns = [Weight(8, 8), Weight(8, 8)]
    cases.node("group_query_attention_packed", 14, "GroupQueryAttention", [*step, *turns], outputs=3, do_rotary=1, **shared)
    step[5] = numbers(3)
    cases.node("group_query_attention_known", 14, "GroupQueryAttention", step, outputs=3, scale=0.25, **shared)
    cases.node("group_query_attention_smooth", 14, "GroupQueryAttention", prompt, outputs=3, smooth_softmax=1, **shared)
    sinks = [*step, None, None, None, None, Weight(6)]
    cases.node("group_query_attention_sinks", 14, "GroupQueryAttention", sinks, outputs=3, **shared)
    cases.node("microsoft_rotary", 14, "RotaryEmbedding", [Random(2, 3, 16), Given([2], np.int64), *tables], domain=DOMAIN, num_heads=2)


def quantized(cases):
    scale = lambda value: Constant(value, np.float32)
    for dtype in (np.uint8, np.int8):
        name = np.dtype(dtype).name
        a, b = Given(whole(dtype, 2, 6), dtype), Given(whole(dtype, 2, 6, seed=3), dtype)
        low = np.iinfo(dtype).min
        point = lambda offset: Constant(low + offset, dtype)
        one, other, result = [scale(0.05), point(120)], [scale(0.03), point(100)], [scale(0.09), point(110)]
        for operator in ("QLinearAdd", "QLinearMul"):
            cases.node(f"{operator.lower()}_{name}", 14, operator, [a, *one, b, *other, *result], domain=DOMAIN)
        cases.node(f"qlinear_sigmoid_{name}", 14, "QLinearSigmoid", [a, *one, scale(1 / 256), point(0)], domain=DOMAIN)
        cases.node(f"qlinear_leaky_{name}", 14, "QLinearLeakyRelu", [a, *one, *other], domain=DOMAIN, alpha=0.25)
        cases.node(f"qlinear_concat_{name}", 14, "QLinearConcat", [*result, a, *one, b, *other], domain=DOMAIN, axis=1)
        image = Given(whole(dtype, 1, 3, 4, 4), dtype)
        cases.node(f"qlinear_global_{name}", 14, "QLinearGlobalAveragePool", [image, *one, *other], domain=DOMAIN)
        cases.node(f"qlinear_average_{name}", 14, "QLinearAveragePool", [image, *one, *other], domain=DOMAIN, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
        weights = [Constant(whole(dtype, 6, 4, seed=5), dtype), scale(0.02), point(128)]
        bias = Constant([100, -2000, 30, 7], np.int32)
        cases.node(f"qgemm_{name}", 14, "QGemm", [a, *one, *weights, bias, scale(2.5), point(128)], domain=DOMAIN)
        cases.node(f"qgemm_real_{name}", 14, "QGemm", [a, *one, *weights, bias], domain=DOMAIN, alpha=0.5)
    weights = Constant(whole(np.int8, 6, 4), np.int8)
    cases.node("dynamic_quantize_matmul", 14, "DynamicQuantizeMatMul", [Random(3, 6), weights, scale(0.02), Constant(3, np.int8), Weight(4)], domain=DOMAIN)
    integer = [Given(whole(np.uint8, 3, 6), np.uint8), weights, Given(0.1), scale([0.1, 0.2, 0.05, 0.3]), Given(120, np.uint8), None, Weight(4)]
    cases.node("matmul_integer_to_float", 14, "MatMulIntegerToFloat", integer, domain=DOMAIN)
    for bits, blocks in ((4, 2), (8, 2)):
        size = 32 * bits // 8
        operands = [
            Random(2, 48), Constant(whole(np.uint8, 3, blocks, size), np.uint8), Weight(3 * blocks, low=0.01, high=0.2),
            Constant(whole(np.uint8, 3 * -(-blocks * bits // 8), seed=7), np.uint8),
        ]
        cases.node(
            f"matmul_{bits}_bits", 14, "MatMulNBits", operands, domain=DOMAIN, K=48, N=3, bits=bits, block_size=32,
        )
    cases.node(
        "matmul_4_bits_plain", 14, "MatMulNBits", operands_without_zeros(), domain=DOMAIN, K=32, N=2, bits=4, block_size=16,
    )


def operands_without_zeros():
    return [Random(2, 32), Constant(whole(np.uint8, 2, 2, 8), np.uint8), Weight(4, low=0.01, high=0.2)]


def tables(cases):
    """Rows of tables of few bits, packed in bytes or of a type of four bits."""
    generator = np.random.default_rng(11)
    rows = Given([[4, 0], [2, 4]], np.int64)
    scales = Weight(5, 2)
    for bits in (4, 8):
        bytes_of_row = 32 * bits // 8
        table = Constant(generator.integers(0, 256, (5, bytes_of_row)), np.uint8)
        shared = {"domain": DOMAIN, "bits": bits, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
        cases.node(f"gather_block_quantized_{bits}", 14, "GatherBlockQuantized", [table, rows, scales], **shared)
        zeros = Constant(generator.integers(0, 256, (5, 2 * bits // 8)), np.uint8)
        cases.node(f"gather_block_quantized_{bits}_zeros", 14, "GatherBlockQuantized", [table, rows, scales, zeros], **shared)
    for kind, low in ((ml_dtypes.int4, -8), (ml_dtypes.uint4, 0)):
        table = Constant(generator.integers(low, low + 16, (5, 32)), kind)
        shared = {"domain": DOMAIN, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
        cases.node(f"gather_block_quantized_{np.dtype(kind).name}", 21, "GatherBlockQuantized", [table, rows, scales], **shared)


def quantized_transformers(cases):
    """What onnxruntime quantizes of transformers that it has optimised before, and a norm in the default domain."""
    cases.node("simplified_layer_norm", 17, "SimplifiedLayerNormalization", [Random(2, 3, 8), Weight(8)], axis=-1, epsilon=1e-5, stash_type=1)
    x = Given(whole(np.uint8, 2, 5, 8), np.uint8)
    product = [x, Constant(whole(np.int8, 8, 24), np.int8), Weight(24), Constant(0.01), Constant(0.005)]
    mask = Constant([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    zeros = [Constant(120, np.uint8), Constant(3, np.int8)]
    cases.node("q_attention", 14, "QAttention", [*product, None, *zeros], domain=DOMAIN, num_heads=2)
    cases.node("q_attention_mask", 14, "QAttention", [*product, mask, *zeros], domain=DOMAIN, num_heads=2)
    tables = [Constant(whole(np.uint8, *size, seed=index), np.uint8) for index, size in enumerate(((6, 8), (5, 8), (2, 8), (8,), (8,)))]
    scales = [Constant(scale) for scale in (0.01, 0.02, 0.015, 0.005, 0.0075)]
    zeros = [Constant(zero, np.uint8) for zero in (128, 120, 131, 0, 127)]
    tokens = [Given([[5, 0, 3, 2]], np.int32), Given([[0, 0, 1, 1]], np.int32)]
    names = [f"x{index}" for index in range(2)] + [f"t{index}" for index in range(5)] + [""] + [f"s{index}" for index in range(5)] + [f"z{index}" for index in range(5)]
    node = helper.make_node("QEmbedLayerNormalization", names, ["y", "mask"], domain=DOMAIN, epsilon=1e-5)
    given = dict(zip([name for name in names if name], [*tokens, *tables, *scales, *zeros]))
    cases.graph("q_embed_layer_norm", 14, [node], given, ["y"])
