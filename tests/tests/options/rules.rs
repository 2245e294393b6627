//! Which options go together: every rule of the command line is kept, and nothing else is refused.

use clap::CommandFactory;
use partita::cli::Arguments;
use partita::usage::{self, ALONE, CLASHES, NEEDS};

/// Words by which an argument of the rules is given.
fn words(option: &str) -> Vec<String> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let command = Arguments::command();
    let argument = command.get_arguments().find(|argument| argument.get_id() == name).expect("rules name arguments");
    let value = match name {
        _ if !value.is_empty() => value.to_string(),
        "exits" | "variants" => "auto".to_string(),
        "batch" => "2".to_string(),
        "objective" => "memory".to_string(),
        "strategy" => "whole".to_string(),
        "layout" => "nhwc".to_string(),
        "normalize" => "mean=0,std=255".to_string(),
        "print_ir_after" => "partition".to_string(),
        "quantize" => "int8".to_string(),
        "numbers" => "f32".to_string(),
        "quantize_ranges" => "percentile".to_string(),
        "shapes" | "fixed" => "x=1".to_string(),
        "weights" => "f16".to_string(),
        "format" => "json".to_string(),
        "states" => "auto".to_string(),
        "link_error" => "1e-3".to_string(),
        "max_loss" | "min_accuracy" | "max_class_loss" => "0.5".to_string(),
        _ if argument.get_action().takes_values() => "1".to_string(),
        _ => String::new(),
    };
    let flag = format!("--{}", argument.get_long().expect("all of them have long names"));
    if value.is_empty() { vec![flag] } else { vec![flag, value] }
}

fn refusal(options: &[&str]) -> Option<String> {
    let given = options.iter().flat_map(|option| words(option));
    let all = ["compile", "m.onnx", "--targets", "c.toml"].map(String::from).into_iter().chain(given);
    usage::parse(all.map(std::ffi::OsString::from)).err().map(|error| error.to_string())
}

/// What else an option needs, so that only the rule in question is broken.
fn company(options: &[&'static str]) -> Vec<&'static str> {
    let mut all = options.to_vec();
    let mut at = 0;
    while let Some(option) = all.get(at).copied() {
        for need in NEEDS.iter().filter(|need| need.option == option) {
            if !need.any_of.iter().any(|other| all.contains(other)) {
                all.push(need.any_of[0]);
            }
        }
        at += 1;
    }
    all
}

#[test]
fn every_pair_that_excludes_each_other_is_refused_with_the_reason() {
    for clash in CLASHES {
        let (a, b) = clash.between;
        let said = refusal(&company(&[a, b])).unwrap_or_else(|| panic!("{a} and {b} are accepted together"));
        assert!(said.contains("exclude each other"), "{a} and {b}: {said}");
        // Each of them by itself is no fault.
        for option in [a, b] {
            assert_eq!(refusal(&company(&[option])), None, "{option}");
        }
    }
}

#[test]
fn what_stands_nearly_alone_refuses_all_others() {
    let mut command = Arguments::command();
    command.build();
    let names = command.get_arguments().map(|argument| argument.get_id().as_str().to_string());
    let names: Vec<&'static str> = names.map(|name| &*name.leak()).collect();
    for alone in ALONE {
        let others = names.iter().filter(|name| **name != alone.option && !alone.beside.contains(name));
        for other in others.filter(|name| !["explain", "help", "version"].contains(name)) {
            let said = refusal(&company(&[alone.option, other])).unwrap_or_default();
            assert!(said.contains("exclude each other"), "{} and {other}: {said}", alone.option);
        }
        let beside = alone.beside.iter().filter(|name| !["model", "targets"].contains(name));
        assert_eq!(refusal(&std::iter::once(&alone.option).chain(beside).copied().collect::<Vec<_>>()), None);
    }
}

#[test]
fn what_does_nothing_alone_is_refused_with_the_reason() {
    for need in NEEDS {
        let said = refusal(&[need.option]).unwrap_or_else(|| panic!("{} is accepted alone", need.option));
        assert!(said.contains("does nothing without") && said.contains(need.why), "{}: {said}", need.option);
        assert_eq!(refusal(&company(&[need.option])), None, "{}", need.option);
    }
}

/// A negative number is answered by what the option takes, and not taken for another option.
#[test]
fn negative_numbers_are_numbers() {
    for option in ["max_latency", "link_error", "repeat", "batch", "effort", "max_loss", "min_accuracy", "samples"] {
        let flag = words(option).swap_remove(0);
        let all = ["compile", "m.onnx", "--targets", "c.toml", &flag, "-1"].map(std::ffi::OsString::from);
        let said = usage::parse(all).expect_err("nothing takes it").to_string();
        assert!(said.contains("invalid value '-1'") && said.contains("expected"), "{option}: {said}");
    }
}
