"""Cases of matrix products, normalisations, softmax, reductions and operators that move elements."""

import numpy as np
from onnx import helper, numpy_helper
from vector_case import Constant, Given, Random, Weight, integers


def declare(cases):
    products(cases)
    normalisations(cases)
    softmax(cases)
    reductions(cases)
    joins_and_cuts(cases)
    shapes(cases)
    transpositions(cases)
    pads(cases)
    gathers(cases)
    resizes(cases)


def products(cases):
    def gemm(name, opset, a, b, c=None, **attributes):
        operands = [Random(*a), Weight(*b)] + ([] if c is None else [Weight(*c)])
        cases.node(f"gemm_{name}", opset, "Gemm", operands, **attributes)

    gemm("plain", 7, (3, 5), (5, 4), (4,))
    gemm("transpose_b", 11, (3, 5), (4, 5), (4,), transB=1)
    gemm("transpose_a", 11, (5, 3), (5, 4), (4,), transA=1)
    gemm("transpose_both", 13, (5, 3), (4, 5), (4,), transA=1, transB=1)
    gemm("alpha_beta", 13, (3, 5), (5, 4), (4,), alpha=0.5, beta=-1.5)
    gemm("all", 13, (5, 3), (4, 5), (3, 1), transA=1, transB=1, alpha=0.25, beta=2.0)
    gemm("no_c", 11, (3, 5), (5, 4))
    gemm("no_c_alpha", 13, (1, 19), (19, 7), alpha=3.0)
    gemm("c_scalar", 13, (3, 5), (5, 4), ())
    gemm("c_1x1", 13, (3, 5), (5, 4), (1, 1))
    gemm("c_row", 9, (3, 5), (5, 4), (1, 4))
    gemm("c_column", 13, (3, 5), (5, 4), (3, 1))
    gemm("c_full", 13, (3, 5), (5, 4), (3, 4))
    gemm("one_row", 17, (1, 33), (10, 33), (10,), transB=1)
    cases.node("gemm_computed_b", 13, "Gemm", [Random(3, 5), Random(5, 4), Random(4)])

    def matmul(name, opset, a, b, second=Weight):
        cases.node(f"matmul_{name}", opset, "MatMul", [Random(*a), second(*b)])

    matmul("2d", 7, (3, 5), (5, 4))
    matmul("2d_computed", 13, (3, 5), (5, 4), Random)
    matmul("batched", 9, (2, 3, 5), (2, 5, 4), Random)
    matmul("batch_times_matrix", 13, (2, 3, 5), (5, 4))
    matmul("matrix_times_batch", 13, (3, 5), (2, 5, 4), Random)
    matmul("broadcast", 13, (2, 1, 3, 5), (3, 5, 2), Random)
    matmul("broadcast_one", 13, (1, 3, 5), (4, 5, 2), Random)
    matmul("vector_matrix", 13, (5,), (5, 4))
    matmul("matrix_vector", 13, (3, 5), (5,))
    matmul("vector_batch", 13, (5,), (2, 5, 4), Random)
    matmul("batch_vector", 13, (2, 3, 5), (5,))
    matmul("vector_vector", 13, (5,), (5,))
    cases.graph(
        "matmul_add", 17, [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])],
        {"x": Random(2, 3, 7), "w": Weight(7, 5), "b": Weight(5)}, ["y"],
    )
    cases.graph(
        "gemm_free_batch", 13, [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        {"x": Random(1, 6), "w": Weight(3, 6), "b": Weight(3)}, ["y"], free_batch=True,
    )


def normalisations(cases):
    for opset in (7, 9, 14, 15):
        cases.node(
            f"batch_normalization_{opset}", opset, "BatchNormalization",
            [Random(2, 3, 4, 5), Weight(3), Weight(3), Weight(3), Weight(3, low=0.25)],
        )
    statistics = [Weight(3), Weight(3), Weight(3), Weight(3, low=0.25)]
    cases.node("batch_normalization_1d_epsilon", 15, "BatchNormalization", [Random(2, 3, 6), *statistics], epsilon=0.1)
    cases.node("batch_normalization_3d", 15, "BatchNormalization", [Random(1, 3, 2, 3, 2), *statistics])
    cases.node("batch_normalization_rank_2", 15, "BatchNormalization", [Random(4, 3), *statistics])
    cases.graph(
        "conv_batch_normalization_relu", 17,
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
            helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="bn"),
            helper.make_node("Relu", ["n"], ["y"], name="relu"),
        ],
        {"x": Random(1, 2, 5, 5), "w": Weight(4, 2, 3, 3), "s": Weight(4), "b": Weight(4), "m": Weight(4), "v": Weight(4, low=0.25)},
        ["y"],
    )
    for opset in (7, 22):
        cases.node(f"instance_normalization_{opset}", opset, "InstanceNormalization", [Random(2, 3, 4, 5), Weight(3), Weight(3)])
    cases.node("instance_normalization_1d_epsilon", 11, "InstanceNormalization", [Random(2, 3, 7), Weight(3), Weight(3)], epsilon=0.5)
    cases.node("instance_normalization_3d", 22, "InstanceNormalization", [Random(1, 2, 3, 2, 4), Weight(2), Weight(2)])
    layer = "LayerNormalization"
    cases.node("layer_normalization", 17, layer, [Random(2, 3, 8), Weight(8), Weight(8)])
    cases.node("layer_normalization_no_bias", 17, layer, [Random(2, 3, 8), Weight(8)])
    cases.node("layer_normalization_axis_1", 17, layer, [Random(2, 3, 4), Weight(3, 4), Weight(3, 4)], axis=1)
    cases.node("layer_normalization_axis_negative", 17, layer, [Random(2, 3, 4), Weight(3, 4), Weight(3, 4)], axis=-2, epsilon=0.25)


