//! Which options go together: every rule once, with its reason. An option that would do nothing is refused.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::cli::{Arguments, Format, Switch};
use crate::config::{measured, tuned};
use crate::diagnostic::printable;
use crate::links::LinkError;
use crate::options::Numbers;
use crate::partition::StrategyFamily;

/// An option that does something only beside others.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Name of the argument, or `name=value`.
    pub option: &'static str,
    /// One of these suffices.
    pub any_of: &'static [&'static str],
    /// What it is for.
    pub why: &'static str,
}

/// Two options that exclude each other.
#[derive(Clone, Copy, Debug)]
pub struct Clash {
    /// Names of the arguments, or `name=value`.
    pub between: (&'static str, &'static str),
    /// They go together beside one of these.
    pub unless: &'static [&'static str],
    /// Why.
    pub why: &'static str,
}

/// An option beside which most others would do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Alone {
    /// Name of the argument.
    pub option: &'static str,
    /// What goes beside it.
    pub beside: &'static [&'static str],
    /// Why no more does.
    pub why: &'static str,
}

/// What asks for calibration samples.
const STUDIES: &[&str] = &["exits", "variants", "exit_outputs", "quantize"];

const fn need(option: &'static str, any_of: &'static [&'static str], why: &'static str) -> Need {
    Need { option, any_of, why }
}

const fn clash(a: &'static str, b: &'static str, why: &'static str) -> Clash {
    Clash { between: (a, b), unless: &[], why }
}

const SAMPLES_TEACH: &str = "they are made from calibration samples";
const LIMITS_LOSS: &str = "it bounds what quantization, exits and variants may lose";
const OF_QUANTIZATION: &str = "it is about whole numbers that calibration samples make";
const OF_CALIBRATION: &str = "it is about the samples that exits learn from";

/// What needs company.
pub const NEEDS: &[Need] = &[
    need("timeline", &["simulate"], "it is the course of an inference as it is predicted"),
    need("input", &["run"], "it is what --run infers from"),
    need("output", &["run"], "it is where --run writes its answer"),
    need("repeat", &["run"], "it says how often --run infers"),
    need("samples", &["evaluate"], "it says how many samples are evaluated"),
    need("log", &["evaluate"], "it has a line for each evaluated sample"),
    need("normalize", &["evaluate", "calibration", "input"], "it is applied to data from a file, and none is given"),
    need("layout", &["evaluate", "calibration", "input"], "it is the layout of data from a file, and none is given"),
    need("launcher", &["run", "evaluate", "verify", "measure", "tune"], "it starts devices, and nothing is run"),
    need("symbols", &["build", "run", "evaluate", "verify", "deploy", "measure", "tune"], "no program is built"),
    need("no_build_cache", &["build", "run", "evaluate", "verify", "deploy", "measure", "tune"], "no program is built"),
    need("quantize", &["calibration"], "ranges of activations are learned from calibration samples"),
    need("quantize_ranges", &["quantize"], OF_QUANTIZATION),
    need("write_onnx", &["quantize"], OF_QUANTIZATION),
    need("exits", &["calibration"], SAMPLES_TEACH),
    need("variants", &["calibration"], SAMPLES_TEACH),
    need("exit_outputs", &["calibration"], SAMPLES_TEACH),
    need(
        "calibration",
        &["exits", "variants", "exit_outputs", "quantize", "link_error"],
        "calibration samples serve quantization, exits, variants and --link-error, and none is asked for",
    ),
    need("max_loss", STUDIES, LIMITS_LOSS),
    need("min_accuracy", STUDIES, LIMITS_LOSS),
    need("max_class_loss", STUDIES, LIMITS_LOSS),
    need("holdout", STUDIES, "it says how far calibration samples can be trusted"),
    need("training", &["exits"], "heads of exits learn from it"),
    need("groups", &["exits", "exit_outputs"], OF_CALIBRATION),
    need("stream", &["exits", "exit_outputs"], OF_CALIBRATION),
    need("effort", &["exits"], "it says how long heads of exits learn"),
    need("measure_emulated", &["measure", "tune"], "it says from what --measure and --tune may learn"),
    need("strategy=batch", &["batch"], "it shares samples that are answered together, and there is one"),
    need("print_ir_after=quantize", &["quantize"], "there is no such stage without --quantize"),
    need("print_ir_after=exits", &["exits", "exit_outputs"], "there is no such stage without exits"),
    need("print_ir_after=batch", &["batch"], "there is no such stage for one sample"),
];

const BUILDS_NOTHING: &str = "--simulate only predicts; nothing is built or run";
const MEASURES_ONLY: &str =
    "it compiles and runs the model several times, as it needs, and writes nothing but what it has measured";
const MEASURES_WHOLE: &str = "the network is measured as it is";
const ONE_STUDY: &str = "exits and variants are for one sample at a time";
const KEEPS_STATES: &str = "an answer that comes early leaves no states";
const JUDGED_EXACT: &str = "what exits and variants lose is judged with links that send every number as it is";
const PLAN_SAYS: &str = "the earlier plan says it";

/// What excludes each other.
pub const CLASHES: &[Clash] = &[
    clash("simulate", "build", BUILDS_NOTHING),
    clash("simulate", "run", BUILDS_NOTHING),
    clash("simulate", "verify", BUILDS_NOTHING),
    clash("simulate", "deploy", BUILDS_NOTHING),
    clash("simulate", "measure", BUILDS_NOTHING),
    clash("simulate", "tune", BUILDS_NOTHING),
    clash("simulate", "log", BUILDS_NOTHING),
    clash("simulate", "symbols", BUILDS_NOTHING),
    clash("simulate", "no_build_cache", BUILDS_NOTHING),
    clash("simulate", "launcher", BUILDS_NOTHING),
    Clash {
        between: ("simulate", "evaluate"),
        unless: &["variants"],
        why: "only variants are evaluated on this machine; leave --simulate out to build and run",
    },
    clash("measure", "tune", "each compiles and runs the model several times, as it needs"),
    clash("measure", "build", MEASURES_ONLY),
    clash("measure", "run", MEASURES_ONLY),
    clash("measure", "evaluate", MEASURES_ONLY),
    clash("measure", "verify", MEASURES_ONLY),
    clash("measure", "deploy", MEASURES_ONLY),
    clash("measure", "print_ir_after", MEASURES_ONLY),
    clash("measure", "format=json", "what --measure says is a table for people; its file is TOML"),
    clash("measure", "strategy", "--measure runs the model by each family in turn"),
    clash("measure", "plan", "--measure runs the model by each family in turn"),
    clash("measure", "max_latency", "every family is measured, however long it takes"),
    clash("measure", "quantize", MEASURES_WHOLE),
    clash("measure", "exits", MEASURES_WHOLE),
    clash("measure", "variants", MEASURES_WHOLE),
    clash("measure", "exit_outputs", MEASURES_WHOLE),
    clash("tune", "build", MEASURES_ONLY),
    clash("tune", "run", MEASURES_ONLY),
    clash("tune", "evaluate", MEASURES_ONLY),
    clash("tune", "verify", MEASURES_ONLY),
    clash("tune", "deploy", MEASURES_ONLY),
    clash("tune", "print_ir_after", MEASURES_ONLY),
    clash("tune", "format=json", "what --tune says is a table for people; its file is TOML"),
    clash("tune", "quantize", MEASURES_WHOLE),
    clash("tune", "exits", MEASURES_WHOLE),
    clash("tune", "variants", MEASURES_WHOLE),
    clash("tune", "exit_outputs", MEASURES_WHOLE),
    clash("plan", "objective", PLAN_SAYS),
    clash("plan", "advise", "an earlier plan is for the cluster as it is"),
    clash("measure", "advise", "families are measured on the cluster as it is"),
    clash("tune", "advise", "kernels are measured on the cluster as it is"),
    clash("plan", "strategy", PLAN_SAYS),
    clash("plan", "variants", "each variant is planned anew"),
    clash("link_error", "plan", PLAN_SAYS),
    clash("link_error", "exits", JUDGED_EXACT),
    clash("link_error", "variants", JUDGED_EXACT),
    clash("link_error", "exit_outputs", JUDGED_EXACT),
    clash("link_error", "quantize", "whole numbers travel as the bytes that they are, exactly"),
    clash("link_error", "measure", "families are measured with links that send every number as it is"),
    clash("link_error", "tune", "kernels are measured, and no links"),
    clash("numbers=f32", "quantize", "one asks for real numbers, the other for whole ones"),
    clash("numbers=f32", "weights", "one asks for 32 bits, the other for fewer"),
    clash("numbers=f32", "link_error", "every number is sent in 32 bits, too"),
    clash("quantize", "weights", "whole weights are stored in 8 bits as they are"),
    clash("quantize", "exit_outputs", "quantization is judged by one answer, and such a model has several"),
    clash("quantize", "states", "calibration samples do not follow each other"),
    clash("batch", "exits", ONE_STUDY),
    clash("batch", "variants", ONE_STUDY),
    clash("batch", "exit_outputs", ONE_STUDY),
    clash("exit_outputs", "exits", "either the model's own exits are calibrated, or new ones are trained"),
    clash("exit_outputs", "variants", "a network with several outputs has no variants"),
    clash("exit_outputs", "training", "heads that the model has are not trained"),
    clash("states", "exits", KEEPS_STATES),
    clash("states", "variants", KEEPS_STATES),
    clash("states", "exit_outputs", KEEPS_STATES),
    clash("states", "evaluate", "samples are evaluated one by one, and do not follow each other"),
    clash("groups", "stream", "samples that follow each other are one group"),
    clash("print_ir_after", "format=json", "both write to standard output"),
    clash("verbose", "quiet", "one says more, the other less"),
];

/// What stands nearly alone.
pub const ALONE: &[Alone] = &[
    Alone {
        option: "status",
        beside: &["model", "targets", "out", "format", "quiet"],
        why: "it asks the devices, and compiles nothing",
    },
    Alone {
        option: "undeploy",
        beside: &["model", "targets", "format", "quiet"],
        why: "it removes what is on the devices, and compiles nothing",
    },
];

/// Reads the command line, program name first.
///
/// Errors: what clap refuses, and what the rules above do; also requests for help and version.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    // A negative number is answered by what an option takes; it is never taken for another option.
    let takes = |argument: &Arg| argument.get_long().is_some() && argument.get_action().takes_values();
    let negative = |argument: Arg| if takes(&argument) { argument.allow_negative_numbers(true) } else { argument };
    let mut command = Arguments::command().mut_args(negative);
    let matches = command.try_get_matches_from_mut(one_value_each(words))?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    match fault(&command, &matches, &arguments) {
        Some(message) => Err(command.error(ErrorKind::ArgumentConflict, message)),
        None => Ok(arguments),
    }
}

