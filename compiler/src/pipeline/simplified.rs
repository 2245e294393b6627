//! The model without what devices need not do.

use partita_learn::host::Host;

use super::dump::Dump;
use super::imported::Imported;
use crate::config::{Cluster, WeightStorage};
use crate::diagnostic::Diagnostic;
use crate::graph::{Graph, Op};
use crate::options::{Numbers, Options};
use crate::passes::states::Wanted;
use crate::passes::store_weights::Stored;
use crate::placement::{Clock, Failure, internal};
use crate::quantize::{self, report::QuantizationReport};
use crate::{numbers, onnx, passes};

/// A model behind the passes.
pub struct Simplified {
    /// File name of the model without extension.
    pub name: String,
    /// The network.
    pub graph: Graph,
    /// What is known of its quantization, if calibration samples have made whole numbers of it.
    pub quantization: Option<QuantizationReport>,
    /// Matrix products whose weights are stored in fewer bytes.
    pub stored: Vec<Stored>,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

impl Simplified {
    /// Runs the passes.
    pub fn of(imported: Imported, clock: &mut Clock, dump: &mut dyn Dump) -> Result<Simplified, Failure> {
        let Imported { name, mut graph, mut warnings } = imported;
        passes::simplify(&mut graph, &mut |pass, graph, time| {
            clock.record(pass.name, time.as_secs_f64() * 1e3);
            dump.stage(pass.name, graph);
        })
        .map_err(internal)?;
        warnings.extend(numbers::of_sums(&graph));
        Ok(Simplified { name, graph, quantization: None, stored: Vec::new(), warnings })
    }

    /// The same with states, where any are wanted.
    ///
    /// Errors: E0144 where an output cannot be one, or where the answer is wanted on another device than the input.
    pub fn with_states(mut self, wanted: &[Wanted], cluster: &Cluster) -> Result<Simplified, Failure> {
        if wanted.is_empty() {
            return Ok(self);
        }
        let [input, output] = [cluster.input, cluster.output].map(|device| cluster.devices[device].name.as_str());
        if input != output {
            let message =
                format!("--state: states stay on one device, but `{input}` holds the input and `{output}` the output");
            let help = format!("say `output = \"{input}\"` in the cluster file");
            return Err(Failure::Input(vec![Diagnostic::new("E0144", message).help(help)]));
        }
        passes::states::keep(&mut self.graph, wanted).map_err(|refusal| Failure::Input(vec![refusal]))?;
        Ok(self)
    }

    /// The same in whole numbers, if they are wanted.
    ///
    /// Errors: E0190, E0192 to E0195 and E0197, what is wrong with the calibration samples, or with the file that is written.
    pub fn quantized(
        mut self,
        options: &Options,
        host: &dyn Host,
        clock: &mut Clock,
        dump: &mut dyn Dump,
    ) -> Result<Simplified, Failure> {
        let Some(wanted) = &options.quantize else {
            // A model that has whole weights already is what `--numbers int8` asks for.
            let missing = options.numbers == Numbers::Int8 && !has_whole_weights(&self.graph);
            return if missing { Err(real_numbers()) } else { Ok(self) };
        };
        clock.restart();
        let made = quantize::quantize(&self.graph, wanted, host)?;
        clock.lap("quantize");
        dump.stage("quantize", &made.graph);
        if let Some(path) = &options.write_onnx {
            onnx::write::write(path, &made.real, &made.quantization)?;
        }
        self.warnings.extend(numbers::of_sums(&made.graph));
        Ok(Simplified { graph: made.graph, quantization: Some(made.report), ..self })
    }

    /// The same with the weights of matrix products rounded to what will be stored.
    ///
    /// Errors: E0143 where that changes nothing.
    pub fn with_weights(mut self, storage: WeightStorage) -> Result<Simplified, Failure> {
        let stored = passes::store_weights::run(&mut self.graph, storage);
        if storage != WeightStorage::F32 && stored.is_empty() {
            let message = format!(
                "--weights {} would change nothing: no matrix product of the model has constant weights that fit",
                storage.name()
            );
            let help = "leave --weights out; convolutions keep their weights in 32 bits";
            return Err(Failure::Input(vec![Diagnostic::new("E0143", message).help(help)]));
        }
        Ok(Simplified { stored, ..self })
    }
}

/// Whether something is multiplied by whole numbers that are constant.
fn has_whole_weights(graph: &Graph) -> bool {
    graph.node_ids().any(|id| {
        let node = graph.node(id);
        let multiplies = matches!(node.op, Op::Conv(_) | Op::Gemm(_) | Op::MatMul);
        multiplies && node.inputs.get(1).is_some_and(|weights| graph.is_whole(*weights))
    })
}

/// A model of real numbers that whole ones are wanted of.
fn real_numbers() -> Failure {
    let message = "--numbers int8: the model is not quantized, and there are no samples that show ranges";
    let help = "give --calibration DATA.npz, or a model with QuantizeLinear and DequantizeLinear (QDQ)";
    Failure::Input(vec![Diagnostic::new("E0197", message).help(help)])
}
