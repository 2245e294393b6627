//! The table `[input]` of cluster.toml: how the input is handed in, where that is not as the model takes it.

use toml::Spanned;

use super::cluster_file::Checker;
use super::tables::InputTable;
use partita_ir::diagnostic::{did_you_mean, printable};
use partita_ir::graph::{ElementType, InputForm};

/// Most values of `mean` and `std`; a model has fewer channels.
const MAX_CHANNELS: usize = 65_536;

/// Element types in which inputs come: what cameras, microphones and converters give.
const ELEMENTS: [&str; 7] = ["u8", "i8", "u16", "i16", "i32", "u32", "f32"];

impl Checker<'_> {
    /// Checks the table. Whether it fits the model is seen when there is one.
    pub(super) fn input_form(&mut self, table: &InputTable) -> InputForm {
        InputForm {
            name: table.name.clone(),
            element: table.dtype.as_ref().and_then(|name| self.element(name)),
            channels_last: table.layout.as_ref().is_some_and(|layout| self.is_channels_last(layout)),
            mean: self.values("mean", table.mean.as_ref(), 0.0),
            std: self.values("std", table.std.as_ref(), 1.0),
        }
    }

    fn element(&mut self, name: &Spanned<String>) -> Option<ElementType> {
        let found = ElementType::from_name(name.get_ref()).filter(|element| ELEMENTS.contains(&element.name()));
        if found.is_none() {
            let message = format!("`{}` is no element type of an input", printable(name.get_ref()));
            // As NumPy and ONNX spell them.
            let spelt = name.get_ref().replace("uint", "u").replace("int", "i").replace("float", "f");
            let help = if ELEMENTS.contains(&spelt.as_str()) {
                format!("did you mean `{spelt}`?")
            } else {
                did_you_mean(name.get_ref(), "element types", &ELEMENTS)
            };
            self.problem(name.span(), "E0163", message, Some(help));
        }
        found
    }

    fn is_channels_last(&mut self, layout: &Spanned<String>) -> bool {
        if !["nchw", "nhwc"].contains(&layout.get_ref().as_str()) {
            let message = format!("`{}` is no layout", printable(layout.get_ref()));
            let help = "write \"nhwc\" if channels come last, as from a camera, or \"nchw\"".to_string();
            self.problem(layout.span(), "E0163", message, Some(help));
        }
        layout.get_ref() == "nhwc"
    }

    /// One value, or one per channel, all of them ordinary numbers; what is divided by is not 0.
    fn values(&mut self, key: &str, given: Option<&Spanned<toml::Value>>, neutral: f32) -> Vec<f32> {
        let Some(given) = given else { return vec![neutral] };
        let is_right = |value: &f32| value.is_finite() && (key != "std" || value.is_normal());
        let number = |value: &toml::Value| match value {
            toml::Value::Integer(value) => Some(*value as f32).filter(is_right),
            toml::Value::Float(value) => Some(*value as f32).filter(is_right),
            _ => None,
        };
        let values: Option<Vec<f32>> = match given.get_ref() {
            toml::Value::Array(values) => values.iter().map(number).collect(),
            value => number(value).map(|value| vec![value]),
        };
        let Some(values) = values.filter(|values| (1..=MAX_CHANNELS).contains(&values.len())) else {
            let message = format!("`{key}` is not a number, or one for each channel");
            let not_zero = if key == "std" { ", none of them 0" } else { "" };
            let help = format!("write it like {key} = [123.7, 116.3, 103.5], in units of the elements{not_zero}");
            self.problem(given.span(), "E0163", message, Some(help));
            return vec![neutral];
        };
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::cluster_file::parse;
    use std::path::Path;

    fn read(input: &str) -> Result<Cluster, String> {
        let text = format!(
            "[cluster]\nname = \"c\"\ninput = \"a\"\noutput = \"a\"\n{input}\n[[device]]\nname = \"a\"\ntarget = \"x86-64-v3\"\n"
        );
        parse(&text, "cluster.toml", Path::new(".")).map_err(|problems| format!("{problems:?}"))
    }

    #[test]
    fn a_camera_is_described() {
        assert_eq!(read("").expect("it is optional").input_form, None);
        let text = "[input]\nname = \"x\"\ndtype = \"u8\"\nlayout = \"nhwc\"\nmean = [1, 2.5, 3]\nstd = 255";
        let expected = InputForm {
            name: Some("x".to_string()),
            element: Some(ElementType::U8),
            channels_last: true,
            mean: vec![1.0, 2.5, 3.0],
            std: vec![255.0],
        };
        assert_eq!(read(text).expect("it fits").input_form, Some(expected));
    }

    #[test]
    fn what_is_no_input_is_refused() {
        for (line, expected) in [
            ("dtype = \"uint8\"", "no element type"),
            ("layout = \"hwc\"", "no layout"),
            ("std = 0.0", "none of them 0"),
            ("mean = []", "one for each channel"),
            ("mean = nan", "not a number"),
            ("mean = \"123\"", "not a number"),
            ("size = 3", "unknown field"),
        ] {
            let refusal = read(&format!("[input]\n{line}")).expect_err("it is wrong");
            assert!(refusal.contains(expected), "{line}: {refusal}");
        }
    }
}