/// Options that take any number of values, each with a `=`: `--shape batch=1 height=320` is `--shape batch=1 --shape
/// height=320`. Clap would take the model for a value, too.
const REPEATED: [&str; 3] = ["--shape", "--set", "--state"];

fn one_value_each(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let is_value = |word: &OsString| word.to_str().is_some_and(|word| word.contains('=') && !word.starts_with('-'));
    let mut all: Vec<OsString> = Vec::new();
    for word in words {
        if let [.., option, last] = &all[..]
            && REPEATED.iter().any(|name| option == name)
            && is_value(last)
            && is_value(&word)
        {
            all.push(option.clone());
        }
        all.push(word);
    }
    all
}

/// The first rule that is broken, in words.
fn fault(command: &Command, matches: &ArgMatches, arguments: &Arguments) -> Option<String> {
    let given = |option: &str| is_given(matches, arguments, option);
    // What asks for whole numbers may be either.
    let by_numbers = arguments.quantize.is_none() && arguments.quantizes();
    let flag = |option: &str| match option {
        "quantize" if by_numbers => "--numbers int8".to_string(),
        option => flag(command, option),
    };
    for need in NEEDS.iter().filter(|need| given(need.option)) {
        if !need.any_of.iter().any(|other| given(other)) {
            let others: Vec<String> = need.any_of.iter().map(|other| flag(other)).collect();
            let option = flag(need.option);
            return Some(format!("{option} does nothing without {}: {}", others.join(" or "), need.why));
        }
    }
    for alone in ALONE.iter().filter(|alone| given(alone.option)) {
        let mut names = command.get_arguments().map(|argument| argument.get_id().as_str());
        let other = names.find(|name| *name != alone.option && !alone.beside.contains(name) && given(name));
        if let Some(other) = other {
            return Some(format!("{} and {} exclude each other: {}", flag(alone.option), flag(other), alone.why));
        }
    }
    let repeated = [
        ("--set", twice(arguments.fixed.iter().map(|(name, _)| name))),
        ("--shape", twice(arguments.shapes.iter().map(|(name, _)| name))),
    ];
    if let Some((option, name)) = repeated.iter().find_map(|(option, name)| Some((option, (*name)?))) {
        return Some(format!("{option} gives `{}` two values", printable(name)));
    }
    if let Some(fault) = replaced(arguments) {
        return Some(fault);
    }
    let broken = CLASHES.iter().find(|clash| {
        given(clash.between.0) && given(clash.between.1) && !clash.unless.iter().any(|other| given(other))
    })?;
    let (a, b) = (flag(broken.between.0), flag(broken.between.1));
    let unless = match broken.unless {
        [] => String::new(),
        others => {
            let others: Vec<String> = others.iter().map(|other| flag(other)).collect();
            format!(", unless with {}", others.join(" or "))
        }
    };
    Some(format!("{a} and {b} exclude each other{unless}: {}", broken.why))
}

