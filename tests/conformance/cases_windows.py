"""Cases of operators with a window: convolutions, pools, LRN."""

from vector_case import Random, Weight


def declare(cases):
    convolutions(cases)
    transposed(cases)
    pools(cases)
    local_response(cases)


def convolutions(cases):
    def conv(name, opset, x, w, bias=True, **attributes):
        operands = [Random(*x), Weight(*w)] + ([Weight(w[0])] if bias else [])
        cases.node(f"conv_{name}", opset, "Conv", operands, **attributes)

    conv("1d", 11, (1, 3, 17), (4, 3, 5))
    conv("1d_stride_pads", 11, (2, 3, 17), (4, 3, 4), pads=[2, 1], strides=[3])
    conv("1d_dilated", 22, (1, 2, 20), (3, 2, 3), dilations=[4], pads=[4, 4])
    conv("1d_depthwise", 17, (1, 4, 16), (4, 1, 9), group=4, pads=[4, 4])
    conv("1d_same_upper", 7, (1, 2, 15), (3, 2, 4), auto_pad="SAME_UPPER", strides=[2])
    conv("2d", 7, (1, 3, 7, 9), (5, 3, 3, 3))
    conv("2d_no_bias", 11, (1, 3, 7, 9), (5, 3, 3, 3), bias=False)
    conv("2d_pointwise", 17, (1, 9, 5, 7), (11, 9, 1, 1))
    conv("2d_pointwise_stride", 17, (1, 6, 7, 7), (5, 6, 1, 1), strides=[2, 2])
    conv("2d_padded", 11, (1, 3, 8, 8), (4, 3, 3, 3), pads=[1, 1, 1, 1])
    conv("2d_uneven_pads", 11, (1, 2, 6, 7), (4, 2, 3, 4), pads=[0, 2, 3, 1])
    conv("2d_strided", 11, (1, 3, 11, 10), (4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 3])
    conv("2d_dilated", 11, (1, 2, 11, 12), (3, 2, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3])
    conv("2d_dilated_strided", 22, (1, 2, 13, 12), (3, 2, 3, 2), dilations=[3, 2], strides=[2, 2], pads=[1, 0, 2, 1])
    conv("2d_batch", 11, (3, 2, 5, 5), (4, 2, 3, 3), pads=[1, 1, 1, 1])
    conv("2d_grouped", 11, (1, 6, 6, 6), (4, 3, 3, 3), group=2)
    conv("2d_grouped_uneven", 17, (1, 9, 5, 5), (6, 3, 2, 2), group=3, pads=[1, 0, 0, 1])
    conv("2d_depthwise", 11, (1, 5, 9, 8), (5, 1, 3, 3), group=5, pads=[1, 1, 1, 1])
    conv("2d_depthwise_stride", 17, (1, 8, 9, 9), (8, 1, 3, 3), group=8, pads=[1, 1, 1, 1], strides=[2, 2])
    conv("2d_depthwise_multiplier", 17, (1, 3, 7, 7), (6, 1, 3, 3), group=3)
    conv("2d_depthwise_dilated", 22, (1, 4, 11, 11), (4, 1, 3, 3), group=4, dilations=[2, 2], pads=[2, 2, 2, 2])
    conv("2d_large_kernel", 11, (1, 2, 12, 12), (3, 2, 7, 7), pads=[3, 3, 3, 3], strides=[2, 2])
    conv("2d_kernel_is_input", 11, (1, 4, 5, 6), (7, 4, 5, 6))
    conv("2d_1x7", 11, (1, 3, 5, 9), (4, 3, 1, 7), pads=[0, 3, 0, 3])
    conv("2d_7x1", 11, (1, 3, 9, 5), (4, 3, 7, 1), pads=[3, 0, 3, 0])
    conv("2d_same_upper", 11, (1, 3, 7, 8), (4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    conv("2d_same_lower", 11, (1, 3, 7, 8), (4, 3, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2])
    conv("2d_same_upper_even_kernel", 11, (1, 2, 6, 6), (3, 2, 4, 2), auto_pad="SAME_UPPER")
    conv("2d_same_lower_even_kernel", 11, (1, 2, 6, 6), (3, 2, 4, 2), auto_pad="SAME_LOWER")
    conv("2d_same_upper_stride_3", 11, (1, 2, 8, 8), (3, 2, 2, 2), auto_pad="SAME_UPPER", strides=[3, 3])
    conv("2d_valid", 11, (1, 3, 7, 8), (4, 3, 3, 2), auto_pad="VALID", strides=[2, 1])
    conv("2d_not_set", 7, (1, 3, 6, 6), (4, 3, 3, 3), auto_pad="NOTSET", pads=[1, 0, 1, 0])
    conv("3d", 11, (1, 2, 5, 6, 7), (3, 2, 3, 3, 3))
    conv("3d_padded_strided", 11, (1, 2, 6, 7, 5), (3, 2, 3, 3, 3), pads=[1, 1, 1, 1, 0, 1], strides=[2, 1, 2])
    conv("3d_dilated", 22, (1, 1, 7, 7, 6), (2, 1, 2, 3, 2), dilations=[3, 2, 1])
    conv("3d_grouped", 17, (1, 4, 4, 4, 5), (4, 2, 2, 2, 2), group=2, pads=[0, 1, 0, 1, 0, 0])
    conv("3d_depthwise", 17, (1, 3, 4, 5, 5), (3, 1, 3, 3, 3), group=3, pads=[1, 1, 1, 1, 1, 1])
    conv("3d_same_lower", 11, (1, 2, 5, 4, 5), (2, 2, 2, 3, 2), auto_pad="SAME_LOWER", strides=[2, 2, 1])


def transposed(cases):
    def conv(name, opset, x, w, bias=None, **attributes):
        operands = [Random(*x), Weight(*w)] + ([Weight(bias)] if bias else [])
        cases.node(f"conv_transpose_{name}", opset, "ConvTranspose", operands, **attributes)

    conv("1d", 11, (1, 3, 6), (3, 2, 4), bias=2, strides=[2])
    conv("1d_output_padding", 11, (1, 2, 5), (2, 3, 3), strides=[3], output_padding=[2], pads=[1, 0])
    conv("2d", 7, (1, 3, 4, 5), (3, 2, 3, 3))
    conv("2d_bias", 11, (1, 3, 4, 5), (3, 2, 3, 3), bias=2)
    conv("2d_strided", 11, (1, 2, 4, 4), (2, 3, 3, 3), bias=3, strides=[2, 3])
    conv("2d_pads", 11, (1, 2, 5, 4), (2, 3, 3, 3), strides=[2, 2], pads=[1, 0, 1, 2])
    conv("2d_output_padding", 11, (1, 2, 4, 4), (2, 3, 3, 3), bias=3, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    conv("2d_output_shape", 11, (1, 2, 4, 4), (2, 2, 3, 3), strides=[2, 2], output_shape=[8, 10])
    conv("2d_grouped", 11, (1, 4, 4, 4), (4, 3, 3, 2), bias=6, group=2, strides=[2, 1])
    conv("2d_depthwise", 17, (1, 3, 4, 4), (3, 1, 4, 4), group=3, strides=[2, 2], pads=[1, 1, 1, 1])
    conv("2d_dilated", 22, (1, 2, 4, 5), (2, 2, 3, 3), dilations=[2, 2], strides=[1, 2])
    conv("2d_same_upper", 11, (1, 2, 4, 5), (2, 2, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    conv("2d_same_lower", 11, (1, 2, 4, 5), (2, 2, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2])
    conv("2d_valid", 11, (1, 2, 4, 5), (2, 2, 3, 2), auto_pad="VALID", strides=[2, 2])
    conv("2d_kernel_2_stride_2", 17, (2, 3, 3, 4), (3, 4, 2, 2), bias=4, strides=[2, 2])
    conv("3d", 11, (1, 2, 3, 3, 4), (2, 2, 2, 3, 2), bias=2, strides=[1, 2, 2], pads=[0, 1, 0, 1, 1, 0])


def pools(cases):
    def pool(kind, name, opset, x, **attributes):
        operator = {"max": "MaxPool", "average": "AveragePool"}[kind]
        cases.node(f"{kind}_pool_{name}", opset, operator, [Random(*x)], **attributes)

    both = ("max", "average")
    for kind in both:
        pool(kind, "1d", 7, (1, 3, 11), kernel_shape=[3], strides=[2])
        pool(kind, "2d", 8, (1, 3, 6, 7), kernel_shape=[2, 2])
        pool(kind, "2d_strided", 11, (1, 3, 9, 8), kernel_shape=[3, 2], strides=[2, 2])
        pool(kind, "2d_pads", 11, (1, 2, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 2])
        pool(kind, "2d_batch", 12 if kind == "max" else 11, (3, 2, 5, 5), kernel_shape=[2, 2], strides=[2, 2])
        pool(kind, "2d_ceil", 10, (1, 2, 6, 7), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
        pool(kind, "2d_ceil_pads", 22, (1, 2, 8, 7), kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 0, 1], ceil_mode=1)
        # The last window would start in the padding after the input: it does not count.
        pool(kind, "2d_ceil_last_window_outside", 22, (1, 1, 4, 4), kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1)
        pool(kind, "2d_same_upper", 7, (1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
        pool(kind, "2d_same_lower", 11, (1, 2, 7, 8), kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_LOWER")
        pool(kind, "2d_valid", 11, (1, 2, 7, 8), kernel_shape=[3, 3], strides=[2, 3], auto_pad="VALID")
        pool(kind, "3d", 11, (1, 2, 5, 6, 4), kernel_shape=[2, 3, 2], strides=[1, 2, 2])
        # Larger than the input with its pads, by less than a step: onnxruntime rounds the number of steps towards zero.
        pool(kind, "2d_window_beyond_pads", 19, (1, 2, 2, 5), kernel_shape=[3, 2], dilations=[2, 1], strides=[2, 2], pads=[1, 0, 1, 0])
        pool(kind, "3d_pads_ceil", 22, (1, 2, 5, 5, 6), kernel_shape=[2, 2, 3], strides=[2, 2, 2], pads=[0, 1, 1, 0, 0, 1], ceil_mode=1)
    pool("max", "1d_dilated", 10, (1, 2, 13), kernel_shape=[3], dilations=[3], strides=[2])
    pool("max", "2d_dilated", 12, (1, 2, 9, 9), kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 1, 1])
    pool("max", "3d_dilated", 22, (1, 1, 6, 6, 6), kernel_shape=[2, 2, 2], dilations=[2, 3, 1])
    pool("average", "2d_count_include_pad", 7, (1, 2, 6, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    pool("average", "2d_uneven_count_include_pad", 11, (1, 2, 6, 5), kernel_shape=[3, 2], pads=[2, 0, 1, 1], count_include_pad=1)
    pool("average", "2d_ceil_count_include_pad", 19, (1, 2, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 0, 0], ceil_mode=1, count_include_pad=1)
    pool("average", "2d_window_beyond_pads_count_include_pad", 19, (1, 2, 2, 5), kernel_shape=[3, 2], dilations=[2, 1], strides=[2, 2], pads=[1, 0, 1, 0], count_include_pad=1)
    pool("average", "2d_window_beyond_pads_count_include_pad_18", 18, (1, 2, 2, 5), kernel_shape=[5, 2], strides=[2, 2], pads=[1, 0, 1, 0], count_include_pad=1)
    pool("average", "2d_dilated", 19, (1, 2, 9, 9), kernel_shape=[2, 3], dilations=[3, 2], pads=[1, 0, 1, 1])
    pool("average", "3d_count_include_pad", 22, (1, 2, 4, 5, 4), kernel_shape=[3, 2, 2], pads=[1, 1, 0, 1, 0, 1], count_include_pad=1)
    for operator, label in (("GlobalAveragePool", "global_average_pool"), ("GlobalMaxPool", "global_max_pool")):
        cases.node(f"{label}_1d", 7, operator, [Random(2, 3, 9)])
        cases.node(f"{label}_2d", 17, operator, [Random(2, 3, 5, 7)])
        cases.node(f"{label}_3d", 22, operator, [Random(1, 2, 3, 4, 5)])


def local_response(cases):
    cases.node("lrn", 7, "LRN", [Random(1, 7, 3, 4)], size=5, alpha=0.02, beta=0.75, bias=2.0)
    cases.node("lrn_defaults", 13, "LRN", [Random(2, 4, 3, 3)], size=3)
    cases.node("lrn_half_power", 13, "LRN", [Random(1, 6, 2, 3)], size=3, alpha=0.5, beta=0.5, bias=1.0)
    cases.node("lrn_wide", 13, "LRN", [Random(1, 3, 2, 2)], size=9, alpha=1.0, beta=1.0)
