//! Errors at start, and errors of descriptors that could not be adopted.

use crate::sys::Unfit;
use std::os::fd::OwnedFd;
use std::{fmt, io};

/// Why a server did not start, or ended with an error. It says what the server was doing, and to what.
///
/// `{:?}` prints the same sentence as `{}`, because a `main` that returns this error prints it with `{:?}`.
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

    /// The kernel's error, if there was one.
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

impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// The error for a descriptor that did not become a connection. It holds the descriptor, unchanged.
#[derive(Debug)]
pub struct AdoptError {
    fd: OwnedFd,
    why: AdoptRejected,
}

/// Why a descriptor was not adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptRejected {
    /// The descriptor cannot be a connection.
    Unfit(Unfit),
    /// `connections_max` connections are open.
    ConnectionsMax,
    /// `per_source_max` connections from its source are open.
    PerSourceMax,
    /// Too many descriptors already wait to be taken. A later try may succeed.
    Full,
    /// The server is ending.
    Ended,
}

impl AdoptError {
    pub(crate) fn new(fd: OwnedFd, why: AdoptRejected) -> Self {
        Self { fd, why }
    }

    /// Why the descriptor was not adopted.
    pub fn why(&self) -> AdoptRejected {
        self.why
    }

    /// Gives the descriptor back.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::fd::AsRawFd;
        write!(f, "adopt descriptor {}: ", self.fd.as_raw_fd())?;
        match self.why {
            AdoptRejected::Unfit(what) => what.fmt(f),
            AdoptRejected::ConnectionsMax => f.write_str("as many connections are open as may be"),
            AdoptRejected::PerSourceMax => {
                f.write_str("as many are open from its source as may be")
            }
            AdoptRejected::Full => f.write_str("too many wait to be taken"),
            AdoptRejected::Ended => f.write_str("the server is ending"),
        }
    }
}

impl std::error::Error for AdoptError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `main` that returns the error prints its `Debug`, which was the derived form of the struct.
    #[test]
    fn what_a_main_that_returns_it_prints_is_the_sentence() {
        let refused = io::Error::from(crate::sys::Errno::ADDRINUSE);
        let error = StartError::new("listen on 127.0.0.1:9000", refused);
        let sentence = "listen on 127.0.0.1:9000: Address already in use (os error 98)";
        assert_eq!(format!("{error:?}"), sentence);
        assert_eq!(error.to_string(), sentence);
    }
}
