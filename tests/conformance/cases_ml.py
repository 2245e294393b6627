"""Cases of operators of ai.onnx.ml: trees and linear models, as exporters of scikit-learn and its kin write them."""

import numpy as np
from onnx import numpy_helper
from vector_case import Constant, Given, Random, Weight

DOMAIN = "ai.onnx.ml"


def declare(cases):
    forests(cases)
    listed_forests(cases)
    linear(cases)
    features(cases)
    support_vectors(cases)


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
    for norm in ("L1", "L2", "MAX"):
        rows = Given([[0.5, -2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -0.5, 3.0]])
        cases.node(f"normalizer_{norm.lower()}", 14, "Normalizer", [rows], domain=DOMAIN, norm=norm)


def listed_forest(generator, trees, features, depth, targets):
    """Attributes of TreeEnsemble-5 for random trees; no node asks for members of sets."""
    nodes = {f"nodes_{name}": [] for name in ("featureids", "modes", "splits", "truenodeids", "trueleafs", "falsenodeids", "falseleafs", "missing_value_tracks_true")}
    leaves, roots = [], []

    def grow(level):
        """Number of a node or leaf, and whether it is a leaf."""
        if level == depth or level > 0 and generator.random() < 0.2:
            leaves.append((int(generator.integers(targets)), float(generator.integers(-64, 64) / 64)))
            return len(leaves) - 1, 1
        # NaN is unlike everything to onnxruntime, so no BRANCH_NEQ; see forest(). What it says of members in larger trees
        # is neither what the standard says nor what onnx's reference does.
        mode = int(generator.choice([0, 0, 1, 2, 3, 4]))
        at = len(nodes["nodes_modes"])
        row = {"featureids": int(generator.integers(features)), "modes": mode, "splits": float(generator.integers(-5, 6) / 2)}
        row |= {name: 0 for name in ("truenodeids", "trueleafs", "falsenodeids", "falseleafs")}
        row["missing_value_tracks_true"] = int(generator.integers(2))
        for name, value in row.items():
            nodes[f"nodes_{name}"].append(value)
        for side in ("true", "false"):
            nodes[f"nodes_{side}nodeids"][at], nodes[f"nodes_{side}leafs"][at] = grow(level + 1)
        return at, 0

    for _ in range(trees):
        roots.append(grow(0)[0])
    tensor = lambda values, dtype: numpy_helper.from_array(np.array(values, dtype), "t")
    nodes["nodes_modes"] = tensor(nodes["nodes_modes"], np.uint8)
    nodes["nodes_splits"] = tensor(nodes["nodes_splits"], np.float32)
    nodes["tree_roots"] = roots
    nodes["leaf_targetids"] = [target for target, _ in leaves]
    nodes["leaf_weights"] = tensor([weight for _, weight in leaves], np.float32)
    return nodes


def listed_forests(cases):
    generator = np.random.default_rng(9)
    values = np.where(generator.random((16, 4)) < 0.1, np.nan, generator.integers(-10, 11, (16, 4)) / 2)
    x = Given(values.astype(np.float32))
    for number, function in enumerate(("average", "sum", "min", "max")):
        trees = listed_forest(generator, 5, 4, 5, 3)
        cases.node(f"tree_ensemble_{function}", 21, "TreeEnsemble", [x], domain=DOMAIN, n_targets=3, aggregate_function=number, **trees)
    trees = listed_forest(generator, 1, 4, 1, 1)
    cases.node("tree_ensemble_stump", 21, "TreeEnsemble", [x], domain=DOMAIN, n_targets=1, **trees)
    tensor = lambda values, dtype: numpy_helper.from_array(np.array(values, dtype), "t")
    cases.node(
        "tree_ensemble_members", 21, "TreeEnsemble", [Given([[1, 2], [3, 0], [2, 2], [2, 1], [4, 4], [0, 2], [9, 5]])], domain=DOMAIN, n_targets=1, tree_roots=[0],
        nodes_modes=tensor([6, 6], np.uint8), nodes_featureids=[0, 1], nodes_splits=tensor([0, 0], np.float32), nodes_truenodeids=[0, 1], nodes_trueleafs=[1, 1],
        nodes_falsenodeids=[1, 2], nodes_falseleafs=[0, 1], leaf_targetids=[0, 0, 0], leaf_weights=tensor([1, 10, 100], np.float32),
        membership_values=tensor([1, 3, 4, np.nan, 2, 5, np.nan], np.float32),
    )


