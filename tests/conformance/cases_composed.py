"""Cases of operators that are imported as many others: attention, samples of grids, transforms, bits, caches."""

import numpy as np
from onnx import helper
from vector_case import Constant, Given, Random, Weight, integers


def declare(cases):
    attention(cases)
    grids(cases)
    boxes(cases)
    reductions(cases)
    signals(cases)
    bits(cases)
    places(cases)
    quantized(cases)


def attention(cases):
    q, k, v = Random(2, 4, 3, 8), Random(2, 2, 5, 8), Random(2, 2, 5, 6)
    cases.node("attention_groups", 23, "Attention", [q, k, v])
    cases.node("attention_causal", 23, "Attention", [Random(1, 2, 5, 8), Random(1, 2, 5, 8), Random(1, 2, 5, 8)], is_causal=1)
    mask = Given([[True, True, False, True, True]] * 2 + [[False, True, True, True, False]], np.bool_)
    cases.node("attention_mask", 23, "Attention", [q, k, v, mask], softcap=2.0)
    packed = [Random(2, 3, 16), Random(2, 5, 16), Random(2, 5, 16), Random(3, 5)]
    cases.node("attention_packed", 23, "Attention", packed, q_num_heads=4, kv_num_heads=4, scale=0.25)
    past = [Random(1, 2, 2, 8), Random(1, 2, 4, 8), Random(1, 2, 4, 8), None, Random(1, 2, 3, 8), Random(1, 2, 3, 8)]
    cases.node("attention_past", 23, "Attention", past, outputs=3)
    tables = [Weight(6, 4), Weight(6, 4), Given([[0, 1, 2], [3, 4, 5]], np.int64)]
    cases.node("rotary_embedding", 23, "RotaryEmbedding", [Random(2, 2, 3, 8), *tables])
    cases.node("rotary_embedding_pairs", 23, "RotaryEmbedding", [Random(2, 3, 16), *tables], interleaved=1, num_heads=2)


def grids(cases):
    x, grid = Random(2, 3, 4, 5), Random(2, 3, 2, 2, low=-1.5, high=1.5)
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            if (mode, padding) == ("bicubic", "border"):
                # onnxruntime moves a coordinate inside where the other is outside, unlike the standard.
                continue
            cases.node(
                f"grid_sample_{mode}_{padding}", 16, "GridSample", [x, grid], mode=mode, padding_mode=padding,
                align_corners=int(padding == "reflection"),
            )
    far = Random(1, 3, 4, 2, low=-2.0, high=2.0)
    cases.node("grid_sample_cubic_far", 20, "GridSample", [Random(1, 2, 5, 4), far], mode="cubic", padding_mode="border", align_corners=1)
    regions = Given([[0.5, 1.0, 4.5, 5.0], [-2.0, 0.0, 3.0, 7.5]])
    for mode in ("avg", "max"):
        # onnxruntime's largest of several samples is another one than the standard's.
        ratio = 2 if mode == "avg" else 1
        cases.node(f"roi_align_computed_{mode}", 16, "RoiAlign", [Random(2, 3, 6, 7), regions, Given([0, 1], np.int64)], mode=mode, output_height=2, output_width=3, sampling_ratio=ratio)
    cases.node("grid_sample_volume", 20, "GridSample", [Random(1, 2, 3, 4, 2), Random(1, 2, 2, 2, 3, low=-1.0, high=1.0)])
    # 5x6 by windows of 3x2 in steps of 2x1, padded by a row before and a column behind: 3x6 places.
    windows = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    offset, mask = Random(2, 12, 3, 6, low=-2.0, high=2.0), Random(2, 6, 3, 6, low=0.0, high=1.0)
    cases.node("deform_conv", 19, "DeformConv", [Random(2, 4, 5, 6), Weight(3, 4, 3, 2), offset], **windows)
    cases.node("deform_conv_mask", 22, "DeformConv", [Random(2, 4, 5, 6), Weight(6, 2, 3, 2), offset, Weight(6), mask], group=2, **windows)
    offset = Random(1, 16, 2, 3, low=-2.0, high=2.0)
    cases.node("deform_conv_groups", 22, "DeformConv", [Random(1, 4, 4, 5), Weight(2, 4, 2, 2), offset], offset_group=2, dilations=[2, 2])
    cases.node("affine_grid", 20, "AffineGrid", [Random(2, 2, 3), integers(2, 1, 4, 3)])
    cases.node("affine_grid_corners", 20, "AffineGrid", [Random(1, 3, 4), integers(1, 1, 2, 4, 3)], align_corners=1)
    regions = [Constant([[0, 0, 6, 5], [1, 2, 4, 7]], np.float32), Constant([0, 1], np.int64)]
    for mode in ("avg", "max"):
        cases.node(
            f"roi_align_{mode}", 16, "RoiAlign", [Random(2, 3, 8, 8, low=0.0), *regions], mode=mode, output_height=2, output_width=3,
            sampling_ratio=2 if mode == "max" else 0,
        )


    regions = Given([[0.5, 1.0, 4.5, 5.0], [-2.0, 0.0, 3.0, 7.5], [1.0, 1.0, 1.25, 9.0], [-50.0, 2.0, 90.0, 2.5]])
    # Of this version onnxruntime has an earlier one.
    for opset, more in ((10, {"spatial_scale": 0.5}), (16, {"coordinate_transformation_mode": "output_half_pixel"}), (22, {})):
        operands = {"x": Random(2, 3, 6, 7), "regions": regions, "images": Given([0, 1, 1, 0], np.int64)}
        nodes = [helper.make_node("RoiAlign", list(operands), ["y"], output_height=2, output_width=3, **more)]
        cases.graph(f"roi_align_adaptive_{opset}", opset, nodes, operands, ["y"], modern=(16, nodes) if opset == 22 else None)


