//! `Addr`: where a server listens and where a connection comes from.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// An address of a transport. Today TCP over IPv4 and IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// An Internet address and port. An IPv4 client of an IPv6 listener appears as IPv4.
    Inet(SocketAddr),
}

impl Addr {
    /// The Internet address, if it is one.
    pub fn inet(&self) -> Option<SocketAddr> {
        let Addr::Inet(address) = self;
        Some(*address)
    }
}

impl From<SocketAddr> for Addr {
    fn from(address: SocketAddr) -> Self {
        match address {
            // A link-local address keeps its scope.
            SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() => Addr::Inet(address),
            _ => Addr::Inet(SocketAddr::new(address.ip().to_canonical(), address.port())),
        }
    }
}

/// `host:port` or `[v6]:port`. A host name is resolved at once and its first address taken, so
/// parse at start, never on a loop.
impl FromStr for Addr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let error = |what| AddrError { text: text.to_owned(), what };
        if text.starts_with("unix:") {
            return Err(error(AddrProblem::UnixNotBuiltYet));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Addr::Inet(address));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(error(AddrProblem::NoPort));
        };
        let port = port.parse::<u16>().map_err(|_| error(AddrProblem::BadPort))?;
        if host.is_empty() || host.contains([':', '[', ']']) {
            return Err(error(AddrProblem::BadHost));
        }
        let mut found = (host, port).to_socket_addrs().map_err(|_| error(AddrProblem::Unknown))?;
        found.next().map(Addr::Inet).ok_or_else(|| error(AddrProblem::Unknown))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Addr::Inet(address) = self;
        address.fmt(f)
    }
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddrError {
    text: String,
    what: AddrProblem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddrProblem {
    NoPort,
    BadPort,
    BadHost,
    Unknown,
    UnixNotBuiltYet,
}

impl AddrError {
    /// The address is of a kind which this version cannot serve.
    pub fn is_not_built_yet(&self) -> bool {
        self.what == AddrProblem::UnixNotBuiltYet
    }
}

impl fmt::Display for AddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            AddrProblem::NoPort => "no port: write HOST:PORT or [V6]:PORT",
            AddrProblem::BadPort => "the port is not a number from 0 to 65535",
            AddrProblem::BadHost => "the host is not a name or an address; IPv6 goes in brackets",
            AddrProblem::Unknown => "no address is known for this host",
            AddrProblem::UnixNotBuiltYet => "Unix sockets are not built yet",
        };
        write!(f, "address `{}`: {what}", self.text)
    }
}

impl std::error::Error for AddrError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_and_names_parse() {
        assert_eq!("127.0.0.1:80".parse::<Addr>().unwrap().to_string(), "127.0.0.1:80");
        assert_eq!("[::1]:80".parse::<Addr>().unwrap().to_string(), "[::1]:80");
        assert!("localhost:0".parse::<Addr>().is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_with_the_text() {
        for (text, part) in [
            ("127.0.0.1", "no port"),
            ("127.0.0.1:65536", "0 to 65535"),
            ("1.2.3.4:", "0 to 65535"),
            (":80", "host"),
            ("::1:80", "brackets"),
            ("no.such.host.invalid:80", "no address is known"),
            ("unix:/tmp/x", "not built yet"),
        ] {
            let said = text.parse::<Addr>().unwrap_err().to_string();
            assert!(said.contains(part) && said.contains(text), "{said}");
        }
    }

    #[test]
    fn a_mapped_client_appears_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:5".parse().unwrap();
        assert_eq!(Addr::from(mapped).to_string(), "10.1.2.3:5");
    }
}
