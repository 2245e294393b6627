//! A graph of real numbers and its quantization as an ONNX model in QDQ form: QuantizeLinear and DequantizeLinear around what is
//! computed in whole numbers.
//!
//! What only moves elements is written on int8 tensors where ONNX lets it, and between the two otherwise, on the same grid.
//! `quantized` writes what has whole numbers, `nodes` operators as ONNX spells them, `proto` the types of the file.

mod nodes;
mod proto;
mod quantized;

use std::path::Path;

use onnx_protobuf::{Message, ModelProto, OperatorSetIdProto};

use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::Graph;
use partita_ir::graph::quantization::Quantization;

/// Version of the default operators that is written.
const OPSET: i64 = 21;

/// Version of the file format that has them.
const IR_VERSION: i64 = 10;

/// What protobuf can express.
const MOST_BYTES: u64 = (1 << 31) - 1;

/// Writes a model to a file.
///
/// Errors: E0195 where an operator has no word in ONNX, or the file cannot be written.
pub fn write(path: &Path, graph: &Graph, quantization: &Quantization) -> Result<(), Vec<Diagnostic>> {
    let refuse = |message: String| vec![Diagnostic::new("E0195", message)];
    let model = model(graph, quantization).map_err(|refusal| vec![refusal])?;
    let size = model.compute_size();
    if size > MOST_BYTES {
        return Err(refuse(format!("the model would take {size} bytes, more than the {MOST_BYTES} of an ONNX file")));
    }
    let bytes = model.write_to_bytes().map_err(|error| refuse(format!("writing `{}`: {error}", path.display())))?;
    std::fs::write(path, bytes).map_err(|error| refuse(format!("writing `{}`: {error}", path.display())))
}

