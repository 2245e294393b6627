//! Reads and checks cluster.toml; every problem is reported at once, with its line.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use super::cluster::Cluster;
use super::tables::File;
use super::{quantity, ranges};
use partita_files::{file, file_kind};
use partita_ir::diagnostic::{Diagnostic, did_you_mean, did_you_mean_field, parser_words, place, printable};

/// Most problems of one file that are shown; nobody reads more at once.
const MAX_PROBLEMS: usize = 20;

/// Most devices that a message lists.
const MAX_LISTED: usize = 40;

/// Longest name of a cluster, in characters.
const MAX_CLUSTER_NAME: usize = 64;

/// What a missing key may look like.
const EXAMPLES: &[(&str, &str)] = &[
    ("cluster", "[cluster]\n      name = \"home\"\n      input = \"cam\"\n      output = \"hub\""),
    ("name", "name = \"cam\""),
    ("target", "target = \"raspberry-pi-4\""),
    ("input", "input = \"cam\", the device that holds the input"),
    ("output", "output = \"hub\", the device that wants the answer"),
    ("between", "between = [\"cam\", \"hub\"]"),
    ("transport", "transport = \"tcp\""),
    ("bandwidth", "bandwidth = \"100 Mbit/s\""),
];

/// Reads a cluster file; targets named by a path are relative to it.
pub fn read(path: &Path) -> Result<Cluster, Vec<Diagnostic>> {
    let shown = printable(&path.display().to_string());
    let refuse = |problem: String| Diagnostic::new("E0160", format!("cluster `{shown}` {problem}"));
    let bytes = match file::read(path, file::MAX_TEXT_BYTES) {
        Ok(bytes) => bytes,
        Err(problem) if path.extension().is_some_and(|extension| extension == "onnx") => {
            return Err(vec![refuse(problem).help(SWAPPED)]);
        }
        Err(problem) => return Err(vec![refuse(problem)]),
    };
    let kind = file_kind::recognise(&bytes);
    let text = file::into_text(bytes).map_err(|problem| match kind {
        Some(file_kind::ONNX) => vec![refuse("is an ONNX model".to_string()).help(SWAPPED)],
        Some(kind) => vec![refuse(format!("is {}, expected a TOML file", kind.what))],
        None => vec![refuse(problem)],
    })?;
    parse(&text, &shown, path.parent().unwrap_or(Path::new(".")))
}

/// What to do where model and cluster were mixed up.
const SWAPPED: &str = "the model comes first, the cluster behind --targets: compile MODEL.onnx --targets CLUSTER.toml";

/// Checks the text of a cluster file.
pub fn parse(text: &str, file_name: &str, folder: &Path) -> Result<Cluster, Vec<Diagnostic>> {
    let file: File = toml::from_str(text).map_err(|error| vec![unreadable(text, file_name, &error)])?;
    let mut checker = Checker {
        text,
        file_name,
        folder,
        problems: Vec::new(),
        groups: BTreeMap::new(),
        refused: HashSet::new(),
        name_taken: false,
    };
    let devices = checker.devices(&file.device);
    let (links, media) = checker.links(&file.link, &devices);
    let table = file.cluster.get_ref();
    let input = checker.one_device(&table.input);
    let output = checker.one_device(&table.output);
    let conditions = checker.conditions(&file.condition, &devices, &links);
    let max_latency_ms = table.max_latency.as_ref().and_then(|text| checker.latency_limit(text));
    let input_form = file.input.as_ref().map(|table| checker.input_form(table));
    let security = checker.security(table.security.as_ref(), &file.device);
    let survives = checker.survives(table.survive.as_ref());
    checker.cluster_name(&table.name);
    match (input, output) {
        (Some(input), Some(output)) if checker.problems.is_empty() => Ok(Cluster {
            name: table.name.get_ref().clone(),
            devices,
            links,
            media,
            input,
            output,
            conditions,
            max_latency_ms,
            input_form,
            security,
            survives,
        }),
        _ => Err(checker.into_problems()),
    }
}

/// What is wrong with a file that is no cluster file at all, and what to do.
fn unreadable(text: &str, file_name: &str, error: &toml::de::Error) -> Diagnostic {
    let refuse = |message: &str| Diagnostic::new("E0160", format!("cluster `{file_name}`: {message}"));
    // `[device]` is one table, and a second one is taken for a repetition: whatever the parser says of it, this is the cause.
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let header = line.split('#').next().unwrap_or("").trim();
        let (right, why) = match header {
            "[device]" => ("[[device]]", "there may be several"),
            "[link]" => ("[[link]]", "there may be several"),
            "[condition]" => ("[[condition]]", "there may be several"),
            "[[cluster]]" => ("[cluster]", "there is one only"),
            _ => {
                start += line.len();
                continue;
            }
        };
        let at = start + line.find(header).unwrap_or(0);
        return refuse(&format!("`{header}` should be `{right}`: {why}"))
            .note(place(text, file_name, at..at + header.len()))
            .help(format!("write `{right}`"));
    }
    let said = error.message();
    let is_address = said.contains("untagged enum Addresses");
    let said = match said {
        _ if is_address => "an address is a string, or a list of strings",
        _ if said.contains("untagged enum Identities") => "an identity is a string, or a list of strings",
        _ => said,
    };
    let mut diagnostic = refuse(&parser_words(said));
    if let Some(span) = error.span() {
        diagnostic = diagnostic.note(place(text, file_name, span));
    }
    let missing = said.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let example = EXAMPLES.iter().find(|(key, _)| Some(*key) == missing);
    let address = is_address.then(|| "write \"host:port\", for example \"192.168.1.20:7100\"".to_string());
    diagnostic.help = address
        .or_else(|| did_you_mean_field(said))
        .or_else(|| Some(format!("add it, for example {}", example.map(|(_, text)| text)?)));
    diagnostic
}

