//! ONNX operators to ours, one family per file, each for every opset from 1 to 28.

mod attention;
mod bits;
mod composed;
mod deformed;
mod einsum;
mod elementwise;
mod features;
mod forests;
mod grids;
mod group_query;
mod integers;
mod known;
mod losses;
mod microsoft;
mod microsoft_quantized;
mod ml;
mod movement;
mod pools;
mod product;
mod quantized;
mod rearranged;
mod recurrent;
mod regions;
mod resize;
mod selection;
mod shape;
mod signals;
mod spatial;
mod states;
mod taps;

use crate::importer::Converter;

/// Every operator that has a converter, ascending; a test keeps the list in step with the converters.
pub const OPERATORS: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "AffineGrid",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "BitCast",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "BlackmanWindow",
    "Cast",
    "CastLike",
    "CausalConvWithState",
    "Ceil",
    "Celu",
    "CenterCropPad",
    "Clip",
    "Col2Im",
    "Compress",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumProd",
    "CumSum",
    "DFT",
    "DeformConv",
    "DepthToSpace",
    "DequantizeLinear",
    "Det",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GridSample",
    "GroupNormalization",
    "HammingWindow",
    "HannWindow",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "If",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "LinearAttention",
    "Log",
    "LogSoftmax",
    "Loop",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "MaxUnpool",
    "Mean",
    "MeanVarianceNormalization",
    "MelWeightMatrix",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "NegativeLogLikelihoodLoss",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RMSNormalization",
    "RNN",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "RoiAlign",
    "RotaryEmbedding",
    "Round",
    "STFT",
    "Scan",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "SimplifiedLayerNormalization",
    "Sin",
    "Sinh",
    "Size",
    "Slice",
    "Softmax",
    "SoftmaxCrossEntropyLoss",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "SwiGLU",
    "Swish",
    "Tan",
    "Tanh",
    "TensorScatter",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unique",
    "Unsqueeze",
    "Upsample",
    "Where",
    "Xor",
    "ai.onnx.ml.ArrayFeatureExtractor",
    "ai.onnx.ml.Binarizer",
    "ai.onnx.ml.FeatureVectorizer",
    "ai.onnx.ml.Imputer",
    "ai.onnx.ml.LabelEncoder",
    "ai.onnx.ml.LinearClassifier",
    "ai.onnx.ml.LinearRegressor",
    "ai.onnx.ml.Normalizer",
    "ai.onnx.ml.OneHotEncoder",
    "ai.onnx.ml.SVMRegressor",
    "ai.onnx.ml.Scaler",
    "ai.onnx.ml.TreeEnsemble",
    "ai.onnx.ml.TreeEnsembleClassifier",
    "ai.onnx.ml.TreeEnsembleRegressor",
    "ai.onnx.ml.ZipMap",
    "com.microsoft.Attention",
    "com.microsoft.BiasGelu",
    "com.microsoft.DequantizeLinear",
    "com.microsoft.DynamicQuantizeLSTM",
    "com.microsoft.DynamicQuantizeMatMul",
    "com.microsoft.EmbedLayerNormalization",
    "com.microsoft.FastGelu",
    "com.microsoft.FusedConv",
    "com.microsoft.FusedMatMul",
    "com.microsoft.GatherBlockQuantized",
    "com.microsoft.Gelu",
    "com.microsoft.GroupQueryAttention",
    "com.microsoft.MatMulIntegerToFloat",
    "com.microsoft.MatMulNBits",
    "com.microsoft.MultiHeadAttention",
    "com.microsoft.QAttention",
    "com.microsoft.QEmbedLayerNormalization",
    "com.microsoft.QGemm",
    "com.microsoft.QLinearAdd",
    "com.microsoft.QLinearAveragePool",
    "com.microsoft.QLinearConcat",
    "com.microsoft.QLinearGlobalAveragePool",
    "com.microsoft.QLinearLeakyRelu",
    "com.microsoft.QLinearMul",
    "com.microsoft.QLinearReduceMean",
    "com.microsoft.QLinearSigmoid",
    "com.microsoft.QLinearSoftmax",
    "com.microsoft.QLinearWhere",
    "com.microsoft.QuantizeLinear",
    "com.microsoft.QuickGelu",
    "com.microsoft.RotaryEmbedding",
    "com.microsoft.SkipLayerNormalization",
    "com.microsoft.SkipSimplifiedLayerNormalization",
    "com.microsoft.TransposeMatMul",
];

