//! Why a run ended without a report, and with which exit code.

use std::fmt;

/// What went wrong: one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The request is not possible here. Nothing was started.
    Refused(String),
    /// The run began, and could not go on.
    Failed(String),
    /// A signal ended the run.
    Interrupted,
}

impl Trouble {
    /// The program's exit code: 2 for a refusal, 1 for a failure. After SIGINT, the code that a shell reports
    /// for a program that SIGINT ended.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 2,
            Self::Failed(_) => 1,
            Self::Interrupted => 130,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(what) | Self::Failed(what) => out.write_str(what),
            Self::Interrupted => out.write_str("interrupted: both halves have ended"),
        }
    }
}

impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Self::Failed(what)
    }
}
