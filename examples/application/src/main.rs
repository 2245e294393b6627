//! Reads a digit: a program of its own that carries the compiled model as a module.

use std::sync::Mutex;

partita_rt::include_model!("model");

/// The model holds all of its working memory, so it is a `static` and nothing is allocated.
static MODEL: Mutex<model::Model> = Mutex::new(model::Model::new());

/// What the camera sees, two characters per pixel.
const PICTURE: &str = include_str!("picture.txt");

fn main() {
    let [_, _, height, width] = model::INPUT_SHAPE;
    let mut pixels = [0.0; model::INPUT_SHAPE[2] * model::INPUT_SHAPE[3]];
    for (row, line) in PICTURE.lines().take(height).enumerate() {
        for (column, ink) in line.bytes().step_by(2).take(width).enumerate() {
            pixels[row * width + column] = if ink == b'#' { 220.0 } else { 30.0 };
        }
    }
    let mut probabilities = [0.0; model::OUTPUT_SHAPE[1]];
    MODEL.lock().expect("no thread panics while it infers").infer(&pixels, &mut probabilities);
    let (digit, probability) = probabilities
        .iter()
        .enumerate()
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .expect("the model has classes");
    print!("{PICTURE}");
    println!("this is a {digit} ({:.1} % sure)", probability * 100.0);
}