/// A file that is read and would be replaced by one that is written.
fn replaced(arguments: &Arguments) -> Option<String> {
    // By number, since one file may have several names.
    let number = |path: &Path| path.metadata().ok().filter(Metadata::is_file).map(|it| (it.dev(), it.ino()));
    // Those beside the cluster file are read without being named.
    let beside = |own: &Option<PathBuf>, of: fn(&Path) -> PathBuf| own.clone().or(arguments.targets.as_deref().map(of));
    let texts = [
        ("the model", arguments.model.clone()),
        ("the cluster file", arguments.targets.clone()),
        ("what --plan reads", arguments.plan.clone()),
        ("what --measure has measured", beside(&arguments.measured, measured::default_path)),
        ("what --tune has tuned", beside(&arguments.tuned, tuned::default_path)),
    ];
    let texts = texts.into_iter().filter_map(|(what, path)| Some((what.to_string(), path?)));
    let data = arguments.data_files().into_iter();
    let data = data.map(|(option, path)| (format!("what {option} reads"), path.to_path_buf()));
    let read: Vec<_> = texts.chain(data).filter_map(|(what, path)| Some((what, number(&path)?))).collect();
    arguments.written_files().into_iter().find_map(|(option, path)| {
        let written = number(path)?;
        let (what, _) = read.iter().find(|(_, number)| *number == written)?;
        let shown = printable(&path.display().to_string());
        Some(format!("{option} would replace {what}, `{shown}`: name another file"))
    })
}

