//! Why there is no result: what is at fault, and the exit status that says so.

use partita_ir::diagnostic::Diagnostic;

/// Why there is no result, by exit status.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The model or the cluster is at fault: exit status 1.
    #[error("{}", join(.0))]
    Input(Vec<Diagnostic>),
    /// Nothing satisfies the limits: exit status 3.
    #[error("{0}")]
    Infeasible(Diagnostic),
    /// The emitted programs compute something else: exit status 4.
    #[error("{0}")]
    Difference(Diagnostic),
    /// The machine does not let us (files, cargo, processes): exit status 1.
    #[error("error: {0:#}")]
    Environment(anyhow::Error),
    /// A bug of ours: exit status 70.
    #[error(
        "internal error: {0:#}\n  = note: this is a bug in Partita, not in your model; please report it with the command line"
    )]
    Internal(anyhow::Error),
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(diagnostics: Vec<Diagnostic>) -> Failure {
        Failure::Input(diagnostics)
    }
}

fn join(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
}

/// A bug of ours.
pub fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Internal(error.into())
}

impl Failure {
    /// The failure that an error has carried along; otherwise the machine is at fault.
    pub fn of(error: anyhow::Error) -> Failure {
        error.downcast::<Failure>().unwrap_or_else(Failure::Environment)
    }

    /// The process's exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Failure::Input(_) | Failure::Environment(_) => 1,
            Failure::Infeasible(_) => 3,
            Failure::Difference(_) => 4,
            Failure::Internal(_) => 70,
        }
    }
}
