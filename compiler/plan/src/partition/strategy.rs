//! Strategies: the ways to compute one node.

use std::fmt;

use crate::shard::Sharding;

/// Which method a strategy belongs to, for people and for restricting the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// One device computes all of it and holds all of its weights.
    Whole,
    /// Several devices compute all of it.
    Replicated,
    /// Output splitting (LOP): each device computes some output channels, with their weights.
    Output,
    /// Input splitting (LIP): each device computes partial sums from some input channels; the partial sums are summed.
    Input,
    /// Spatial splitting: each device computes a box, weights replicated, halo exchanged.
    Spatial,
    /// Data-parallel: each device computes some of the samples that are answered together, weights replicated.
    Batch,
    /// Rows of products, such as tokens of a sequence: each device computes some of them, weights replicated.
    Tokens,
    /// Fused tiles (FTP): spatial splitting inside a run of nodes whose halo is recomputed instead of exchanged.
    Fused,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 8] = [
        Method::Whole,
        Method::Replicated,
        Method::Output,
        Method::Input,
        Method::Spatial,
        Method::Batch,
        Method::Tokens,
        Method::Fused,
    ];

    /// The word for it in plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            Method::Whole => "whole",
            Method::Replicated => "replicated",
            Method::Output => "lop",
            Method::Input => "lip",
            Method::Spatial => "spatial",
            Method::Batch => "batch",
            Method::Tokens => "tokens",
            Method::Fused => "ftp",
        }
    }

    /// The method of that name.
    pub fn from_name(name: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// One way to compute a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Strategy {
    /// Its method.
    pub method: Method,
    /// The part of the first result that each device has afterwards; what it has of further results follows
    /// (`ir::restrict::result_part`).
    pub outputs: Sharding,
    /// With [`Method::Input`]: the part of the first operand from which each device computes its partial sum.
    pub partial_sums: Option<Sharding>,
}

impl Strategy {
    /// Everything on one device; `shape` is that of the node's first result.
    pub fn whole(device: usize, devices: usize, shape: &[usize]) -> Strategy {
        Strategy { method: Method::Whole, outputs: Sharding::whole(device, devices, shape), partial_sums: None }
    }

    /// Devices that compute something.
    pub fn devices(&self) -> Vec<usize> {
        self.partial_sums.as_ref().unwrap_or(&self.outputs).parts().map(|(device, _)| device).collect()
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method.name())?;
        let parts = |f: &mut fmt::Formatter<'_>, sharding: &Sharding| -> fmt::Result {
            for (device, region) in sharding.parts() {
                write!(f, " {device}:{region}")?;
            }
            Ok(())
        };
        if let Some(partial_sums) = &self.partial_sums {
            write!(f, " of")?;
            parts(f, partial_sums)?;
            write!(f, " to")?;
        }
        parts(f, &self.outputs)
    }
}