def softmax(cases):
    for operator, label in (("Softmax", "softmax"), ("LogSoftmax", "log_softmax")):
        x = Random(2, 3, 4)
        cases.node(f"{label}_11_default", 11, operator, [x])
        cases.node(f"{label}_7_axis_2", 7, operator, [x], axis=2)
        cases.node(f"{label}_11_axis_0", 11, operator, [x], axis=0)
        cases.node(f"{label}_11_axis_negative", 11, operator, [x], axis=-1)
        cases.node(f"{label}_13_default", 13, operator, [x])
        cases.node(f"{label}_13_axis_0", 13, operator, [x], axis=0)
        cases.node(f"{label}_13_axis_1", 13, operator, [Random(2, 5, 3, 2)], axis=1)
        cases.node(f"{label}_large_values", 13, operator, [Given([[1000.0, 1001.0, 998.0], [-1000.0, -1003.0, -1000.0]])])


def reductions(cases):
    for operator in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"):
        label = operator.replace("Reduce", "reduce_").lower()
        x = Random(2, 3, 4, 5)
        cases.node(f"{label}_7_all", 7, operator, [x])
        cases.node(f"{label}_11_spatial", 11, operator, [x], axes=[2, 3])
        cases.node(f"{label}_11_drop", 11, operator, [x], axes=[1], keepdims=0)
        cases.node(f"{label}_11_negative", 11, operator, [x], axes=[-1, -3])
        cases.node(f"{label}_12_first", 12, operator, [x], axes=[0], keepdims=0)
        if operator == "ReduceSum":
            cases.node(f"{label}_13", 13, operator, [x, integers(1, 3)])
            cases.node(f"{label}_13_no_op", 13, operator, [x], noop_with_empty_axes=1)
        else:
            cases.node(f"{label}_13", 13, operator, [x], axes=[1, 3])
        cases.node(f"{label}_18", 18, operator, [x, integers(-2, -1)], keepdims=0)
        cases.node(f"{label}_18_all", 18, operator, [x], keepdims=0)
        cases.node(f"{label}_18_no_op", 18, operator, [x, integers()], noop_with_empty_axes=1)
    for opset in (7, 11, 12, 13):
        cases.node(f"arg_max_{opset}", opset, "ArgMax", [Random(2, 5, 3)], axis=1)
    cases.node("arg_max_default", 13, "ArgMax", [Random(4, 3)])
    cases.node("arg_max_negative_drop", 13, "ArgMax", [Random(2, 3, 7)], axis=-1, keepdims=0)
    ties = Given([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    cases.node("arg_max_ties_first", 13, "ArgMax", [ties], axis=1)
    cases.node("arg_max_ties_last", 13, "ArgMax", [ties], axis=1, select_last_index=1)


def joins_and_cuts(cases):
    cases.node("concat_channels", 7, "Concat", [Random(1, 2, 3, 3), Random(1, 1, 3, 3), Random(1, 4, 3, 3)], axis=1)
    cases.node("concat_negative", 13, "Concat", [Random(2, 3), Random(2, 2)], axis=-1)
    cases.node("concat_first", 13, "Concat", [Random(2, 3), Weight(1, 3)], axis=0)
    cases.node("concat_one", 11, "Concat", [Random(2, 3)], axis=1)
    x = Random(2, 7, 3)
    cases.node("split_7", 7, "Split", [x], outputs=2, axis=1, split=[3, 4])
    cases.node("split_7_equal", 7, "Split", [Random(6, 2)], outputs=3)
    cases.node("split_11_negative", 11, "Split", [x], outputs=3, axis=-2, split=[1, 4, 2])
    cases.node("split_13", 13, "Split", [x, integers(2, 5)], outputs=2, axis=1)
    cases.node("split_13_equal", 13, "Split", [Random(2, 6)], outputs=2, axis=1)
    cases.node("split_18_num_outputs", 18, "Split", [Random(2, 6)], outputs=3, axis=1, num_outputs=3)
    cases.node("split_18_num_outputs_uneven", 18, "Split", [x], outputs=3, axis=1, num_outputs=3)
    cases.node("slice_7", 7, "Slice", [Random(4, 5, 6)], starts=[1, 2], ends=[3, 5], axes=[0, 2])
    cases.node("slice_7_no_axes", 7, "Slice", [Random(4, 5)], starts=[1, -3], ends=[1000, -1])
    big = 2**63 - 1

    def cut(name, opset, x, starts, ends, axes=None, steps=None):
        operands = [Random(*x), integers(*starts), integers(*ends)]
        operands.append(integers(*axes) if axes else None)
        operands.append(integers(*steps) if steps else None)
        while operands[-1] is None:
            operands.pop()
        cases.node(f"slice_{name}", opset, "Slice", operands)

    cut("10", 10, (4, 5, 6), [1, 0], [3, 5], [0, 2])
    cut("10_no_axes", 10, (4, 5), [1, 2], [4, 4])
    cut("13_steps", 13, (9, 8), [1, 0], [8, 7], [0, 1], [2, 3])
    cut("13_negative_axis", 13, (3, 4, 5), [1], [4], [-1])
    cut("13_negative_step", 13, (3, 7), [-1], [-big - 1], [1], [-1])
    cut("13_negative_step_2", 13, (3, 8), [6], [0], [1], [-2])
    cut("13_negative_step_part", 13, (5, 6), [4, 3], [1, -6], [0, 1], [-1, -3])
    cut("13_to_the_end", 13, (3, 6), [2], [big], [1])
    cut("13_beyond", 13, (3, 6), [-100], [100], [1], [1])
    cut("13_steps_without_axes", 13, (4, 6), [0, 1], [4, 6], None, [2, 2])


def shapes(cases):
    x = Random(2, 3, 4)
    for opset in (7, 14, 21):
        cases.node(f"reshape_{opset}", opset, "Reshape", [x, integers(4, 6)])
    cases.node("reshape_minus_one", 13, "Reshape", [x, integers(2, -1)])
    cases.node("reshape_zero", 13, "Reshape", [x, integers(0, 0, 2, 2)])
    cases.node("reshape_zero_minus_one", 13, "Reshape", [x, integers(0, -1)])
    cases.node("reshape_more_dimensions", 13, "Reshape", [x, integers(1, 2, 1, 12, 1)])
    cases.node("reshape_allowzero", 14, "Reshape", [x, integers(3, 8)], allowzero=1)
    for opset, axis in ((7, 1), (9, 0), (11, -1), (13, 2), (21, 3), (25, 1)):
        cases.node(f"flatten_{opset}_axis_{axis}".replace("-", "minus_"), opset, "Flatten", [Random(2, 3, 4)], axis=axis)
    y = Random(1, 3, 1, 4, 1)
    cases.node("squeeze_7", 7, "Squeeze", [y], axes=[0, 2])
    cases.node("squeeze_11_negative", 11, "Squeeze", [y], axes=[-1])
    cases.node("squeeze_11_all", 11, "Squeeze", [y])
    cases.node("squeeze_13", 13, "Squeeze", [y, integers(0, -1)])
    cases.node("squeeze_13_all", 13, "Squeeze", [y])
    cases.node("squeeze_23", 23, "Squeeze", [y, integers(2)])
    cases.node("unsqueeze_7", 7, "Unsqueeze", [x], axes=[0, 3])
    cases.node("unsqueeze_11_negative", 11, "Unsqueeze", [x], axes=[-1, 1])
    cases.node("unsqueeze_13", 13, "Unsqueeze", [x, integers(0, 4)])
    cases.node("unsqueeze_13_negative", 13, "Unsqueeze", [x, integers(-2)])
    cases.node("unsqueeze_21", 21, "Unsqueeze", [x, integers(1)])
    cases.node("expand_8", 8, "Expand", [Random(3, 1), integers(2, 3, 4)])
    cases.node("expand_13_smaller_shape", 13, "Expand", [Random(2, 3, 4), integers(1, 4)])
    cases.node("expand_scalar", 13, "Expand", [Random(), integers(2, 3)])
    cases.node("shape_7", 7, "Shape", [x])
    cases.node("shape_15_range", 15, "Shape", [Random(2, 3, 4, 5)], start=1, end=-1)
    cases.node("shape_25", 25, "Shape", [x])
    value = numpy_helper.from_array(np.array([2.5], dtype=np.float32))
    cases.graph(
        "constant_of_shape_add", 9,
        [helper.make_node("ConstantOfShape", ["s"], ["c"], value=value), helper.make_node("Add", ["x", "c"], ["y"])],
        {"x": Random(2, 3), "s": integers(2, 3)}, ["y"],
    )
    cases.graph(
        "constant_of_shape_default", 21,
        [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Sub", ["c", "x"], ["y"])],
        {"x": Random(3), "s": integers(2, 1)}, ["y"],
    )
    constant = numpy_helper.from_array(np.array([[1.5], [-2.0]], dtype=np.float32))
    for opset in (7, 13, 25):
        cases.graph(
            f"constant_{opset}", opset,
            [helper.make_node("Constant", [], ["c"], value=constant), helper.make_node("Mul", ["x", "c"], ["y"])],
            {"x": Random(2, 3)}, ["y"],
        )
    cases.graph(
        "constant_12_floats", 12,
        [
            helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0, -3.0]),
            helper.make_node("Constant", [], ["d"], value_float=0.5),
            helper.make_node("Constant", [], ["e"], value_ints=[3, 2]),
            helper.make_node("Mul", ["x", "c"], ["m"]), helper.make_node("Add", ["m", "d"], ["a"]),
            helper.make_node("Reshape", ["a", "e"], ["y"]),
        ],
        {"x": Random(2, 3)}, ["y"],
    )
    # How exporters flatten: the target shape is computed from the input's own shape.
    cases.graph(
        "shape_arithmetic", 13,
        [
            helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
            helper.make_node("Unsqueeze", ["n", "axis"], ["u"]), helper.make_node("Concat", ["u", "rest"], ["t"], axis=0),
            helper.make_node("Reshape", ["x", "t"], ["y"]),
        ],
        {"x": Random(1, 3, 4), "zero": Constant(0, np.int64), "axis": integers(0), "rest": integers(-1)},
        ["y"], free_batch=True,
    )


def transpositions(cases):
    cases.node("transpose_default", 7, "Transpose", [Random(2, 3, 4)])
    cases.node("transpose_nchw_to_nhwc", 13, "Transpose", [Random(1, 3, 4, 5)], perm=[0, 2, 3, 1])
    cases.node("transpose_nhwc_to_nchw", 13, "Transpose", [Random(1, 4, 5, 3)], perm=[0, 3, 1, 2])
    cases.node("transpose_5d", 21, "Transpose", [Random(2, 3, 2, 4, 2)], perm=[4, 1, 3, 0, 2])
    cases.node("transpose_identity", 25, "Transpose", [Random(2, 3)], perm=[0, 1])
    cases.node("space_to_depth", 7, "SpaceToDepth", [Random(1, 2, 4, 6)], blocksize=2)
    cases.node("space_to_depth_3", 13, "SpaceToDepth", [Random(2, 1, 6, 3)], blocksize=3)
    cases.node("depth_to_space", 7, "DepthToSpace", [Random(1, 8, 2, 3)], blocksize=2)
    cases.node("depth_to_space_dcr", 11, "DepthToSpace", [Random(1, 8, 2, 3)], blocksize=2, mode="DCR")
    cases.node("depth_to_space_crd", 13, "DepthToSpace", [Random(2, 12, 2, 3)], blocksize=2, mode="CRD")
    # A channel shuffle as ShuffleNet has it.
    cases.graph(
        "channel_shuffle", 13,
        [
            helper.make_node("Reshape", ["x", "s"], ["a"]), helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3, 4]),
            helper.make_node("Reshape", ["b", "t"], ["y"]),
        ],
        {"x": Random(1, 6, 2, 3), "s": integers(1, 2, 3, 2, 3), "t": integers(1, 6, 2, 3)}, ["y"],
    )