/// The model.
///
/// Errors: E0195 where an operator has no word in ONNX.
pub fn model(graph: &Graph, quantization: &Quantization) -> Result<ModelProto, Diagnostic> {
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "partita".to_string(),
        opset_import: vec![OperatorSetIdProto { version: OPSET, ..OperatorSetIdProto::default() }],
        graph: protobuf::MessageField::some(quantized::graph(graph, quantization)?),
        ..ModelProto::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImportOptions, import_bytes};
    use partita_ir::graph::eval::evaluate;
    use partita_ir::graph::text;
    use partita_ir::graph::values::noise;

    /// What is written is read as a graph with the same answers.
    fn check(text: &str) {
        let graph = text::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let bytes = model(&graph, &Quantization::default()).expect("ONNX has words for it").write_to_bytes();
        let again = import_bytes(&bytes.expect("it is plain data"), None, &ImportOptions::default());
        let again = again.unwrap_or_else(|refusals| panic!("{text}: {}", refusals[0]));
        let names = |graph: &Graph| -> Vec<String> {
            graph.inputs.iter().chain(graph.outputs.iter()).map(|id| graph.tensor(*id).name.clone()).collect()
        };
        assert_eq!(names(&again), names(&graph));
        let inputs: Vec<_> = graph.inputs.iter().map(|input| noise(graph.tensor_type(*input), 7)).collect();
        let answers = |graph: &Graph| evaluate(graph, &inputs).expect("it is computed");
        let (ours, theirs) = (answers(&graph), answers(&again));
        assert!(format!("{ours:?}") == format!("{theirs:?}"), "{text}: {ours:?} is read as {theirs:?}");
    }

    #[test]
    fn operators_are_read_as_they_were() {
        let window = "window:(kernel:[3,2],stride:[2,1],dilation:[1,2],pad_begin:[1,0],pad_end:[0,1])";
        let pool = |kind: &str, end: &str, declared: &str| {
            format!(
                "Pool(Pool(kind:{kind},window:(kernel:[2,2],stride:[2,2],dilation:[1,1],pad_begin:[0,0],pad_end:{end}),\
                 declared_pad_end:{declared},count_include_pad:false))"
            )
        };
        for (result, op) in [
            ("f32[1,4,3,3]", "Unary(Sigmoid)".to_string()),
            ("f32[1,4,3,3]", "Unary(Silu)".to_string()),
            ("f32[1,4,3,3]", "Unary(Gelu(tanh:true))".to_string()),
            ("f32[1,4,3,3]", "Unary(Elu(alpha:0.5))".to_string()),
            ("f32[1,4,3,3]", "Unary(Activation(Clip(-0.5,0.25)))".to_string()),
            ("f32[1,4,3,3]", "Unary(Activation(HardSigmoid(0.25,0.5)))".to_string()),
            ("f32[1,4,3,3]", "Unary(Activation(LeakyRelu(0.1)))".to_string()),
            ("f32[1,4,2,2]", pool("Max", "[1,1]", "[0,0]")),
            ("f32[1,4,2,2]", pool("Average", "[1,1]", "[0,0]")),
            ("f32[1,4,1,1]", pool("Average", "[0,0]", "[0,0]")),
            ("f32[1,4,1,1]", "GlobalPool(Max)".to_string()),
            ("f32[1,4,3,3]", "Softmax(axis:1)".to_string()),
            ("f32[1,4,1,3]", "Reduce(kind:L2,axes:[2],keep_dims:true)".to_string()),
            ("f32[1,3]", "Reduce(kind:Mean,axes:[1,2],keep_dims:false)".to_string()),
            ("i64[1,4,3]", "ArgMax(axis:3,keep_dims:false,select_last:true)".to_string()),
            ("f32[1,2,3,2]", "Slice(starts:[0,1,2,0],steps:[1,2,-1,2],sizes:[1,2,3,2])".to_string()),
            ("f32[4,9]", "Reshape(shape:[4,9])".to_string()),
            ("f32[3,1,4,3]", "Transpose(permutation:[3,0,1,2])".to_string()),
            ("f32[1,4,4,5]", "Pad(mode:Constant(0.5),begin:[0,0,1,0],end:[0,0,0,2])".to_string()),
            ("f32[1,4,4,4]", "Pad(mode:Reflect,begin:[0,0,1,0],end:[0,0,0,1])".to_string()),
            ("f32[2,4,3,3]", "Expand(shape:[2,4,3,3])".to_string()),
            ("i8[1,4,3,3]", "Cast(to:I8)".to_string()),
            ("f32[1,1,6,6]", "DepthToSpace(block:2,column_row_depth:true)".to_string()),
            (
                "f32[1,4,6,6]",
                "Resize(mode:Nearest(Floor),coordinates:Asymmetric,scales:[1.0,1.0,2.0,2.0],sizes:[1,4,6,6])"
                    .to_string(),
            ),
            (
                "f32[1,4,5,6]",
                "Resize(mode:Linear,coordinates:HalfPixel,scales:[1.0,1.0,1.6666666,2.0],sizes:[1,4,5,6])".to_string(),
            ),
            ("f32[1,4,3,3]", "Lrn(alpha:0.1,beta:0.75,bias:1.0,size:3)".to_string()),
        ] {
            check(&format!(
                "graph \"g\" opset 17\ninput %0 \"x\": f32[1,4,3,3]\n%1 \"y\": {result} = \"op\"(%0) {op}\noutput %1\n"
            ));
        }
        for op in ["Binary(Sub,Relu)", "Binary(Max,None)", "Binary(Mul,HardSwish)", "Binary(Div,None)"] {
            check(&format!(
                "graph \"g\" opset 17\ninput %0 \"x\": f32[1,4]\ninput %1 \"z\": f32[2,1]\n\
                 %2 \"y\": f32[2,4] = \"op\"(%0, %1) {op}\noutput %2\n"
            ));
        }
        for least in ["None", "Some(0.25)"] {
            check(&format!(
                "graph \"g\" opset 17\ninput %0 \"x\": f32[2,5,4]\ninput %1 \"s\": f32[2,3,5]\n%2 \"y\": i64[9,3] = \
                 \"op\"(%0, %1) NonMaxSuppression((rows:9,most:4,overlap:0.25,least:{least},centred:false))\noutput %2\n"
            ));
        }
        check(
            "graph \"g\" opset 17\ninput %0 \"x\": f32[2,3,4,6]\ninput %1 \"r\": f32[2,4]\nconst %2 \"i\": i64[2] = [1,0]\n\
             %3 \"y\": f32[2,3,2,1] = \"op\"(%0, %1, %2) \
             RoiAlign((kind:Max,bins:(2,1),scale:2.0,half_pixel:false,ratio:0))\noutput %3\n",
        );
        check(&format!(
            "graph \"g\" opset 17\ninput %0 \"x\": f32[1,2,4,4]\nconst %1 \"w\": f32[2,1,3,2] = \
             [1.0,2.0,3.0,4.0,5.0,6.0,-1.0,-2.0,-3.0,-4.0,-5.0,-6.0]\nconst %2 \"b\": f32[2] = [0.5,-0.5]\n\
             %3 \"y\": f32[1,2,2,3] = \"conv\"(%0, %1, %2) Conv(Conv({window},groups:2,residual:false,activation:Relu))\n\
             output %3\n"
        ));
    }

    #[test]
    fn what_onnx_has_no_word_for_is_refused_by_name() {
        let text = "graph \"g\" opset 17\ninput %0 \"x\": f32[1,4]\n%1 \"v\": f32[2] = \"decide\"(%0) Decide(Decide(exit:0,\
                    rule:Probability,logits:true,temperature:1.0,threshold:0.5,share:0.5))\noutput %0\noutput %1\n";
        let Ok(graph) = text::parse(text) else { return };
        let refusal = model(&graph, &Quantization::default()).expect_err("an exit is no operator").to_string();
        assert!(refusal.contains("E0195") && refusal.contains("decide"), "{refusal}");
    }
}