def boxes(cases):
    one = lambda value, dtype=np.float32: Constant([value], dtype)
    # Corners in any order; multiples of 1/64 for scores and places have ties.
    corners, scores = Random(2, 12, 4, low=0.0, high=1.0), Random(2, 3, 12, low=0.0, high=1.0)
    cases.node("nms_corners", 11, "NonMaxSuppression", [corners, scores, one(4, np.int64), one(0.4), one(0.25)])
    centres = Random(1, 20, 4, low=0.25, high=1.0)
    cases.node("nms_centres", 10, "NonMaxSuppression", [centres, Random(1, 2, 20), one(6, np.int64), one(0.5)], center_point_box=1)
    flat = Given(np.array([[[0, 0, 1, 1], [0, 0, 1, 1], [0.5, 0.5, 0.5, 2], [0, 0, 0, 0], [0, 0.5, 1, 1.5], [3, 3, 2, 2]]], np.float32))
    ties = Given(np.array([[[0.5, 0.5, 0.75, 0.25, 0.5, 0.5]]], np.float32))
    cases.node("nms_ties", 11, "NonMaxSuppression", [flat, ties, Constant(9, np.int64), Constant(0.33)])
    cases.node("nms_none", 11, "NonMaxSuppression", [flat, ties, one(9, np.int64), one(0.0), one(0.5)])


def reductions(cases):
    """Of whole numbers: what is no whole number is cut off."""
    for dtype in (np.int32, np.int64):
        name = np.dtype(dtype).name
        x = Given([[[3, -4, 5], [1, 1, 1]], [[40000, 40000, 7], [9, 8, 8]], [[0, 1, 0], [-7, 2, 6]]], dtype)
        for operator, operand in (("L2", x), ("L1", x), ("LogSumExp", x), ("LogSum", Given(np.abs(x.array), dtype))):
            cases.node(f"reduce_{operator.lower()}_{name}", 18, f"Reduce{operator}", [operand, integers(2)], keepdims=0)
            cases.node(f"reduce_{operator.lower()}_{name}_13", 13, f"Reduce{operator}", [operand], axes=[1, 2])
        small = Given([[3, -4, 5], [1000, 1, 1]], dtype)
        cases.node(f"reduce_sumsquare_{name}", 18, "ReduceSumSquare", [small, integers(0)])


def signals(cases):
    for name, attributes in (("plain", {}), ("onesided", {"onesided": 1}), ("inverse", {"inverse": 1})):
        parts = 2 if name == "inverse" else 1
        cases.node(f"dft_{name}", 17, "DFT", [Random(2, 10, parts), Constant(8, np.int64)], axis=1, **attributes)
    cases.node("dft_20", 20, "DFT", [Random(2, 3, 6, 2), None, Constant(1, np.int64)])
    window = Constant(np.hanning(8), np.float32)
    cases.node("stft_window", 17, "STFT", [Random(2, 20, 1), Constant(4, np.int64), window, Constant(8, np.int64)])
    cases.node("stft_plain", 17, "STFT", [Random(1, 16, 1), Constant(3, np.int64), None, Constant(6, np.int64)], onesided=0)


def bits(cases):
    rng = np.random.default_rng(3)
    for dtype in (np.uint8, np.uint32, np.uint64):
        x = rng.integers(0, np.iinfo(dtype).max, 6, dtype=dtype)
        by = np.array([0, 1, 3, 5, 7, 2], dtype)
        for direction in ("LEFT", "RIGHT"):
            name = f"bit_shift_{direction.lower()}_{np.dtype(dtype).name}"
            cases.node(name, 11, "BitShift", [Given(x, dtype), Given(by, dtype)], direction=direction)
    for dtype in (np.int8, np.int32, np.int64, np.uint8):
        limits = np.iinfo(dtype)
        a, b = (Given(rng.integers(limits.min, limits.max, 8, dtype=dtype, endpoint=True), dtype) for _ in range(2))
        for operator in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
            cases.node(f"{operator.lower()}_{np.dtype(dtype).name}", 18, operator, [a, b])
        cases.node(f"bitwisenot_{np.dtype(dtype).name}", 18, "BitwiseNot", [a])


