//! Errors at start, and posts that could not be taken.

use std::{fmt, io};

/// Why a server did not start, or ended badly. Says what was being done, and to what.
#[derive(Debug)]
pub struct StartError {
    doing: String,
    source: Option<io::Error>,
}

impl StartError {
    pub(crate) fn new(doing: impl Into<String>, source: io::Error) -> Self {
        Self { doing: doing.into(), source: Some(source) }
    }

    pub(crate) fn plain(what: impl Into<String>) -> Self {
        Self { doing: what.into(), source: None }
    }

    /// The kernel's error, where there was one.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.source.as_ref()
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.doing),
            None => f.write_str(&self.doing),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
