//! What the command line asks for, before anything is decided.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Connections the run aims at when nothing was asked and that many fit.
pub const CONNECTIONS_DEFAULT: u64 = 1_000_000;

/// Everything the plan depends on besides the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// How many connections.
    pub connections: Count,
    /// How many loops the server shall have.
    pub loops: LoopsAsked,
    /// Whether the server's loops share one descriptor table.
    pub fd_table: FdTableAsked,
    /// How the server accepts.
    pub accept: Accept,
    /// Which of the two halves run on this machine.
    pub role: Role,
}

/// `--connections N|max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// Nothing was asked: a million, or what fits if that is less.
    #[default]
    Default,
    /// As many as fit.
    Max,
    /// Exactly this many, at least 1; refused if they do not fit.
    Exactly(u64),
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.replace(['_', ','], "").parse() {
            Ok(0) => Err("0 connections leave nothing to show: ask for at least 1".to_owned()),
            Ok(number) => Ok(Self::Exactly(number)),
            Err(_) => Err(format!("`{text}` is neither a number nor `max`")),
        }
    }
}

/// `--loops N|per-core`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoopsAsked {
    /// Nothing was asked: one per core, or as many as the descriptor limit makes necessary.
    #[default]
    Auto,
    /// One per core, and refused if that is not enough.
    PerCore,
    /// Exactly this many, at least 1; refused if that is not enough.
    Exactly(u32),
}

impl LoopsAsked {
    /// The number that was asked for, if one was.
    pub fn number(self, cores: u32) -> Option<u32> {
        match self {
            Self::Auto => None,
            Self::PerCore => Some(cores),
            Self::Exactly(number) => Some(number),
        }
    }
}

impl FromStr for LoopsAsked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "per-core" => return Ok(Self::PerCore),
            _ => {}
        }
        match text.parse() {
            Ok(0) => Err("0 loops serve nobody: ask for at least 1".to_owned()),
            Ok(number) => Ok(Self::Exactly(number)),
            Err(_) => Err(format!("`{text}` is neither a number nor `per-core`")),
        }
    }
}

/// `--fd-table shared|per-loop|auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FdTableAsked {
    /// One table for the process.
    Shared,
    /// One table for each loop.
    PerLoop,
    /// Shared if it holds all connections, per loop otherwise.
    #[default]
    Auto,
}

/// `--accept acceptor|reuseport`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accept {
    /// One thread accepts and deals out, exactly round-robin.
    #[default]
    Acceptor,
    /// Every loop listens for itself; the kernel spreads by a hash, so unevenly.
    Reuseport,
}

impl fmt::Display for Accept {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Acceptor => "acceptor",
            Self::Reuseport => "reuseport",
        })
    }
}

/// Which halves of each connection live on this machine, and so count against its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Server and swarm, over loopback.
    #[default]
    Both,
    /// The server alone; its clients are elsewhere.
    Server,
    /// The swarm alone; its server is elsewhere. Holds how many source addresses it has.
    Swarm {
        /// Local addresses that can reach the server.
        source_addresses: u32,
    },
}

impl Role {
    /// True if the server runs here.
    pub fn serves(self) -> bool {
        !matches!(self, Self::Swarm { .. })
    }

    /// True if the clients run here.
    pub fn swarms(self) -> bool {
        self != Self::Server
    }

    /// Sockets on this machine for each connection.
    pub fn ends(self) -> u64 {
        u64::from(self.serves()) + u64::from(self.swarms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_numbers_or_max() {
        assert_eq!("max".parse(), Ok(Count::Max));
        assert_eq!("1_000_000".parse(), Ok(Count::Exactly(1_000_000)));
        assert_eq!("30000".parse(), Ok(Count::Exactly(30_000)));
        assert!("0".parse::<Count>().unwrap_err().contains("at least 1"));
        assert!("-3".parse::<Count>().unwrap_err().contains("`-3` is neither"));
        assert!("".parse::<Count>().is_err());
    }

    #[test]
    fn loops_are_numbers_or_per_core() {
        assert_eq!("per-core".parse(), Ok(LoopsAsked::PerCore));
        assert_eq!("3".parse(), Ok(LoopsAsked::Exactly(3)));
        assert!("0".parse::<LoopsAsked>().unwrap_err().contains("at least 1"));
        assert_eq!(LoopsAsked::PerCore.number(4), Some(4));
        assert_eq!(LoopsAsked::Auto.number(4), None);
    }

    #[test]
    fn one_end_is_here_unless_both_halves_are() {
        assert_eq!(Role::Both.ends(), 2);
        assert_eq!(Role::Server.ends(), 1);
        assert_eq!(Role::Swarm { source_addresses: 1 }.ends(), 1);
    }
}
