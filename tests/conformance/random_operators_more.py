"""Families of random operators that choose, move and resize, of recurrent layers, attention and quantized numbers."""

import numpy as np

KINDS = [np.float32, np.float32, np.float64, np.int32, np.int64]


def reduction(b):
    rank = b.random.randint(1, 4)
    shape = b.extents(rank, 1, 7)
    dtype = b.pick(np.float32, np.float32, np.int32, np.int64)
    axis = b.random.randint(-rank, rank - 1)
    kind = b.random.random()
    if kind < 0.65:
        op = b.pick("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum")
        # Roots and logarithms of whole numbers are refused.
        dtype = np.float32 if op in ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp") else dtype
        x = b.input(shape, dtype, -5, 5)
        if op == "ReduceLogSum":
            x = b.node("Abs", [x])
        axes = [at - (rank if b.chance(0.3) else 0) for at in b.random.sample(range(rank), b.random.randint(1, rank))]
        return b.result(b.node(op, [x, b.ints(*axes)] if b.chance(0.85) else [x], keepdims=b.pick(0, 1)))
    if kind < 0.8:
        return b.result(b.node(b.pick("ArgMax", "ArgMin"), [b.input(shape, dtype, -3, 3)], axis=axis, keepdims=b.pick(0, 1), select_last_index=b.pick(0, 1)))
    if kind < 0.9:
        return b.result(b.node("CumSum", [b.input(shape, dtype), b.constant(np.array(axis, np.int64))], exclusive=b.pick(0, 1), reverse=b.pick(0, 1)))
    count = b.random.randint(1, shape[axis])
    b.result(*b.node("TopK", [b.input(shape), b.ints(count)], 2, axis=axis, largest=b.pick(0, 1)))


def movement(b):
    rank = b.random.randint(1, 4)
    shape = b.extents(rank, 1, 6)
    dtype = b.pick(*KINDS, np.uint8, np.int8, np.bool_, np.float16)
    x = b.input(shape, dtype)
    axis = b.random.randint(-rank, rank - 1)
    kind = b.pick("Transpose", "Reshape", "Slice", "Pad", "Concat", "Split", "Tile", "Expand", "Squeeze", "Depth", "Flatten", "Trilu", "Reverse", "Unsqueeze", "CenterCropPad")
    if kind == "Transpose":
        y = b.node("Transpose", [x], perm=b.random.sample(range(rank), rank))
    elif kind == "Reshape":
        total = int(np.prod(shape))
        first = b.pick(*[n for n in range(1, total + 1) if total % n == 0])
        y = b.node("Reshape", [x, b.ints(*b.pick([first, -1], [-1, first, 1], [-1]))])
    elif kind == "Slice":
        bounds = [sorted(b.random.sample(range(extent + 1), 2)) for extent in shape]
        steps = [b.pick(1, 1, 2) for _ in shape]
        begin, end = [low for low, _ in bounds], [high for _, high in bounds]
        if b.chance(0.15):
            end[axis] = begin[axis]
        if b.chance(0.3):
            begin[axis], end[axis], steps[axis] = -1, -(2**31), -1
        y = b.node("Slice", [x, b.ints(*begin), b.ints(*end), b.ints(*range(rank)), b.ints(*steps)])
    elif kind == "Pad":
        mode = b.pick("constant", "edge", "reflect", "wrap")
        most = [2 if mode in ("constant", "edge") else max(0, min(2, extent - 1)) for extent in shape]
        pads = [b.random.randint(-1 if mode == "constant" and shape[at % rank] > 2 else 0, most[at % rank]) for at in range(2 * rank)]
        operands = [x, b.ints(*pads)]
        if mode == "constant" and b.chance(0.5):
            operands.append(b.constant(np.array(1, dtype)))
        y = b.node("Pad", operands, mode=mode)
    elif kind == "Concat":
        others = [list(shape) for _ in range(b.random.randint(1, 3))]
        for other in others:
            other[axis] = b.random.randint(0, 4)
        y = b.node("Concat", [x, *[b.either(other, dtype) for other in others]], axis=axis)
    elif kind == "Split":
        first = b.random.randint(1, max(1, shape[axis] - 1))
        if first == shape[axis]:
            y = b.node("Identity", [x])
        else:
            return b.result(*b.node("Split", [x, b.ints(first, shape[axis] - first)], 2, axis=axis))
    elif kind == "Tile":
        y = b.node("Tile", [x, b.ints(*[b.pick(1, 1, 2, 3) for _ in shape])])
    elif kind == "Expand":
        narrow = [extent if b.chance(0.6) else 1 for extent in shape]
        y = b.node("Expand", [b.input(narrow, dtype), b.ints(*b.pick(shape, [2, *shape]))])
    elif kind == "Squeeze":
        y = b.node("Squeeze", [b.node("Unsqueeze", [x, b.ints(0, rank + 1)]), b.ints(0)])
    elif kind == "Unsqueeze":
        y = b.node("Unsqueeze", [x, b.ints(b.random.randint(-rank - 1, rank))])
    elif kind == "Flatten":
        y = b.node("Flatten", [x], axis=axis)
    elif kind == "Depth":
        block = b.pick(1, 2, 3)
        rows, columns, depth = b.extents(3, 1, 3)
        if b.chance(0.5):
            y = b.node("DepthToSpace", [b.input([1, depth * block * block, rows, columns])], blocksize=block, mode=b.pick("DCR", "CRD"))
        else:
            y = b.node("SpaceToDepth", [b.input([1, depth, rows * block, columns * block])], blocksize=block)
    elif kind == "Trilu":
        y = b.node("Trilu", [b.input([*b.extents(b.pick(0, 1)), 4, 5], dtype), b.constant(np.array(b.random.randint(-2, 2), np.int64))], upper=b.pick(0, 1))
    elif kind == "Reverse":
        steps, batch = b.extents(2, 2, 5)
        lengths = b.feed(b.numbers.integers(1, steps, batch, endpoint=True).astype(np.int64))
        y = b.node("ReverseSequence", [b.input([steps, batch, 3]), lengths], time_axis=0, batch_axis=1)
    else:
        y = b.node("CenterCropPad", [x, b.ints(*b.extents(rank, 1, 7))])
    b.result(y)