/// Those of them whose operands must be known: the shape of their results follows from elements.
pub const FOLDED: &[&str] = &["NonZero", "Range", "Unique"];

/// The converter of an operator; `None` if it is not supported.
pub fn converter(domain: &str, op_type: &str) -> Option<Converter> {
    match domain {
        "" | "ai.onnx" => standard(op_type),
        "com.microsoft" => microsoft::converter(op_type),
        "ai.onnx.ml" => ml::converter(op_type),
        _ => None,
    }
}

/// The converter of an operator of the default domain.
fn standard(op_type: &str) -> Option<Converter> {
    spatial::converter(op_type)
        .or_else(|| product::converter(op_type))
        .or_else(|| elementwise::converter(op_type))
        .or_else(|| movement::converter(op_type))
        .or_else(|| shape::converter(op_type))
        .or_else(|| quantized::converter(op_type))
        .or_else(|| composed::converter(op_type))
        .or_else(|| einsum::converter(op_type))
        .or_else(|| integers::converter(op_type))
        .or_else(|| recurrent::converter(op_type))
        .or_else(|| selection::converter(op_type))
        .or_else(|| attention::converter(op_type))
        .or_else(|| losses::converter(op_type))
        .or_else(|| bits::converter(op_type))
        .or_else(|| grids::converter(op_type))
        .or_else(|| deformed::converter(op_type))
        .or_else(|| known::converter(op_type))
        .or_else(|| pools::converter(op_type))
        .or_else(|| rearranged::converter(op_type))
        .or_else(|| regions::converter(op_type))
        .or_else(|| resize::converter(op_type))
        .or_else(|| signals::converter(op_type))
        .or_else(|| states::converter(op_type))
}

#[cfg(test)]
mod tests {
    use super::{OPERATORS, converter, microsoft};

    fn is_known(name: &str) -> bool {
        let (domain, op_type) = name.rsplit_once('.').unwrap_or(("", name));
        converter(domain, op_type).is_some()
    }

    #[test]
    fn the_list_of_operators_is_true() {
        assert!(OPERATORS.is_sorted());
        assert!(OPERATORS.iter().all(|name| is_known(name)));
        let sources = [
            include_str!("attention.rs"),
            include_str!("bits.rs"),
            include_str!("composed.rs"),
            include_str!("einsum.rs"),
            include_str!("elementwise.rs"),
            include_str!("grids.rs"),
            include_str!("integers.rs"),
            include_str!("known.rs"),
            include_str!("losses.rs"),
            include_str!("movement.rs"),
            include_str!("pools.rs"),
            include_str!("product.rs"),
            include_str!("quantized.rs"),
            include_str!("rearranged.rs"),
            include_str!("recurrent/direction.rs"),
            include_str!("recurrent/mod.rs"),
            include_str!("regions.rs"),
            include_str!("resize.rs"),
            include_str!("selection.rs"),
            include_str!("shape.rs"),
            include_str!("signals.rs"),
            include_str!("spatial.rs"),
            include_str!("states.rs"),
        ];
        let arms = sources.iter().flat_map(|source| source.lines()).filter_map(|line| {
            let (name, rest) = line.strip_prefix("        \"")?.split_once('"')?;
            rest.starts_with(" => ").then_some(name)
        });
        for name in arms.filter(|name| is_known(name)) {
            assert!(OPERATORS.contains(&name), "{name} is not listed");
        }
        let others = [include_str!("microsoft.rs"), include_str!("microsoft_quantized.rs")];
        for source in [include_str!("features.rs"), include_str!("ml.rs")] {
            let arms = source.lines().filter_map(|line| line.strip_prefix("        \"")?.split_once("\" => "));
            for name in arms.map(|(name, _)| name).filter(|name| super::ml::converter(name).is_some()) {
                assert!(OPERATORS.contains(&format!("ai.onnx.ml.{name}").as_str()), "ai.onnx.ml.{name} is not listed");
            }
        }
        for name in others
            .iter()
            .flat_map(|source| source.lines())
            .filter_map(|line| Some(line.strip_prefix("        \"")?.split_once('"')?.0))
        {
            let listed = OPERATORS.contains(&format!("com.microsoft.{name}").as_str());
            assert!(microsoft::converter(name).is_none() || listed, "com.microsoft.{name} is not listed");
        }
    }
}
