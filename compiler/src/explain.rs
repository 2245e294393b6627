//! Every code a message can carry, with the text that `--explain` prints.

use crate::diagnostic::{Diagnostic, printable};
use crate::{config, onnx};

/// What a code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Stable code.
    pub code: &'static str,
    /// One line.
    pub title: &'static str,
    text: &'static str,
}

/// All codes, ascending.
pub const CODES: &[Explanation] = &[
    Explanation {
        code: "E0100",
        title: "the model cannot be read",
        text: "The path does not lead to a readable regular file. Check its spelling and its permissions.",
    },
    Explanation {
        code: "E0101",
        title: "the file is not an ONNX model",
        text: "The bytes are not a complete ONNX protobuf message: the file is empty, cut off, of another format, holds no graph, or is\n\
         larger than the 2 GiB that protobuf allows. A model with larger weights keeps them as external data beside the file.",
    },
    Explanation {
        code: "E0102",
        title: "the model is nested too deeply",
        text: "Messages (graphs in attributes, types in types) may be nested 100 levels deep. No exporter comes near that.",
    },
    Explanation {
        code: "E0103",
        title: "the operator set is not known",
        text: "The model must import the default operator set, in one version from 1 to 28.",
    },
    Explanation {
        code: "E0110",
        title: "the graph is not sound",
        text: "Every tensor has exactly one source (an input, an initializer or a node), every operand has a source, no node depends\n\
         on itself, and every graph output is made. The message names the tensors or nodes that break this.",
    },
    Explanation {
        code: "E0111",
        title: "a function of the model cannot be expanded",
        text: "Calls of functions that the model defines are replaced by the function's nodes. Functions must not call themselves, may call\n\
         each other 32 levels deep, and all of them together may become 200,000 nodes or 64 MiB.",
    },
    Explanation {
        code: "E0112",
        title: "the model has too many parts",
        text: "At most 200,000 nodes, initializers, inputs and outputs each, and 4,000,000 protobuf messages. Loops are unrolled: their\n\
         turns count as nodes, too.",
    },
    Explanation {
        code: "E0120",
        title: "a tensor of the model is malformed",
        text: "Its element type is unknown or not supported, a dimension is negative, its size overflows, its rank is above 8, or its\n\
         data has another length than its shape. Supported: float, double, float16, bfloat16 (all become f32), int64, int32, int8,\n\
         uint8, bool.",
    },
    Explanation {
        code: "E0121",
        title: "the shape of an input is not known",
        text: "Every shape is fixed at compile time. An open first dimension is taken as a batch of 1, unless its name stands a second time\n\
         in the same input or behind another open dimension; pin others with `--shape input=1x3x224x224`, or by their name with\n\
         `--shape height=224`. A name that is settled once is settled everywhere; 0 and -1 in the model mean open;\n\
         `--shape past=1x2x0x64` says that there is nothing.",
    },
    Explanation {
        code: "E0122",
        title: "a tensor is too large",
        text: "No node may make a tensor above 256 MiB, nor may all constants that nodes make while importing have more than\n\
         33554432 elements together (128 MiB of float).\n\
         The limit is checked before anything is allocated.",
    },
    Explanation {
        code: "E0130",
        title: "a node does not fit its operands or attributes",
        text: "An attribute has the wrong type or a value out of range, or contradicts the shapes of the operands. The message names the\n\
         node, the attribute, its value and what was expected.",
    },
    Explanation {
        code: "E0140",
        title: "operators that are not supported",
        text: "All nodes that Partita cannot compile are listed at once. Supported ONNX operators:\n\
         \n\
         {operators}\n\
         \n\
         Small subgraphs that only compute shapes are evaluated while importing. These operators are there for that only, and\n\
         need operands that are constants, or become so by `--set` or `--shape`: {folded}.",
    },
    Explanation {
        code: "E0141",
        title: "an operator has no kernel for these element types",
        text: "The operator is known, but neither an emitted nor a portable kernel computes it on tensors of this kind.",
    },
    Explanation {
        code: "E0142",
        title: "the model answers one sample at a time only",
        text: "`--batch` stacks samples along the first dimension of every activation. That needs inputs and outputs whose first\n\
         dimension is 1, and operators whose result for one sample depends on no other. The message names what stands in the way.",
    },
    Explanation {
        code: "E0143",
        title: "no weights can be stored in fewer bytes",
        text: "`--weights` stores the constant matrices of matrix products in 16 or 8 bits. This model has none, or none whose\n\
         numbers can be stored so: weights of convolutions keep their 32 bits.",
    },
    Explanation {
        code: "E0144",
        title: "an output cannot be a state",
        text: "`--state OUTPUT=INPUT` makes an output the input of the next inference: it stays on its device, is zero at first, and no\n\
         caller sees it. Both must be of one type, and stand in one pair only; the device that holds the input must hold the output,\n\
         too. `--state auto` takes what names say, such as `stateN` and `state`, `hn` and `h0`, `present.0.key` and\n\
         `past_key_values.0.key`.",
    },
    Explanation {
        code: "E0145",
        title: "an input cannot come in the form that the cluster file says",
        text: "The table `[input]` of the cluster file says how a camera or microphone gives the input: `dtype`, `layout`, `mean` and\n\
         `std`, and `name` where the model has several. The program makes the model's input of it: numbers become `f32`, channels\n\
         that come last go first, and elements become `(x - mean) / std`. That needs an input of real numbers, with as many channels\n\
         (axis 1) as `mean` and `std` have values. Data files then hold what the camera gives; `--normalize` and `--layout nhwc`\n\
         would prepare it twice.",
    },
    Explanation {
        code: "E0150",
        title: "external data is refused",
        text: "Weights outside the model file must lie in regular files below the model's folder, reached by a relative path without `..`\n\
         and without symbolic or hard links, with an offset inside the file and exactly as many bytes as the tensor's shape says.",
    },
    Explanation {
        code: "E0160",
        title: "the cluster file cannot be used",
        text: "It cannot be read, is not TOML, or has unknown or missing keys. The message shows the line. Configuration files\n\
         (cluster, target, measurements, tuning record) are regular files of at most 1 MiB.",
    },
    Explanation {
        code: "E0161",
        title: "the cluster has no devices, or too many",
        text: "A cluster has at least one `[[device]]` and at most the number that the message names.",
    },
    Explanation {
        code: "E0162",
        title: "a device name cannot be used",
        text: "Names are unique and consist of up to 28 lower-case letters, digits and dashes, which stand neither first nor\n\
         last: they become folder and file names. The cluster's own name has up to 64 characters on one line.",
    },
    Explanation {
        code: "E0163",
        title: "a quantity cannot be read",
        text: "Sizes are like `512 KiB`, rates like `100 Mbit/s`, times like `1 ms`: a number and a unit. A device's share of a\n\
         core is a number up to 1, its threads a whole number; firmware has one thread. Numbers that no machine has are\n\
         refused, here, in target files and in measurements; what is taken is:\n\
         \n\
         {ranges}",
    },
    Explanation {
        code: "E0164",
        title: "addresses do not fit the devices, or nobody can log in there",
        text: "An address is the first of a range, or a list with one entry per device, each `host:port`. No two devices have\n\
         the same. `user` and `ssh_port` say how `--deploy` logs in there; without them ssh's own configuration does.",
    },
    Explanation {
        code: "E0165",
        title: "a transport cannot be used",
        text: "The transport of a link is unknown, or one of the devices does not have it.",
    },
    Explanation {
        code: "E0166",
        title: "a link is malformed",
        text: "A link joins at least two different devices, and two devices are joined once.",
    },
    Explanation {
        code: "E0167",
        title: "a device is not in the cluster",
        text: "A link, an input, an output or a condition names a device that no `[[device]]` declares.",
    },
    Explanation {
        code: "E0168",
        title: "a target is not known",
        text: "A target is the name of a file in `targets/`, or the path of your own file with the same keys. Its `name` consists\n\
         of letters, digits, `-`, `_` and `.`, its `description` is one line; `--explain E0163` lists the ranges of its numbers.",
    },
    Explanation {
        code: "E0169",
        title: "measurements cannot be used",
        text: "`compile --measure` writes what it measured to CLUSTER.measured.toml beside the cluster file; later compilations\n\
         read it there, or where `--measured` says. It holds positive factors: measured time divided by predicted time.\n\
         Measure again, or remove the file.",
    },
    Explanation {
        code: "E0170",
        title: "no placement fits the devices",
        text: "The layers cannot be placed so that every device keeps its RAM and flash limits. The message names the limit that binds and\n\
         what would be needed. Exit status 3.",
    },
    Explanation {
        code: "E0171",
        title: "no links lead from the input to the answer",
        text: "The device that holds the input and the one that wants the answer are not joined by links, not even over others.\n\
         Exit status 3.",
    },
    Explanation {
        code: "E0172",
        title: "the fastest plan is too slow",
        text: "A plan exists, but misses `--max-latency`, or `max_latency` in the cluster file. Allow more time, or use faster devices or links. Exit status 3.",
    },
    Explanation {
        code: "E0173",
        title: "a tuning record cannot be used",
        text: "`compile --tune` measures the kernels that can do each convolution on the cluster's devices and writes the best to\n\
         CLUSTER.tuned.toml beside the cluster file; later compilations read it there, or where `--tuned` says. Tune again,\n\
         or remove the file.",
    },
    Explanation {
        code: "E0174",
        title: "an emulator would be measured",
        text: "`--measure` and `--tune` write down how fast devices are, and later compilations believe it. Without `--launcher` a\n\
         foreign device runs in an emulator of this machine, whose times have nothing to do with the device's. Give a\n\
         launcher that starts the programs on the devices, or insist with `--measure-emulated`; the file then says so.",
    },
    Explanation {
        code: "E0175",
        title: "a plan cannot be used",
        text: "`--plan` takes the `plan.pb` of an earlier bundle, made for the same model (after the same passes) and for devices of the\n\
         same names in the same order. Leave it out to plan anew.",
    },
    Explanation {
        code: "E0180",
        title: "the error code is not known",
        text: "`--explain` takes one of the codes that messages carry, such as E0130.",
    },
    Explanation {
        code: "E0181",
        title: "devices cannot prove who they are",
        text: "Devices prove to each other who they are, unless the cluster file says `security = \"none\"`: each has a private key,\n\
         which never leaves it, and knows the public ones of its peers. `PROGRAM keygen` makes a key on the device and prints\n\
         what belongs into `identity`; for devices without `identity` the compiler makes keys, in `identity/` of the output\n\
         folder. Firmware has no random source and takes part only in clusters that say `security = \"none\"`; there, whoever\n\
         reaches a device is believed and reads everything.",
    },
    Explanation {
        code: "E0183",
        title: "the loss of a device cannot be prepared for",
        text: "`survive = 1` of the cluster file keeps a plan ready for the loss of any one device, those that hold the input or\n\
         want the answer apart: what others do then takes weights, which have to fit beside those of the first plan. States that\n\
         stay on their device would be lost with it, and variants have conditions of their own (`[[condition]] missing`).",
    },
    Explanation {
        code: "E0190",
        title: "a classifier is needed",
        text: "An exit answers in place of the model, and variants are compared by how many samples they classify rightly, so the\n\
         model must have one output of scores or probabilities, [1, classes].",
    },
    Explanation {
        code: "E0191",
        title: "there is no place for an exit",
        text: "An exit lies behind a node whose result is all that the rest of the network reads. This graph has no such node before\n\
         its end.",
    },
    Explanation {
        code: "E0192",
        title: "nothing can be learned from the calibration samples",
        text: "Heads of exits are trained and judged on the calibration samples, and variants are found and judged on them: there\n\
         must be enough of them, of several classes, with labels that count the model's classes from 0. The model must not\n\
         have been trained on them, or exits become overconfident and variants look better than they are.",
    },
    Explanation {
        code: "E0193",
        title: "the model cannot be quantized",
        text: "--quantize makes whole numbers of a model of real ones: convolutions and matrix products whose weights are constant.\n\
         A model that holds QuantizeLinear, or QLinear operators, is quantized already, and is computed in its own whole\n\
         numbers without the option.",
    },
    Explanation {
        code: "E0194",
        title: "no quantization keeps the limits",
        text: "Layers are kept in f32 one after the other, those first that disturb the answer most, until --max-loss, --min-accuracy\n\
         and --max-class-loss are proven with 90 % probability by the calibration samples that judge (half of them, or all but\n\
         512). Few samples prove little: a loss below 1 point takes 128 of them at least, even where no answer changes.",
    },
    Explanation {
        code: "E0195",
        title: "the model cannot be written as ONNX",
        text: "--write-onnx writes the simplified graph with QuantizeLinear and DequantizeLinear around what is computed in whole\n\
         numbers. An operator that ONNX has no word for, or a file larger than 2 GB, cannot be written.",
    },
    Explanation {
        code: "E0196",
        title: "nothing in the network can go",
        text: "Variants leave out residual branches, skip connections, projections and operands of concatenations. A network without\n\
         any has no variants; early exits (--exits auto) may still make it cheaper.",
    },
    Explanation {
        code: "E0197",
        title: "the model has real numbers, and whole ones are wanted",
        text: "`--numbers int8` computes in whole numbers of 8 bits. A quantized model (QDQ, QLinear operators) says which; for any\n\
         other model calibration samples show the ranges of its activations: `--numbers int8 --calibration DATA.npz` does\n\
         what `--quantize int8` does.",
    },
    Explanation {
        code: "E0700",
        title: "a device cannot be installed on",
        text: "Before anything is switched, `--deploy` looks at all machines: whether ssh gets there without a password and with a\n\
         known host key, whether the machine is of the target's kind, has room, and starts the program. Each that is in the\n\
         way is named; what runs there goes on. Microcontrollers are flashed, and clusters with them are started by hand.",
    },
    Explanation {
        code: "E0701",
        title: "the new plan does not answer; the old one runs again",
        text: "After `--deploy` has switched all devices, it hands an input to the device that holds it, and waits for an answer\n\
         that agrees with the reference kernels. Without one in time, every device goes back to its old version, or what was\n\
         installed is removed again if there was none. What the devices said by then stands below the message. (An answer\n\
         that is there and wrong is E0800.)",
    },
    Explanation {
        code: "E0702",
        title: "a device does not answer",
        text: "`--status` has reached no device on which anything is installed, or some are not reached, or their processes do not\n\
         answer. The table says which.",
    },
    Explanation {
        code: "E0800",
        title: "an emitted program computes something else",
        text: "`--verify` found an element that differs from the reference kernels by more than the tolerance. This is a bug; please\n\
         report it. Exit status 4.",
    },
    Explanation {
        code: "E0900",
        title: "the compiler broke its own rule",
        text: "An internal check failed. The model may be unusual, but the bug is ours; please report it.",
    },
    Explanation {
        code: "N0110",
        title: "a graph output is listed twice",
        text: "Answers go by name, so there is one array for it. To get it twice, give the second another name (an Identity node).",
    },
    Explanation {
        code: "N0121",
        title: "an open batch is taken as 1",
        text: "The model leaves the first dimension of inputs open. `--shape` gives it another extent; `--batch N` answers N samples\n\
         together and may share them among devices.",
    },
    Explanation {
        code: "N0135",
        title: "both branches of an If are computed",
        text: "The condition of an `If` depends on data, and a program is static: both branches are computed, and of each result the one\n\
         that the condition says is taken. Where the condition follows from inputs of few numbers, such as a sampling rate,\n\
         `--set NAME=VALUE` fixes them, and one branch goes.",
    },
    Explanation {
        code: "N0136",
        title: "numbers where the model has words or maps",
        text: "Programs compute with numbers. A classifier whose classes are words answers with the place of the class in the model's\n\
         list, counted from 0, and what ZipMap makes a list of maps of is one table: a row for each sample, a column for each\n\
         class. The note under the remark has the list.",
    },
    Explanation {
        code: "W0131",
        title: "the model declares shapes that are not so",
        text: "Shapes that the file declares for outputs or for tensors in between contradict those that follow from the inputs and the\n\
         operators. The latter count. Exporters leave such behind; if the model was edited by hand, look there.",
    },
    Explanation {
        code: "W0132",
        title: "constants with elements that are no finite numbers",
        text: "A warning. NaN and infinity in weights are computed with as IEEE 754 says, and usually spoil every answer: most often\n\
         the model was saved after its training had diverged. Minus infinity in a mask is meant so, and harmless.",
    },
    Explanation {
        code: "W0133",
        title: "sums of whole numbers may be rounded",
        text: "A warning. Quantized models are computed with whole numbers in `f32`, which holds all of them up to 2^24: sums below are\n\
         exact, in whatever order a kernel or several devices add them. Weights and ranges of the nodes that are named allow\n\
         larger sums. Such a sum is rounded (relatively by 6e-8 at each addition), so a result that lies between two steps\n\
         may become the one on one target or plan and the other on another.",
    },
    Explanation {
        code: "W0134",
        title: "a BatchNormalization is in its training form",
        text: "Before opset 14, a BatchNormalization that lists five results normalises by the mean and variance of the batch that it is\n\
         given, not by those that were learned (ONNX says so, and onnxruntime does it). Export the model for inference.",
    },
    Explanation {
        code: "W0135",
        title: "how many rows are filled is known only when the program runs",
        text: "NonMaxSuppression keeps as many boxes as their scores and places say, and a program is static: its result has the number\n\
         of rows that the model declares for it, or else as many as there can be (images x classes x the most boxes of a class).\n\
         Each row is image, class and box, in the order of onnxruntime; rows behind the last box that is kept hold -1, so what\n\
         reads them stops at the first row whose first number is negative. Boxes beyond the rows that the model declares are left\n\
         out. An operator behind it that takes its rows for indices takes -1 for the last element.",
    },
];

/// The page of a code such as `E0130`; unknown codes are answered with the list of all.
pub fn explain(code: &str) -> Result<String, Vec<Diagnostic>> {
    match CODES.iter().find(|explanation| explanation.code.eq_ignore_ascii_case(code)) {
        Some(explanation) => {
            let text = explanation
                .text
                .replace("{operators}", &onnx::supported_operators().join(" "))
                .replace("{folded}", &onnx::folded_operators().join(", "))
                .replace("{ranges}", &config::ranges::table());
            Ok(format!("{}: {}\n\n{text}", explanation.code, explanation.title))
        }
        None => {
            let known: Vec<&str> = CODES.iter().map(|explanation| explanation.code).collect();
            let message = format!("there is no error code `{}`", printable(code));
            Err(vec![Diagnostic::new("E0180", message).note(format!("codes: {}", known.join(", ")))])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CODES, explain};

    #[test]
    fn codes_are_ascending_and_explained() {
        assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
        for explanation in CODES {
            assert!(explain(explanation.code).is_ok_and(|text| text.len() > 60), "{}", explanation.code);
        }
        assert!(explain("E0140").is_ok_and(|text| text.contains(" Conv ") && text.contains(" Upsample ")));
        assert!(explain("E9999").is_err());
    }
}