def pads(cases):
    x = Random(1, 2, 4, 5)
    amounts = [0, 0, 1, 2, 0, 0, 3, 1]
    for mode in ("constant", "reflect", "edge"):
        cases.node(f"pad_10_{mode}", 10, "Pad", [x], mode=mode, pads=amounts)
        cases.node(f"pad_11_{mode}", 11, "Pad", [x, integers(*amounts)], mode=mode)
        cases.node(f"pad_13_{mode}", 13, "Pad", [x, integers(*amounts)], mode=mode)
    cases.node("pad_7_value", 7, "Pad", [x], pads=amounts, value=1.5)
    cases.node("pad_13_value", 13, "Pad", [x, integers(*amounts), Constant(-0.5)])
    cases.node("pad_13_channels", 13, "Pad", [x, integers(0, 1, 0, 0, 0, 2, 0, 0)])
    cases.node("pad_18_axes", 18, "Pad", [x, integers(1, 2, 0, 1), None, integers(2, -1)])
    cases.node("pad_25_axes_value", 25, "Pad", [x, integers(1, 2), Constant(3.0), integers(3)])
    cases.graph(
        "pad_conv", 13,
        [helper.make_node("Pad", ["x", "p"], ["q"], name="pad"), helper.make_node("Conv", ["q", "w"], ["y"], name="conv", pads=[0, 1, 1, 0])],
        {"x": Random(1, 2, 5, 5), "p": integers(0, 0, 1, 0, 0, 0, 2, 1), "w": Weight(3, 2, 3, 3)}, ["y"],
    )


