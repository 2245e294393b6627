//! What is minimised.

use std::collections::BTreeSet;
use std::fmt;

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Time of one inference.
    Latency,
    /// Time of the slowest stage of a pipeline.
    Throughput,
    /// Bytes sent over all links.
    Traffic,
    /// Largest RAM need of any device.
    Memory,
    /// Energy of one inference.
    Energy,
    /// A sum of the three that add up.
    Weighted(Weights),
}

/// What a unit of each good costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weights {
    /// Of a millisecond of latency.
    pub latency: f64,
    /// Of a megabyte sent.
    pub traffic: f64,
    /// Of a millijoule.
    pub energy: f64,
}

impl Weights {
    /// The sum for seconds, bytes and joules.
    pub fn cost(&self, seconds: f64, bytes: f64, joules: f64) -> f64 {
        self.latency * seconds * 1e3 + self.traffic * bytes * 1e-6 + self.energy * joules * 1e3
    }
}

impl Objective {
    /// Reads `latency`, `throughput`, `traffic`, `memory`, `energy`, or weights such as `latency=1,traffic=0.5`.
    pub fn parse(text: &str) -> Result<Objective, String> {
        let expected =
            "expected latency, throughput, traffic, memory, energy, or weights such as latency=1,traffic=0.5";
        match text {
            "latency" => return Ok(Objective::Latency),
            "throughput" => return Ok(Objective::Throughput),
            "traffic" => return Ok(Objective::Traffic),
            "memory" => return Ok(Objective::Memory),
            "energy" => return Ok(Objective::Energy),
            _ => {}
        }
        let mut weights = Weights::default();
        let mut seen = BTreeSet::new();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or(expected)?;
            let value: f64 = value.parse().map_err(|_| format!("`{value}` is no number"))?;
            if !value.is_finite() || value < 0.0 {
                return Err(format!("weight {value} of {name} must be 0 or more"));
            }
            match name {
                "latency" => weights.latency = value,
                "traffic" => weights.traffic = value,
                "energy" => weights.energy = value,
                _ => {
                    return Err(format!(
                        "`{name}` cannot be weighted; latency (per ms), traffic (per MB), energy (per mJ) can"
                    ));
                }
            }
            if !seen.insert(name) {
                return Err(format!("{name} is weighted twice"));
            }
        }
        if weights == Weights::default() {
            return Err("some weight must be more than 0".to_string());
        }
        Ok(Objective::Weighted(weights))
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objective::Latency => f.write_str("latency"),
            Objective::Throughput => f.write_str("throughput"),
            Objective::Traffic => f.write_str("traffic"),
            Objective::Memory => f.write_str("memory"),
            Objective::Energy => f.write_str("energy"),
            Objective::Weighted(Weights { latency, traffic, energy }) => {
                write!(f, "latency={latency},traffic={traffic},energy={energy}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_read_back() {
        for text in ["latency", "throughput", "traffic", "memory", "energy", "latency=1,traffic=0.5,energy=0"] {
            assert_eq!(Objective::parse(text).map(|objective| objective.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(
            Objective::parse("energy=2"),
            Ok(Objective::Weighted(Weights { energy: 2.0, ..Weights::default() }))
        );
        for wrong in ["", "speed", "latency=", "latency=-1", "latency=inf", "memory=1", "latency=0", "latency=1,,"] {
            assert!(Objective::parse(wrong).is_err(), "{wrong}");
        }
    }
}