/// A file while it is checked.
pub(super) struct Checker<'a> {
    text: &'a str,
    file_name: &'a str,
    pub(super) folder: &'a Path,
    problems: Vec<Diagnostic>,
    /// Devices of each name in the file: `pi` with `count = 5` is five.
    pub(super) groups: BTreeMap<String, Vec<usize>>,
    /// Names of devices that were refused, about which nothing more has to be said.
    pub(super) refused: HashSet<String>,
    /// A name was given twice: one of the two is meant to be another, which is unknown.
    pub(super) name_taken: bool,
}

impl Checker<'_> {
    pub(super) fn problem(&mut self, span: Range<usize>, code: &'static str, message: String, help: Option<String>) {
        let mut diagnostic = Diagnostic::new(code, message);
        diagnostic.help = help;
        self.add(diagnostic, span);
    }

    pub(super) fn add(&mut self, diagnostic: Diagnostic, span: Range<usize>) {
        if !self.is_full() {
            self.problems.push(diagnostic.note(place(self.text, self.file_name, span)));
        }
    }

    /// Whether so much is wrong that no more is looked for.
    pub(super) fn is_full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS
    }

    /// Whether anything is wrong so far.
    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    fn into_problems(mut self) -> Vec<Diagnostic> {
        if self.is_full()
            && let Some(last) = self.problems.pop()
        {
            self.problems.push(last.note("there may be more; this is enough for once"));
        }
        self.problems
    }

    fn cluster_name(&mut self, name: &Spanned<String>) {
        let text = name.get_ref();
        if !(1..=MAX_CLUSTER_NAME).contains(&text.chars().count()) || text.contains(char::is_control) {
            let help = Some(format!("use 1 to {MAX_CLUSTER_NAME} characters on one line"));
            self.problem(name.span(), "E0162", format!("`{}` is not a name for a cluster", printable(text)), help);
        }
    }

    /// Says that a device is not declared, unless that follows from what was said before.
    pub(super) fn unknown_device(&mut self, name: &str, span: Range<usize>) {
        if self.refused.contains(name) || self.name_taken || self.groups.is_empty() {
            self.refused.insert(name.to_string());
            return;
        }
        let known: Vec<&str> = self.groups.keys().map(String::as_str).take(MAX_LISTED).collect();
        let help = Some(did_you_mean(name, "declared devices", &known));
        self.problem(span, "E0167", format!("unknown device `{}`", printable(name)), help);
    }

    /// The one device of a name.
    pub(super) fn one_device(&mut self, name: &Spanned<String>) -> Option<usize> {
        match self.groups.get(name.get_ref()).map(Vec::as_slice) {
            Some([device]) => Some(*device),
            Some(several) => {
                let message = format!("`{}` is {} devices, expected one", name.get_ref(), several.len());
                self.problem(name.span(), "E0167", message, Some(format!("for example `{}-0`", name.get_ref())));
                None
            }
            None => {
                self.unknown_device(name.get_ref(), name.span());
                None
            }
        }
    }

    /// Whether the loss of a device is prepared for. It is not if nothing is said.
    fn survives(&mut self, given: Option<&Spanned<i64>>) -> bool {
        match given.map(|given| (given.get_ref(), given.span())) {
            None | Some((0, _)) => false,
            Some((1, _)) => true,
            Some((other, span)) => {
                let help = "0, or 1: any one device may be lost, those that hold the input and want the answer apart";
                self.problem(span, "E0183", format!("`survive` is {other}, expected 0 or 1"), Some(help.to_string()));
                false
            }
        }
    }

    fn latency_limit(&mut self, text: &Spanned<String>) -> Option<f64> {
        let found = quantity::milliseconds(text.get_ref());
        let message = match found.map(|limit_ms| ranges::MAX_LATENCY.check(limit_ms)) {
            Some(Ok(limit_ms)) => return Some(limit_ms),
            Some(Err(problem)) => format!("`max_latency` {problem}"),
            None => format!("`{}` is not a time", printable(text.get_ref())),
        };
        self.problem(text.span(), "E0163", message, Some("write it like \"50 ms\"".to_string()));
        None
    }
}
