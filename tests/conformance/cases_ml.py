"""Cases of operators of ai.onnx.ml: trees and linear models, as exporters of scikit-learn and its kin write them."""

import numpy as np
from vector_case import Given, Random

DOMAIN = "ai.onnx.ml"


def declare(cases):
    forests(cases)
    linear(cases)


def forest(generator, trees, features, depth, prefix, targets):
    """Attributes of random trees; leaves have weights for all of these targets."""
    lists = {f"nodes_{name}": [] for name in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true")}
    said = {f"{prefix}_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    # To onnxruntime NaN is unlike everything (BRANCH_NEQ), whatever the node says of missing values.
    modes = ["BRANCH_LEQ", "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ"]
    for tree in range(trees):
        below = [(0, 0)]
        count = 1
        while below:
            node, level = below.pop(0)
            fork = level < depth and generator.random() < 0.8
            children = (count, count + 1) if fork else (0, 0)
            row = (tree, node, int(generator.integers(features)), modes[generator.integers(len(modes))] if fork else "LEAF")
            row += (float(generator.integers(-64, 64) / 64), *children, int(generator.integers(2)))
            for name, value in zip(lists, row):
                lists[name].append(value)
            if fork:
                below += [(child, level + 1) for child in children]
                count += 2
                continue
            for target in targets:
                for name, value in zip(said, (tree, node, target, float(generator.integers(-64, 64) / 64))):
                    said[name].append(value)
    return lists | said


def forests(cases):
    generator = np.random.default_rng(7)
    x = Given(np.where(generator.random((6, 4)) < 0.1, np.nan, generator.integers(-80, 80, (6, 4)) / 64).astype(np.float32))
    for function in ("SUM", "AVERAGE", "MIN", "MAX"):
        trees = forest(generator, 5, 4, 4, "target", range(2))
        cases.node(f"trees_{function.lower()}", 14, "TreeEnsembleRegressor", [x], domain=DOMAIN, n_targets=2, aggregate_function=function, base_values=[0.5, -1.0], **trees)
    trees = forest(generator, 20, 4, 3, "target", [0])
    cases.node("trees_one", 14, "TreeEnsembleRegressor", [x], domain=DOMAIN, n_targets=1, **trees)
    for post in ("NONE", "SOFTMAX", "LOGISTIC"):
        trees = forest(generator, 6, 4, 3, "class", range(3))
        cases.node(f"trees_classes_{post.lower()}", 14, "TreeEnsembleClassifier", [x], outputs=2, domain=DOMAIN, classlabels_int64s=[4, 7, 5], post_transform=post, **trees)
    for post in ("NONE", "LOGISTIC"):
        trees = forest(generator, 6, 4, 3, "class", [0])
        labels = {"classlabels_int64s": [3, 8], "post_transform": post}
        cases.node(f"trees_border_{post.lower()}", 14, "TreeEnsembleClassifier", [x], outputs=2, domain=DOMAIN, base_values=[0.25], **labels, **trees)
        trees["class_weights"] = [abs(weight) / 8 for weight in trees["class_weights"]]
        cases.node(f"trees_shares_{post.lower()}", 14, "TreeEnsembleClassifier", [x], outputs=2, domain=DOMAIN, **labels, **trees)


def linear(cases):
    generator = np.random.default_rng(8)
    numbers = lambda count: [float(number / 64) for number in generator.integers(-128, 128, count)]
    x = Random(5, 3)
    cases.node("linear_regressor", 14, "LinearRegressor", [x], domain=DOMAIN, targets=2, coefficients=numbers(6), intercepts=numbers(2))
    for post in ("NONE", "SOFTMAX", "LOGISTIC"):
        cases.node(
            f"linear_classifier_{post.lower()}", 14, "LinearClassifier", [x], outputs=2, domain=DOMAIN, coefficients=numbers(12), intercepts=numbers(4),
            classlabels_ints=[2, 0, 9, 1], post_transform=post,
        )
    cases.node("scaler", 14, "Scaler", [x], domain=DOMAIN, offset=numbers(3), scale=numbers(3))
    cases.node("scaler_whole", 14, "Scaler", [Given([[1, 2, -3], [7, 0, 5]], np.int64)], domain=DOMAIN, offset=[1.5], scale=[0.25])
    for norm in ("L1", "L2"):
        rows = Given([[0.5, -2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -0.5, 3.0]])
        cases.node(f"normalizer_{norm.lower()}", 14, "Normalizer", [rows], domain=DOMAIN, norm=norm)