def places(cases):
    for p in (1, 2, 3):
        cases.node(f"lp_pool_{p}", 18, "LpPool", [Random(1, 2, 6, 7)], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1], p=p)
        cases.node(f"global_lp_pool_{p}", 2, "GlobalLpPool", [Random(1, 2, 3, 4)], p=p)
    pool = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}
    cases.node("max_pool_indices", 12, "MaxPool", [Random(2, 2, 6, 7)], outputs=2, **pool)
    cases.node("max_pool_indices_columns", 12, "MaxPool", [Random(1, 2, 5, 4)], outputs=2, storage_order=1, **pool)
    for reduction in ("add", "mul", "max", "min"):
        indices = Constant([[0], [2], [0], [0]], np.int64)
        opset = 16 if reduction in ("add", "mul") else 18
        cases.node(f"scatter_nd_{reduction}", opset, "ScatterND", [Random(4, 3), indices, Random(4, 3)], reduction=reduction)
        indices = Constant([[0, 2, 1], [0, 0, 1]], np.int64)
        cases.node(
            f"scatter_elements_{reduction}", opset, "ScatterElements", [Random(3, 3), indices, Random(2, 3)], reduction=reduction
        )
    at = Given([[0, 2, -1], [2, 0, 1]], np.int64)
    cases.node("scatter_elements_computed", 18, "ScatterElements", [Random(3, 3), at, Random(2, 3)])
    cases.node("scatter_elements_computed_add", 18, "ScatterElements", [Random(3, 5), Given([[4, 0, 4], [1, 1, 1]], np.int32), Random(2, 3)], axis=1, reduction="add")
    cases.node("scatter_nd_computed", 18, "ScatterND", [Random(3, 4, 2), Given([[2, -1], [0, 3]], np.int64), Random(2, 2)])
    cases.node("scatter_nd_computed_max", 18, "ScatterND", [Random(4, 3), Given([[1], [3], [1]], np.int64), Random(3, 3)], reduction="max")
    cases.node("scatter_9", 9, "Scatter", [Random(3, 3), Constant([[1, 0, 2]], np.int64), Random(1, 3)], axis=0)
    cases.node("pad_wrap", 19, "Pad", [Random(3, 4), integers(1, 5, 2, 0)], mode="wrap")
    cases.node("reverse_sequence", 10, "ReverseSequence", [Random(4, 3, 2), Given([4, 1, 3], np.int64)])
    cases.node("reverse_sequence_batch", 10, "ReverseSequence", [Random(3, 4, 2), Constant([2, 4, 1], np.int64)], batch_axis=0, time_axis=1)
    cases.node("center_crop_pad", 18, "CenterCropPad", [Random(5, 4), integers(3, 7)])
    columns = [Random(2, 12, 6), integers(4, 4), integers(2, 3)]
    cases.node("col2im", 18, "Col2Im", columns)
    cases.node("det", 22, "Det", [Random(2, 3, 3)])
    cases.node("layer_normalization_results", 17, "LayerNormalization", [Random(2, 3, 4), Weight(4)], outputs=3)
    cases.node("dropout_mask", 13, "Dropout", [Random(2, 3)], outputs=2)
    cases.node("non_zero", 13, "NonZero", [Constant([[0, 1, 2], [3, 0, 0]], np.float32)])


def quantized(cases):
    steps = Given(np.random.default_rng(4).integers(-128, 127, (2, 6)), np.int8)
    scale = lambda *values: Given(np.array(values), np.float32)
    cases.node("dequantize_computed_scale", 13, "DequantizeLinear", [steps, scale(0.5, 0.25), Given([3, -4], np.int8)], axis=0)
    cases.node("quantize_computed_scale", 13, "QuantizeLinear", [Random(2, 6), Given(0.0625), Given(7, np.uint8)])
    cases.node("quantize_zero_points", 13, "QuantizeLinear", [Random(3, 4), Constant([0.1, 0.2, 0.05]), Constant([3, 100, 255], np.uint8)], axis=0)
    cases.node("quantize_int16", 21, "QuantizeLinear", [Random(3, 4), Constant(0.001), Constant(-300, np.int16)])
    blocks = Constant(np.random.default_rng(5).uniform(0.01, 0.1, (2, 3)), np.float32)
    zeros = Constant([[1, 2, 3], [-1, 0, 5]], np.int8)
    cases.node("dequantize_blocks", 21, "DequantizeLinear", [steps, blocks, zeros], axis=1, block_size=2)
    cases.node("quantize_blocks", 21, "QuantizeLinear", [Random(2, 6), blocks, zeros], axis=1, block_size=2)
