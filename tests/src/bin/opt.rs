//! Runs one pass or stage on a text: `opt --pass NAME FILE` (`-` is standard input). What a text may hold, and which stages
//! there are, says `partita_tests::stage`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [option, name, file] = &arguments[..] else {
        eprintln!("opt --pass NAME FILE\npasses and stages: {}", partita_tests::stage::names().join(", "));
        return ExitCode::from(2);
    };
    if option != "--pass" {
        eprintln!("expected --pass, found {option}");
        return ExitCode::from(2);
    }
    let text = if file == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    match text.map_err(|error| error.to_string()).and_then(|text| partita_tests::stage::run(name, &text)) {
        Ok(result) => {
            print!("{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{file}: {error}");
            ExitCode::FAILURE
        }
    }
}
