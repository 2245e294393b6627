"""Cases of operators that are imported as others: reductions, normalisations, recurrent layers, choices, resizes."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from vector_case import Constant, Given, Random, Weight, integers


def declare(cases):
    elementary(cases)
    reductions(cases)
    normalisations(cases)
    choices(cases)
    recurrent(cases)
    resizes(cases)
    folded(cases)
    structure(cases)
    integers_and_quantized(cases)


def elementary(cases):
    for operator in ("Sin", "Cos", "Tan", "Atan", "Sinh", "Asinh"):
        opset = 9 if operator.endswith("h") else 7
        cases.node(operator.lower(), opset, operator, [Random(2, 9, low=-3, high=3)])
    cases.node("cosh", 22, "Cosh", [Random(2, 9, low=-3, high=3)])
    cases.node("asin", 22, "Asin", [Random(2, 9, low=-1, high=1)])
    cases.node("acos", 7, "Acos", [Random(2, 9, low=-1, high=1)])
    cases.node("acosh", 9, "Acosh", [Random(2, 9, low=1, high=5)])
    cases.node("atanh", 9, "Atanh", [Random(2, 9, low=-0.9, high=0.9)])
    cases.node("sign", 13, "Sign", [Given([-2.5, -0.0, 0.0, 1e-30, 7.0, -np.inf])])
    cases.node("softsign", 22, "Softsign", [Random(2, 9)])
    cases.node("mish", 18, "Mish", [Random(2, 9, low=-5, high=5)])
    cases.node("celu", 12, "Celu", [Random(2, 9)])
    cases.node("celu_alpha", 12, "Celu", [Random(2, 9)], alpha=0.4)
    cases.node("mean_of_three", 13, "Mean", [Random(2, 3), Random(3), Random(2, 1)])
    for name, equation, shapes in (
        ("product", "ij,jk->ik", [(2, 3), (3, 4)]),
        ("attention", "bqhd,bkhd->bhqk", [(2, 3, 2, 4), (2, 5, 2, 4)]),
        ("implicit", "ij,jk", [(2, 3), (3, 4)]),
        ("sum", "ijk->ki", [(2, 3, 4)]),
        ("outer", "i,j->ij", [(3,), (4,)]),
        ("three", "ab,bc,cd->ad", [(2, 3), (3, 4), (4, 2)]),
        ("batches", "...ij,...jk->...ik", [(2, 1, 3, 4), (1, 5, 4, 2)]),
        ("diagonals", "...ii,i->...i", [(2, 3, 3), (3,)]),
        ("trace", "iji", [(3, 4, 3)]),
    ):
        cases.node(f"einsum_{name}", 12, "Einsum", [Random(*shape) for shape in shapes], equation=equation)
    cases.node("clip_computed_bound", 13, "Clip", [Random(3, 4), Given(-0.5), Given(0.75)])


def reductions(cases):
    for operator in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd"):
        name = operator.lower()
        cases.node(f"{name}_13", 13, operator, [Random(2, 3, 4)], axes=[1])
        cases.node(f"{name}_all", 13, operator, [Random(2, 3)], keepdims=0)
        cases.node(f"{name}_18", 18, operator, [Random(2, 5, 4), integers(-1, 1)], keepdims=0)
        cases.node(f"{name}_noop", 18, operator, [Random(2, 3)], noop_with_empty_axes=0)
    cases.node("reducelogsum_18", 18, "ReduceLogSum", [Random(2, 3, 4, low=0.5, high=4), integers(2)])
    cases.node("reducelogsum_13", 13, "ReduceLogSum", [Random(2, 3, 4, low=0.5, high=4)], axes=[0, 2])
    cases.node("reducelogsumexp_large", 18, "ReduceLogSumExp", [Given([[1000.0, 1001.0], [-2000.0, -2001.0]]), integers(1)])
    cases.node("arg_min", 13, "ArgMin", [Given([[3.0, 1.0, 1.0], [0.5, 4.0, 0.5]])], axis=1)
    cases.node("arg_min_last", 13, "ArgMin", [Given([[3.0, 1.0, 1.0], [0.5, 4.0, 0.5]])], axis=1, select_last_index=1, keepdims=0)
    for exclusive in (0, 1):
        for reverse in (0, 1):
            cases.node(
                f"cum_sum_{exclusive}{reverse}", 14, "CumSum", [Random(2, 5, 3), Constant(1, np.int64)],
                exclusive=exclusive, reverse=reverse,
            )


def normalisations(cases):
    cases.node("group_normalization_21", 21, "GroupNormalization", [Random(2, 6, 3, 3), Weight(6), Weight(6)], num_groups=2)
    cases.node("group_normalization_1d", 21, "GroupNormalization", [Random(1, 4, 5), Weight(4), Weight(4)], num_groups=4, epsilon=0.01)
    cases.node("rms_normalization", 23, "RMSNormalization", [Random(2, 3, 8), Weight(8)])
    cases.node("rms_normalization_axis", 23, "RMSNormalization", [Random(2, 3, 4), Weight(3, 4)], axis=1, epsilon=0.01)
    parameters = [Weight(3), Weight(3), Weight(3), Weight(3, low=0.5, high=2)]
    nodes = [helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "m2", "v2", "sm", "sv"])]
    cases.graph("batch_normalization_five_results", 8, nodes, {"x": Random(2, 3, 4), **dict(zip("sbmv", parameters))}, ["y"])
    cases.node("mean_variance_normalization", 13, "MeanVarianceNormalization", [Random(2, 3, 4, 4)])
    cases.node("lp_normalization", 22, "LpNormalization", [Random(2, 3, 4)], axis=1)
    cases.node("lp_normalization_1", 22, "LpNormalization", [Random(2, 3, 4)], axis=-1, p=1)


def choices(cases):
    cases.node("top_k", 11, "TopK", [Random(2, 9), integers(3)], outputs=2, axis=-1)
    cases.node("top_k_smallest", 11, "TopK", [Random(3, 7, 2), integers(4)], outputs=2, axis=1, largest=0)
    cases.node("top_k_ties", 11, "TopK", [Given([[1.0, 3.0, 3.0, 1.0, 3.0]]), integers(4)], outputs=2)
    # NaN is larger than any number, and the first of several comes first.
    odd = Given([[-5.0, 1.0, np.nan, 7.0, np.inf, np.nan], [np.nan, 2.0, np.nan, -np.inf, 2.0, np.nan]])
    cases.node("top_k_nan", 11, "TopK", [odd, integers(4)], outputs=2)
    cases.node("top_k_nan_smallest", 11, "TopK", [odd, integers(4)], outputs=2, largest=0)
    cases.node("hardmax", 13, "Hardmax", [Random(2, 3, 4)], axis=1)
    cases.node("hardmax_old", 11, "Hardmax", [Random(2, 3, 4)], axis=1)
    indices = Given([[0, 2, 1, 0], [2, 0, -1, 1]], np.int64)
    cases.node("gather_elements", 13, "GatherElements", [Random(3, 4), indices], axis=0)
    cases.node("gather_elements_constant", 13, "GatherElements", [Random(3, 4), Constant([[0, 3], [2, -1]], np.int64)], axis=1)
    cases.node("gather_nd", 13, "GatherND", [Random(2, 3, 4), Given([[0, 1], [1, -1]], np.int64)])
    cases.node("gather_nd_batch", 13, "GatherND", [Random(2, 3, 4), Given([[1], [0]], np.int64)], batch_dims=1)
    cases.node("scatter_elements", 18, "ScatterElements", [Random(3, 4), Constant([[0, 2, 1, 0]], np.int64), Random(1, 4)])
    cases.node("scatter_nd", 18, "ScatterND", [Random(3, 4), Constant([[2], [0]], np.int64), Random(2, 4)])
    cases.node("compress", 11, "Compress", [Random(3, 4), Constant([True, False, True], np.bool_)], axis=0)
    cases.node("compress_flat", 11, "Compress", [Random(2, 3), Constant([False, True, True, False, True], np.bool_)])
    values = Given([-0.5, 2.0])
    cases.node("one_hot", 11, "OneHot", [Given([[0, 2], [-1, 7]], np.int64), Constant(4, np.int64), values])
    cases.node("one_hot_axis", 11, "OneHot", [Given([0, 2, -3], np.int64), Constant(4, np.int64), values], axis=0)
    cases.node("trilu", 14, "Trilu", [Random(2, 4, 5)])
    cases.node("trilu_lower", 14, "Trilu", [Random(4, 4), Constant(-1, np.int64)], upper=0)
    cases.node("thresholded_relu", 22, "ThresholdedRelu", [Random(2, 9)], alpha=0.5)
    cases.node("shrink", 9, "Shrink", [Random(2, 9)], lambd=0.5, bias=0.25)
    cases.node("is_nan", 13, "IsNaN", [Given([1.0, np.nan, np.inf])])
    cases.node("is_inf_negative", 10, "IsInf", [Given([1.0, np.nan, np.inf, -np.inf])], detect_positive=0)
    cases.node("is_inf", 10, "IsInf", [Given([1.0, np.nan, np.inf, -np.inf])])
    cases.node("xor", 7, "Xor", [Given([True, True, False], np.bool_), Given([True, False, False], np.bool_)])
    cases.node("eye_like", 9, "EyeLike", [Random(3, 4)], k=1)


def recurrent(cases):
    def weights(gates, directions, hidden=4, inputs=3):
        return [Weight(directions, gates * hidden, inputs, low=-0.5, high=0.5), Weight(directions, gates * hidden, hidden, low=-0.5, high=0.5)]

    def bias(gates, directions, hidden=4):
        return Weight(directions, 2 * gates * hidden, low=-0.5, high=0.5)

    x = Random(5, 2, 3)
    for operator, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        name, outputs = operator.lower(), 3 if operator == "LSTM" else 2
        cases.node(f"{name}_plain", 14, operator, [x, *weights(gates, 1)], outputs=outputs, hidden_size=4)
        cases.node(f"{name}_bias", 7, operator, [x, *weights(gates, 1), bias(gates, 1)], outputs=outputs, hidden_size=4)
        cases.node(
            f"{name}_bidirectional", 22, operator, [x, *weights(gates, 2), bias(gates, 2)], outputs=outputs, hidden_size=4,
            direction="bidirectional",
        )
        states = [Random(1, 2, 4)] * (outputs - 1)
        cases.node(
            f"{name}_reverse_state", 14, operator, [x, *weights(gates, 1), bias(gates, 1), None, *states], outputs=outputs,
            hidden_size=4, direction="reverse",
        )
        cases.node(f"{name}_clip", 14, operator, [x, *weights(gates, 1)], outputs=outputs, hidden_size=4, clip=0.25)
        # Some sequences are shorter than the longest.
        lengths = Constant([5, 2], np.int32)
        cases.node(
            f"{name}_shorter", 14, operator, [x, *weights(gates, 2), bias(gates, 2), lengths], outputs=outputs, hidden_size=4,
            direction="bidirectional",
        )
        cases.node(
            f"{name}_lengths_given", 14, operator, [x, *weights(gates, 1), bias(gates, 1), Given([3, 5], np.int32)],
            outputs=outputs, hidden_size=4,
        )
    cases.node("gru_linear", 14, "GRU", [x, *weights(3, 1), bias(3, 1)], outputs=2, hidden_size=4, linear_before_reset=1)
    peepholes = Weight(1, 12, low=-0.5, high=0.5)
    cases.node(
        "lstm_peepholes", 14, "LSTM", [x, *weights(4, 1), bias(4, 1), None, None, None, peepholes], outputs=3, hidden_size=4
    )
    cases.node("rnn_relu", 14, "RNN", [x, *weights(1, 1)], outputs=2, hidden_size=4, activations=["Relu"])
    cases.node(
        "lstm_activations", 14, "LSTM", [x, *weights(4, 1)], outputs=3, hidden_size=4,
        activations=["HardSigmoid", "Tanh", "Relu"], activation_alpha=[0.25], activation_beta=[0.4],
    )
    cases.node("lstm_lengths", 14, "LSTM", [x, *weights(4, 1), None, Constant([5, 5], np.int32)], outputs=3, hidden_size=4)


def resizes(cases):
    none = Constant([], np.float32)
    for mode in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
        cases.node(
            f"resize_cubic_{mode}", 13, "Resize", [Random(1, 2, 4, 5), none, None, integers(1, 2, 7, 9)], mode="cubic",
            coordinate_transformation_mode=mode,
        )
    cases.node(
        "resize_cubic_down", 13, "Resize", [Random(1, 1, 8, 8), none, Constant([1, 1, 0.6, 0.4])], mode="cubic",
        cubic_coeff_a=-0.5, exclude_outside=1,
    )
    cases.node(
        "resize_symmetric", 19, "Resize", [Random(1, 1, 4, 5), None, Constant([1, 1, 1.7, 2.3])], mode="linear",
        coordinate_transformation_mode="half_pixel_symmetric",
    )
    cases.node(
        "resize_crop", 13, "Resize", [Random(1, 1, 5, 6), Constant([0, 0, 0.2, -0.1, 1, 1, 0.9, 1.2]), None, integers(1, 1, 4, 5)],
        mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=3.0,
    )
    # The product of extent and scale is taken in f32.
    for scale in (0.7, 0.3, 1.1, 2.9):
        word = str(scale).replace(".", "_")
        cases.node(
            f"resize_extent_{word}", 13, "Resize", [Random(1, 1, 10, 30), none, Constant([1, 1, scale, scale])], mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )
    # Up along axes that get shorter, down along others.
    for name, scales in [("smaller", [0.6, 0.45]), ("mixed", [0.6, 1.5])]:
        cases.node(f"resize_10_{name}", 10, "Resize", [Random(1, 1, 10, 9), Constant([1, 1, *scales])], mode="nearest")
    cases.node("upsample_extent", 9, "Upsample", [Random(1, 1, 10, 10), Constant([1, 1, 1.7, 2.3])], mode="nearest")


def folded(cases):
    """Constants are folded in their own type."""
    shaped = {"x": Random(2, 3), "base": Constant([9, 4], np.int64), "half": Constant(0.5), "unused": integers(0)}
    del shaped["unused"]
    cases.graph(
        "fold_pow_mixed", 15, [helper.make_node("Pow", ["base", "half"], ["s"]), helper.make_node("Reshape", ["x", "s"], ["y"])],
        shaped, ["y"],
    )
    for fmod, large in ((0, 2**62), (1, 2**52)):
        # onnxruntime takes the remainder of doubles where fmod is 1, so numbers must fit those.
        signed = Constant([-7, 7, -6, 5, -1, large], np.int64)
        by = Constant([3, -3, 3, 7, -2, -large - 1], np.int64)
        cases.graph(
            f"fold_mod_{fmod}", 13,
            [helper.make_node("Mod", ["a", "b"], ["m"], fmod=fmod), helper.make_node("Identity", ["m"], ["z"]), helper.make_node("Neg", ["x"], ["y"])],
            {"x": Random(6), "a": signed, "b": by}, ["y", "z"],
        )
    cases.graph(
        "fold_range_int32", 15,
        [helper.make_node("Range", ["a", "b", "s"], ["r"]), helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT), helper.make_node("Add", ["x", "f"], ["y"])],
        {"x": Random(4), "a": Constant(9, np.int32), "b": Constant(-2, np.int32), "s": Constant(-3, np.int32)}, ["y"],
    )
    cases.node("gemm_beta_0", 13, "Gemm", [Random(3, 4), Weight(4, 2), Constant([np.nan, np.inf])], beta=0.0)
    # Taps step over the only column.
    cases.node("max_pool_of_pads", 13, "MaxPool", [Random(1, 2, 4, 1)], kernel_shape=[2, 2], dilations=[1, 2], pads=[0, 1, 0, 1])
    cases.node("average_pool_ceil_window", 19, "AveragePool", [Random(1, 1, 2)], kernel_shape=[3], strides=[2], ceil_mode=1)


def structure(cases):
    then_branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["t"])], "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, [2, 3])]
    )
    else_branch = helper.make_graph(
        [helper.make_node("Add", ["x", "k"], ["e"])], "else", [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(np.float32([1, 2, 3]), "k")],
    )
    branches = {"then_branch": then_branch, "else_branch": else_branch}
    for word, condition in (("true", True), ("false", False)):
        cases.graph(
            f"if_{word}", 17, [helper.make_node("If", ["c"], ["y"], **branches)],
            {"x": Random(2, 3), "c": Constant(condition, np.bool_)}, ["y"],
        )
    cases.graph(
        "if_shape", 17,
        [
            helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "i"], ["d"]),
            helper.make_node("Equal", ["d", "two"], ["c"]), helper.make_node("If", ["c"], ["y"], **branches),
        ],
        {"x": Random(2, 3), "i": Constant(0, np.int64), "two": Constant(2, np.int64)}, ["y"],
    )
    cases.graph(
        "concat_empty_part", 13,
        [helper.make_node("Slice", ["x", "zero", "zero", "one"], ["none"]), helper.make_node("Concat", ["none", "x"], ["y"], axis=1)],
        {"x": Random(2, 3, 4), "zero": integers(0), "one": integers(1)}, ["y"],
    )
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [2], [3.0, 4.0]), helper.make_tensor("i", TensorProto.INT64, [2], [0, 2]), [3]
    )
    cases.graph(
        "constant_sparse", 13,
        [helper.make_node("Constant", [], ["k"], sparse_value=sparse), helper.make_node("Add", ["x", "k"], ["y"])],
        {"x": Random(2, 3)}, ["y"],
    )


def integers_and_quantized(cases):
    """Products of whole numbers, beyond 2^24 too."""
    def whole(dtype, *shape, seed=1):
        limits = np.iinfo(dtype)
        return np.random.default_rng(seed).integers(limits.min, limits.max, shape, endpoint=True, dtype=dtype)

    cases.node("dynamic_quantize", 11, "DynamicQuantizeLinear", [Random(3, 5)], outputs=3)
    cases.node("dynamic_quantize_positive", 11, "DynamicQuantizeLinear", [Given([[1.0, 3.5], [0.25, 2.0]])], outputs=3)
    cases.node("dynamic_quantize_zeros", 11, "DynamicQuantizeLinear", [Given([0.0, 0.0])], outputs=3)
    a, b = Given(whole(np.uint8, 2, 7), np.uint8), Constant(whole(np.int8, 7, 3), np.int8)
    cases.node("matmul_integer", 10, "MatMulInteger", [a, b, Given(13, np.uint8)])
    cases.node("matmul_integer_plain", 10, "MatMulInteger", [Given(whole(np.uint8, 2, 7), np.uint8), Given(whole(np.uint8, 7, 3), np.uint8)])
    long = [Given(np.full((1, 900), 255), np.uint8), Constant(np.full((900, 2), 251), np.uint8)]
    cases.node("matmul_integer_long", 10, "MatMulInteger", long)
    cases.node("matmul_integer_columns", 10, "MatMulInteger", [a, b, Constant(13, np.uint8), Constant([1, -2, 0], np.int8)])
    x, w = Given(whole(np.uint8, 1, 3, 5, 5), np.uint8), Constant(whole(np.uint8, 2, 3, 3, 3), np.uint8)
    cases.node("conv_integer", 10, "ConvInteger", [x, w, Constant(7, np.uint8), Constant(120, np.uint8)], pads=[1, 1, 1, 1])
    wide = [Given(np.full((1, 40, 4, 4), 255), np.uint8), Constant(np.full((2, 40, 3, 3), 254), np.uint8)]
    cases.node("conv_integer_wide", 10, "ConvInteger", wide)
    scale = lambda value: Constant(value, np.float32)
    zero = lambda value, dtype: Constant(value, dtype)
    cases.node(
        "qlinear_conv", 10, "QLinearConv",
        [x, scale(0.05), zero(7, np.uint8), w, scale(0.02), zero(120, np.uint8), scale(0.5), zero(128, np.uint8),
         Constant([100, -200], np.int32)],
        pads=[1, 1, 1, 1],
    )
    signed = Constant(whole(np.int8, 2, 3, 3, 3), np.int8)
    cases.node(
        "qlinear_conv_channels", 10, "QLinearConv",
        [Given(whole(np.int8, 1, 3, 5, 5), np.int8), scale(0.05), zero(-7, np.int8), signed, scale([0.02, 0.04]), zero([0, 0], np.int8),
         scale(0.7), zero(3, np.int8)],
    )
    cases.node(
        "qlinear_matmul", 10, "QLinearMatMul",
        [a, scale(0.05), zero(13, np.uint8), b, scale(0.02), zero(0, np.int8), scale(0.5), zero(128, np.uint8)],
    )