/// The first name that comes again.
fn twice<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    names.map(String::as_str).find(|name| !seen.insert(*name))
}

/// Whether an option was typed and asks for something.
fn is_given(matches: &ArgMatches, arguments: &Arguments, option: &str) -> bool {
    let typed = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    match option {
        "exits" => arguments.exits == Switch::Auto,
        "variants" => arguments.variants == Switch::Auto,
        "batch" => arguments.batch > 1,
        "format=json" => arguments.format == Format::Json,
        "link_error" => arguments.link_error.is_some_and(|error| error != LinkError::Exact),
        "quantize" => arguments.quantizes(),
        "numbers=f32" => arguments.numbers == Numbers::F32,
        "strategy=batch" => arguments.strategy == StrategyFamily::Batch,
        "print_ir_after=quantize" => arguments.print_ir_after.as_deref() == Some("quantize"),
        "print_ir_after=exits" => arguments.print_ir_after.as_deref() == Some("exits"),
        "print_ir_after=batch" => arguments.print_ir_after.as_deref() == Some("batch"),
        name => typed(name),
    }
}

/// An argument as one types it.
fn flag(command: &Command, option: &str) -> String {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let found = command.get_arguments().find(|argument| argument.get_id() == name);
    let long = found.and_then(clap::Arg::get_long).unwrap_or(name);
    let value = match option {
        "exits" | "variants" => "auto",
        _ => value,
    };
    format!("--{long}{}{value}", if value.is_empty() { "" } else { " " })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(words: &[&str]) -> Option<String> {
        let words = ["compile", "m.onnx", "--targets", "c.toml"].iter().chain(words);
        parse(words.map(OsString::from)).err().map(|error| error.to_string())
    }

    #[test]
    fn rules_name_arguments_that_exist() {
        let command = Arguments::command();
        let known = |option: &str| {
            let name = option.split('=').next().unwrap_or_default();
            command.get_arguments().any(|argument| argument.get_id() == name)
        };
        for need in NEEDS {
            assert!(known(need.option) && need.any_of.iter().all(|other| known(other)), "{need:?}");
        }
        for clash in CLASHES {
            assert!(known(clash.between.0) && known(clash.between.1), "{clash:?}");
            assert!(clash.unless.iter().all(|other| known(other)), "{clash:?}");
        }
        for alone in ALONE {
            assert!(known(alone.option) && alone.beside.iter().all(|other| known(other)), "{alone:?}");
        }
    }

    #[test]
    fn several_shapes_follow_one_option() {
        let words = [
            "compile",
            "--shape",
            "batch=1",
            "height=320",
            "m.onnx",
            "--set",
            "sr=16000",
            "n=2",
            "--targets",
            "c.toml",
        ];
        let arguments = parse(words.map(OsString::from)).expect("they are understood");
        let shapes = [("batch".to_string(), vec![1]), ("height".to_string(), vec![320])];
        assert_eq!(arguments.model.as_deref(), Some(std::path::Path::new("m.onnx")));
        assert_eq!(arguments.shapes, shapes);
        assert_eq!(arguments.fixed.len(), 2);
    }

    #[test]
    fn what_would_do_nothing_is_refused_with_the_reason() {
        assert_eq!(refusal(&[]), None);
        assert_eq!(refusal(&["--exits", "off", "--layout", "nchw", "--evaluate", "x.npz"]), None);
        assert_eq!(refusal(&["--simulate", "--out", "o"]), None);
        for (words, reason) in [
            (
                vec!["--exits", "auto"],
                "--exits auto does nothing without --calibration: they are made from calibration samples",
            ),
            (vec!["--calibration", "x.npz", "--exits", "off"], "none is asked for"),
            (vec!["--simulate", "--run"], "--simulate and --run exclude each other: --simulate only predicts"),
            (vec!["--simulate", "--evaluate", "x.npz"], "unless with --variants auto: only variants are evaluated"),
            (vec!["--set", "a=1", "b=1", "a=2"], "--set gives `a` two values"),
            (vec!["--shape", "x=1x3", "--shape", "x=1x4"], "--shape gives `x` two values"),
            (vec!["--objective", "latency=1,latency=2"], "latency is weighted twice"),
            (vec!["--measure", "--max-latency", "1"], "every family is measured"),
            (
                vec!["--simulate", "--variants", "auto", "--calibration", "x", "--evaluate", "x", "--symbols"],
                "nothing is built",
            ),
            (vec!["--strategy", "batch"], "--strategy batch does nothing without --batch"),
            (vec!["--print-ir-after", "partitoin"], "a similar value exists: 'partition'"),
            (vec!["--print-ir-after", "exits"], "there is no such stage without exits"),
            (vec!["--buidl"], "a similar argument exists: '--build'"),
            (vec!["--run", "--repeat", "0"], "expected a number from 1"),
        ] {
            let said = refusal(&words).unwrap_or_else(|| panic!("{words:?} is accepted"));
            assert!(said.contains(reason), "{words:?}: {said}");
        }
    }
}
