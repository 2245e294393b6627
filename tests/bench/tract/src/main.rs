//! `bench-tract MODEL.onnx THREADS SECONDS WORK` prints one line of JSON, times in milliseconds.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use tract_onnx::prelude::*;

fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 * 1e-6
}

fn array(path: &Path, name: &str) -> anyhow::Result<(Vec<usize>, Vec<f32>)> {
    let mut archive = npyz::npz::NpzArchive::open(path)?;
    let array = archive.by_name(name)?.with_context(|| format!("no array `{name}`"))?;
    let shape = array.shape().iter().map(|extent| *extent as usize).collect();
    Ok((shape, array.into_vec()?))
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let (model, threads, seconds) = (Path::new(&words[1]), words[2].parse::<usize>()?, words[3].parse::<f64>()?);
    if threads > 1 {
        tract_linalg::multithread::set_default_executor(tract_linalg::multithread::Executor::multithread(threads));
    }
    let (shape, x) = array(&model.with_extension("npz"), "input")?;
    let (_, wanted) = array(&model.with_extension("npz"), "output")?;
    let begin = Instant::now();
    let fact = InferenceFact::dt_shape(f32::datum_type(), &shape);
    let plan = tract_onnx::onnx().model_for_path(model)?.with_input_fact(0, fact)?.into_optimized()?.into_runnable()?;
    let load_ms = begin.elapsed().as_secs_f64() * 1e3;
    let x = Tensor::from_shape(&shape, &x)?;
    let once = || plan.run(tvec!(x.clone().into()));
    let answer = once()?;
    let found = answer[0].cast_to::<f32>()?;
    let found: Vec<f32> = found.to_plain_array_view::<f32>()?.iter().copied().collect();
    let largest = wanted.iter().fold(1e-9f32, |largest, x| largest.max(x.abs()));
    let error = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while wall.len() < 5 || begin.elapsed().as_secs_f64() < seconds {
        let (before, start) = (cpu_ms(), Instant::now());
        once()?;
        wall.push(start.elapsed().as_secs_f64() * 1e3);
        cpu.push(cpu_ms() - before);
    }
    wall.sort_by(f64::total_cmp);
    cpu.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    let rss_mb = line.split_whitespace().next().unwrap_or("0").parse::<f64>()? * 1024.0 / 1e6;
    println!(
        "{{\"min_ms\":{},\"median_ms\":{},\"cpu_median_ms\":{},\"runs\":{},\"load_ms\":{load_ms},\"rss_mb\":{rss_mb},\"error\":{error}}}",
        wall[0],
        wall[wall.len() / 2],
        cpu[cpu.len() / 2],
        wall.len()
    );
    Ok(())
}