def choice(b):
    rank = b.random.randint(1, 3)
    shape = b.extents(rank, 2, 6)
    dtype = b.pick(*KINDS)
    axis = b.random.randint(-rank, rank - 1)
    kind = b.pick("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "OneHot", "Compress", "ScatterElements", "ScatterND", "TensorScatter")
    index = b.pick(np.int64, np.int64, np.int32)

    def indices(shape, extent):
        return b.either(shape, index, -extent, extent - 1)

    if kind == "Gather":
        y = b.node(kind, [b.either(shape, dtype), indices(b.extents(b.random.randint(0, 2), 1, 4), shape[axis])], axis=axis)
    elif kind == "GatherElements":
        own = list(shape)
        own[axis] = b.random.randint(1, 5)
        y = b.node(kind, [b.input(shape, dtype), indices(own, shape[axis])], axis=axis)
    elif kind == "GatherND":
        depth = b.random.randint(1, rank)
        outer = b.extents(b.random.randint(0, 2), 1, 4)
        places = np.stack([b.numbers.integers(-extent, extent, outer) for extent in shape[:depth]], -1)
        y = b.node(kind, [b.input(shape, dtype), b.feed(places) if b.chance(0.5) else b.constant(places)])
    elif kind == "ScatterElements":
        own = [b.random.randint(1, extent) for extent in shape]
        reduction = b.pick("none", "add", "mul", "min", "max")
        if reduction == "none":
            # Each element is replaced once, so that the order does not count.
            own[axis] = b.random.randint(1, shape[axis])
            places = b.numbers.permuted(np.broadcast_to(np.arange(shape[axis]).reshape([-1] + [1] * (len(shape[axis:]) - 1 if axis < 0 else rank - axis - 1)), shape), axis=axis)
            places = places[tuple(slice(extent) for extent in own)].astype(index)
        else:
            places = b.numbers.integers(-shape[axis], shape[axis], own).astype(index)
        places = b.feed(places) if b.chance(0.6) else b.constant(places)
        y = b.node(kind, [b.either(shape, dtype), places, b.input(own, dtype, -3, 3)], axis=axis, reduction=reduction)
    elif kind == "ScatterND":
        depth = b.random.randint(1, rank)
        total = int(np.prod(shape[:depth]))
        reduction = b.pick("none", "add", "mul", "min", "max")
        flat = b.numbers.permutation(total)[: b.random.randint(1, total)] if reduction == "none" else b.numbers.integers(0, total, b.random.randint(1, 6))
        places = np.stack(np.unravel_index(flat, shape[:depth]), -1).astype(np.int64)
        updates = b.input([len(flat), *shape[depth:]], dtype, -3, 3)
        y = b.node(kind, [b.either(shape, dtype), b.feed(places) if b.chance(0.6) else b.constant(places), updates], reduction=reduction)
    elif kind == "OneHot":
        depth = b.random.randint(2, 6)
        values = b.constant(np.array([0, 1], np.float32))
        y = b.node(kind, [b.input(shape, np.int64, -depth, depth - 1), b.constant(np.array(depth, np.int64)), values], axis=b.pick(-1, 0, axis))
    else:
        chosen = b.constant(b.numbers.random(shape[axis]) > 0.3)
        y = b.node("Compress", [b.input(shape, dtype), chosen], axis=axis)
    b.result(y)


def sampling(b):
    kind = b.pick("Resize", "Resize", "Resize", "GridSample", "RoiAlign", "AffineGrid", "NonMaxSuppression")
    places = b.extents(2, 3, 8)
    if kind == "GridSample":
        grid = b.feed(b.numbers.uniform(-1.2, 1.2, [1, *b.extents(2, 1, 5), 2]).astype(np.float32))
        x = b.input([1, b.random.randint(1, 3), *places])
        y = b.node(kind, [x, grid], mode=b.pick("linear", "nearest", "cubic"), padding_mode=b.pick("zeros", "border", "reflection"), align_corners=b.pick(0, 1))
    elif kind == "RoiAlign":
        begin = b.numbers.uniform(0, 4, [3, 2])
        regions = np.concatenate([begin, begin + b.numbers.uniform(1, 4, [3, 2])], 1).astype(np.float32)
        batch = b.constant(np.zeros(3, np.int64))
        attributes = {"output_height": b.pick(1, 2, 3), "output_width": b.pick(1, 2), "sampling_ratio": b.pick(0, 1, 2, 3), "spatial_scale": b.pick(1.0, 0.5)}
        y = b.node(kind, [b.input([1, 2, 9, 9]), b.feed(regions) if b.chance(0.6) else b.constant(regions), batch], mode=b.pick("avg", "max"), coordinate_transformation_mode=b.pick("half_pixel", "output_half_pixel"), **attributes)
    elif kind == "NonMaxSuppression":
        # Multiples of a quarter: many ties, boxes without an area, shares that are the threshold.
        images, classes, count, most = b.random.randint(1, 2), b.random.randint(1, 3), b.random.randint(1, 30), b.random.randint(0, 9)
        quarters = lambda *shape: (b.numbers.integers(0, 9, shape) / 4).astype(np.float32)
        operands = [b.feed(quarters(images, count, 4)), b.feed(quarters(images, classes, count)), b.ints(most)]
        operands += [b.constant(np.array([b.pick(0, 0.25, 0.5, 0.7, 1)], np.float32))]
        operands += [b.constant(np.array([b.pick(-1, 0.5, 3)], np.float32))] if b.chance(0.6) else []
        kept = b.node(kind, operands, center_point_box=b.pick(0, 1))
        # As many rows as there can be, whatever is kept.
        rows = images * classes * most + 1
        kept = b.node("Concat", [kept, b.constant(np.full((rows, 3), -1, np.int64))], axis=0)
        y = b.node("Slice", [kept, b.ints(0), b.ints(rows), b.ints(0)])
    elif kind == "AffineGrid":
        y = b.node(kind, [b.input([2, 2, 3]), b.ints(2, 3, *places)], align_corners=b.pick(0, 1))
    else:
        mode = b.pick("nearest", "linear", "cubic")
        attributes = {"mode": mode, "coordinate_transformation_mode": b.pick("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")}
        if mode == "nearest":
            attributes["nearest_mode"] = b.pick("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        shape = [1, b.random.randint(1, 4), *places]
        if b.chance(0.5):
            y = b.node(kind, [b.input(shape), "", b.constant(np.array([1, 1, b.pick(2, 0.5, 1.5), b.pick(2, 3, 0.75)], np.float32))], **attributes)
        else:
            y = b.node(kind, [b.input(shape), "", "", b.ints(1, shape[1], *b.extents(2, 1, 12))], **attributes)
    b.result(y)


def recurrent(b):
    kind, gates = b.pick(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    steps, batch, width, hidden = b.extents(4, 1, 6)
    direction = b.pick("forward", "reverse", "bidirectional")
    ways = 2 if direction == "bidirectional" else 1
    operands = [b.input([steps, batch, width]), b.weight([ways, gates * hidden, width]), b.weight([ways, gates * hidden, hidden])]
    operands.append(b.weight([ways, 2 * gates * hidden], 0.5) if b.chance(0.7) else "")
    attributes = {"hidden_size": hidden, "direction": direction}
    if b.chance(0.5):
        operands += ["", b.input([ways, batch, hidden])]
        if kind == "LSTM":
            operands.append(b.input([ways, batch, hidden]))
            if b.chance(0.4):
                operands.append(b.weight([ways, 3 * hidden], 0.5))
    if kind == "GRU":
        attributes["linear_before_reset"] = b.pick(0, 1)
    if b.chance(0.2):
        attributes["clip"] = 0.8
    b.result(*b.node(kind, operands, 3 if kind == "LSTM" else 2, **attributes))


def quantized(b):
    kind = b.pick("QDQ", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearAdd")
    kinds = [np.uint8, np.int8]
    number = lambda dtype, low=0, high=5: b.constant(np.array(b.random.randint(low, high), dtype))
    # Sums of powers of two would lie half-way between two results, where onnxruntime rounds QLinearAdd with the zero point.
    scale = lambda: b.constant(np.float32(b.random.uniform(0.01, 0.07)))
    m, k, n = b.extents(3, 1, 9)
    if kind == "QDQ":
        dtype = b.random.choice(kinds)
        x = b.node("QuantizeLinear", [b.input(b.extents(3)), scale(), number(dtype)])
        return b.result(x, b.node("DequantizeLinear", [x, scale(), number(dtype)]))
    if kind == "DynamicQuantizeLinear":
        return b.result(*b.node(kind, [b.input(b.extents(b.pick(1, 2, 3), 2, 6))], 3))
    dtype = np.uint8 if b.chance(0.7) else np.int8
    of_weights = np.int8 if dtype == np.int8 else b.random.choice(kinds)
    everything = {"low": -128, "high": 127} if dtype == np.int8 else {"low": 0, "high": 255}
    if kind == "QLinearAdd":
        shape = b.extents(b.random.randint(1, 3))
        operands = [b.input(shape, dtype, **everything), scale(), number(dtype), b.input(b.broadcast(shape), dtype, **everything), scale(), number(dtype), scale(), number(dtype)]
        return b.result(b.node("QLinearAdd", operands, domain="com.microsoft"))
    if kind.endswith("MatMul") or kind == "MatMulInteger":
        x, weights = b.input([m, k], dtype, **everything), b.constant(b.array([k, n], of_weights, -60, 60))
        if kind == "MatMulInteger":
            return b.result(b.node(kind, [x, weights, number(dtype), number(of_weights)]))
        operands = [x, scale(), number(dtype), weights, scale(), number(of_weights), scale(), number(dtype)]
        return b.result(b.node(kind, operands))
    x, weights = b.input([1, k, 7, 6], dtype, **everything), b.constant(b.array([n, k, 3, 2], of_weights, -60, 60))
    attributes = {"pads": [b.pick(0, 1) for _ in range(4)], "strides": [b.pick(1, 2), b.pick(1, 2)]}
    if kind == "ConvInteger":
        return b.result(b.node(kind, [x, weights, number(dtype)], **attributes))
    operands = [x, scale(), number(dtype), weights, scale(), number(of_weights, 0, 0), scale(), number(dtype)]
    if b.chance(0.5):
        operands.append(b.constant(b.array([n], np.int32, -500, 500)))
    b.result(b.node(kind, operands, **attributes))


def attention(b):
    kind = b.pick("MultiHeadAttention", "Attention", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "RotaryEmbedding", "BiasGelu", "FastGelu", "QuickGelu", "FusedMatMul", "GroupQueryAttention")
    own = {"domain": "com.microsoft"}
    batch, steps, heads = b.pick(1, 1, 2), b.random.randint(1, 6), b.pick(1, 2, 4)
    size = 2 * b.random.randint(1, 4)
    width = heads * size
    x = b.input([batch, steps, width])
    if kind == "MultiHeadAttention":
        keys = b.random.randint(1, 6)
        return b.result(b.node(kind, [x, b.input([batch, keys, width]), b.input([batch, keys, width])], num_heads=heads, **own))
    if kind == "Attention":
        attributes = {"num_heads": heads, "unidirectional": b.pick(0, 1)}
        operands = [x, b.weight([width, 3 * width], 1 / np.sqrt(width)), b.weight([3 * width])]
        if b.chance(0.4):
            operands.append(b.feed((b.numbers.random([batch, steps]) > 0.2).astype(np.int32)))
        return b.result(b.node(kind, operands, **attributes, **own))
    if kind == "GroupQueryAttention":
        return group_query_attention(b)
    if kind == "SkipLayerNormalization":
        return b.result(b.node(kind, [x, b.input([batch, steps, width]), b.weight([width]), b.weight([width])], epsilon=1e-3, **own))
    if kind == "SkipSimplifiedLayerNormalization":
        return b.result(b.node(kind, [x, b.input([batch, steps, width]), b.weight([width])], epsilon=1e-3, **own))
    if kind == "RotaryEmbedding":
        x = b.input([batch, heads, steps, size])
        angles = b.numbers.uniform(0, 6, [8, size // 2])
        tables = [b.constant(np.cos(angles).astype(np.float32)), b.constant(np.sin(angles).astype(np.float32))]
        places = b.feed(b.numbers.integers(0, 8, [batch, steps]).astype(np.int64))
        return b.result(b.node(kind, [x, places, *tables], interleaved=b.pick(0, 1), **own))
    if kind == "FusedMatMul":
        transposed = [b.pick(0, 1), b.pick(0, 1)]
        m, k, n = b.extents(3, 1, 7)
        operands = [b.input([k, m] if transposed[0] else [m, k]), b.either([n, k] if transposed[1] else [k, n])]
        return b.result(b.node(kind, operands, alpha=0.5, transA=transposed[0], transB=transposed[1], **own))
    operands = [x, b.weight([width])] if kind == "BiasGelu" else [x]
    b.result(b.node(kind, operands, **own))


def group_query_attention(b):
    """Queries share heads of keys and values; what came before fills the cache, or a part of it."""
    batch, shared, per = b.pick(1, 1, 2), b.pick(1, 2), b.pick(1, 2, 3)
    size, heads = b.pick(8, 16, 16), shared * per
    past = b.pick(0, b.random.randint(1, 5))
    before = b.pick(past, b.random.randint(0, past))
    steps = 1 if past else b.random.randint(1, 6)
    total = before + steps
    feeds = [b.input([batch, steps, heads * size]), b.input([batch, steps, shared * size]), b.input([batch, steps, shared * size])]
    for _ in "kv":
        cache = b.array([batch, shared, past, size])
        # onnxruntime gives zeros behind the steps, the compiler what was there.
        cache[:, :, before:] = 0
        feeds.append(b.feed(cache) if past else "")
    lasts = np.full([batch], total - 1, np.int32)
    feeds += [b.feed(lasts) if b.chance(0.5) else b.constant(lasts), b.constant(np.array(total, np.int32))]
    attributes = {"num_heads": heads, "kv_num_heads": shared}
    if size == 16 and b.chance(0.6):
        angles = b.numbers.uniform(0, 6, [16, size // 2])
        feeds += [b.constant(np.cos(angles).astype(np.float32)), b.constant(np.sin(angles).astype(np.float32))]
        attributes.update(do_rotary=1, rotary_interleaved=b.pick(0, 1))
    if b.chance(0.3):
        attributes["local_window_size"] = b.random.randint(1, 5)
    if b.chance(0.2):
        attributes["softcap"] = 3.0
    b.result(*b.node("GroupQueryAttention", feeds, 3, domain="com.microsoft", **attributes))


FAMILIES = {
    "reduction": reduction,
    "movement": movement,
    "choice": choice,
    "sampling": sampling,
    "recurrent": recurrent,
    "quantized": quantized,
    "attention": attention,
}