def gathers(cases):
    cases.node("gather_axis_0", 7, "Gather", [Random(5, 3), integers(4, 0, 2)])
    cases.node("gather_axis_1", 11, "Gather", [Random(2, 5, 3), Constant([[0, 4], [1, 1]], np.int64)], axis=1)
    cases.node("gather_negative_index", 13, "Gather", [Random(5, 3), integers(-1, 1, -5)])
    cases.node("gather_scalar_index", 13, "Gather", [Random(2, 5, 3), Constant(2, np.int64)], axis=-2)
    cases.node("gather_i32_indices", 13, "Gather", [Random(4, 3), Constant([3, 1], np.int32)])
    cases.node("gather_computed_indices", 13, "Gather", [Weight(6, 4), Given([5, 0, -1], np.int64)])


def resizes(cases):
    def resize(name, opset, x, scales=None, sizes=None, **attributes):
        operands = [Random(*x)]
        if opset == 10:
            operands.append(Constant(scales))
        else:
            # Resize-11 requires the region of interest, empty if unused.
            operands.append(Constant([]) if opset < 13 else None)
            if scales is not None:
                operands.append(Constant(scales))
            else:
                operands += [Constant([]) if opset < 13 else None, integers(*sizes)]
        cases.node(f"resize_{name}", opset, "Resize", operands, **attributes)

    image = (1, 2, 4, 5)
    resize("10_nearest", 10, image, [1, 1, 2, 3], mode="nearest")
    resize("10_linear", 10, image, [1, 1, 2, 2], mode="linear")
    for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        for opset in (11, 13, 18):
            # Scales that are no whole numbers, larger on one axis and smaller on the other, show each formula.
            scales = [1.0, 1.0, 1.75, 0.6]
            resize(f"{opset}_linear_{coordinates}", opset, image, scales, mode="linear", coordinate_transformation_mode=coordinates)
            resize(f"{opset}_nearest_{coordinates}", opset, image, scales, mode="nearest", coordinate_transformation_mode=coordinates)
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
            resize(
                f"13_nearest_{coordinates}_{rounding}", 13, (1, 1, 6, 4), [1.0, 1.0, 0.5, 2.5], mode="nearest",
                coordinate_transformation_mode=coordinates, nearest_mode=rounding,
            )
        resize(f"13_linear_sizes_{coordinates}", 13, image, sizes=[1, 2, 7, 3], mode="linear", coordinate_transformation_mode=coordinates)
        resize(f"19_nearest_sizes_{coordinates}", 19, image, sizes=[1, 2, 9, 2], mode="nearest", coordinate_transformation_mode=coordinates)
    resize("11_nearest_sizes", 11, image, sizes=[1, 2, 8, 10], mode="nearest")
    resize("13_nearest_upsample_2", 13, image, [1.0, 1.0, 2.0, 2.0], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    resize("13_linear_to_one", 13, image, sizes=[1, 2, 1, 1], mode="linear", coordinate_transformation_mode="pytorch_half_pixel")
    resize("13_linear_1d", 13, (1, 2, 6), [1.0, 1.0, 1.5], mode="linear")
    resize("13_nearest_3d", 13, (1, 1, 2, 3, 2), [1.0, 1.0, 2.0, 1.5, 3.0], mode="nearest")
    cases.node("resize_18_axes", 18, "Resize", [Random(*image), None, Constant([2.0, 1.5])], mode="linear", axes=[2, 3])
    cases.node("upsample_9", 9, "Upsample", [Random(*image), Constant([1.0, 1.0, 2.0, 3.0])], mode="nearest")
    cases.node("upsample_7", 7, "Upsample", [Random(*image)], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