def features(cases):
    nan = float("nan")
    x = Random(4, 3)
    cases.node("array_feature_extractor", 14, "ArrayFeatureExtractor", [x, Constant([2, 0], np.int64)], domain=DOMAIN)
    cases.node("array_feature_extractor_chosen", 14, "ArrayFeatureExtractor", [Weight(5), Given([4, 0, 4], np.int64)], domain=DOMAIN)
    cases.node("binarizer", 14, "Binarizer", [x], domain=DOMAIN, threshold=0.25)
    cases.node("feature_vectorizer", 14, "FeatureVectorizer", [x, Random(4, 2)], domain=DOMAIN, inputdimensions=[3, 2])
    missing = Given([[0.5, nan, 0.0], [nan, nan, -1.0]])
    cases.node("imputer", 14, "Imputer", [missing], domain=DOMAIN, imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=nan)
    cases.node("imputer_value", 14, "Imputer", [missing], domain=DOMAIN, imputed_value_floats=[7.0], replaced_value_float=0.5)
    cases.node("imputer_whole", 14, "Imputer", [Given([[1, -1], [-1, 5]], np.int64)], domain=DOMAIN, imputed_value_int64s=[8, 9], replaced_value_int64=-1)
    whole = Given([[3, 5], [7, 4]], np.int64)
    cases.node("label_encoder", 14, "LabelEncoder", [whole], domain=DOMAIN, keys_int64s=[7, 3, 5], values_floats=[0.5, 1.5, 2.5], default_float=-4.0)
    cases.node("label_encoder_whole", 14, "LabelEncoder", [whole], domain=DOMAIN, keys_int64s=[7, 3], values_int64s=[70, 30])
    cases.node("label_encoder_real", 14, "LabelEncoder", [Given([0.5, 2.0, -1.0])], domain=DOMAIN, keys_floats=[-1.0, 0.5], values_int64s=[4, 6], default_int64=9)
    tensor = lambda values, dtype: numpy_helper.from_array(np.array(values, dtype), "t")
    cases.node(
        "label_encoder_tensor", 14, "LabelEncoder", [whole], domain=DOMAIN, keys_tensor=tensor([4, 7], np.int64), values_tensor=tensor([1.25, 2.25], np.float32),
        default_tensor=tensor([0.75], np.float32),
    )
    cases.node("one_hot_encoder", 14, "OneHotEncoder", [whole], domain=DOMAIN, cats_int64s=[5, 3, 4], zeros=1)


def support_vectors(cases):
    generator = np.random.default_rng(10)
    numbers = lambda count: [float(number / 64) for number in generator.integers(-64, 64, count)]
    x = Random(5, 3)
    for kind in ("LINEAR", "POLY", "RBF", "SIGMOID"):
        cases.node(
            f"support_vectors_{kind.lower()}", 14, "SVMRegressor", [x], domain=DOMAIN, kernel_type=kind, kernel_params=[0.25, 0.5, 3.0], n_supports=4,
            coefficients=numbers(4), support_vectors=numbers(12), rho=[0.125],
        )
    cases.node("support_vectors_none", 14, "SVMRegressor", [x], domain=DOMAIN, kernel_type="LINEAR", kernel_params=[0.0, 0.0, 0.0], coefficients=numbers(3), rho=[-0.25])
    cases.node(
        "support_vectors_one_class", 14, "SVMRegressor", [x], domain=DOMAIN, kernel_type="RBF", kernel_params=[0.25, 0.0, 3.0], n_supports=4, one_class=1,
        coefficients=[0.5, 0.25, 0.75, 0.5], support_vectors=numbers(12), rho=[-0.75],
    )
