//! `Addr`: where a server listens and where a connection comes from.

use std::ffi::OsStr;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// An address of a transport. A clone of it allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addr {
    /// TCP: an Internet address and port. An IPv4 client of an IPv6 listener appears as IPv4.
    Inet(SocketAddr),
    /// A Unix stream socket. It has no RST: the peer of a connection that is reset sees its end.
    Unix(UnixName),
}

impl Addr {
    /// The Internet address, if it is one.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Addr::Inet(address) => Some(*address),
            Addr::Unix(_) => None,
        }
    }

    /// The address in a text, without a name lookup. `None`: the text is `host:port`, where `host` is a name.
    pub(crate) fn unless_name(text: &str) -> Result<Option<Self>, AddrError> {
        let error = |what| AddrError { text: text.to_owned(), what };
        if let Some(name) = text.strip_prefix("unix:") {
            return UnixName::parse(name).map(Addr::Unix).map(Some).map_err(error);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Some(Addr::Inet(address)));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(error(AddrProblem::NoPort));
        };
        if port.is_empty() {
            return Err(error(AddrProblem::NoPort));
        }
        // `parse` alone would also take a sign, which SocketAddr does not take.
        let is_port = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
        if !is_port {
            return Err(error(AddrProblem::BadPort));
        }
        if host.is_empty() || host.contains([':', '[', ']']) {
            return Err(error(AddrProblem::BadHost));
        }
        Ok(None)
    }

    /// The name of a Unix socket, if it is one.
    pub fn unix(&self) -> Option<&UnixName> {
        match self {
            Addr::Inet(_) => None,
            Addr::Unix(name) => Some(name),
        }
    }
}

/// The name of a Unix socket: a path, an abstract name, or none, as most clients have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnixName(
    /// The bytes as in sockaddr_un, unix(7). An abstract name begins with a zero byte. A path has no zero
    /// byte.
    Option<Arc<[u8]>>,
);

impl UnixName {
    /// The longest name: what `sun_path` holds but for a zero, which ends a path and begins an abstract
    /// name.
    pub const BYTES_MAX: usize = 107;

    /// The name in `sun_path`, of which the kernel has filled these bytes.
    pub(crate) fn from_kernel(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self(None),
            [0, ..] => Self(Some(bytes.into())),
            path => Self(path.split(|&byte| byte == 0).next().map(Arc::from)),
        }
    }

    /// The bytes as in `sun_path`.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// The path, if it has one.
    pub fn path(&self) -> Option<&Path> {
        let bytes = self.0.as_deref().filter(|bytes| bytes[0] != 0)?;
        Some(Path::new(OsStr::from_bytes(bytes)))
    }

    /// The abstract name, without its leading zero, if it has one.
    pub fn abstract_name(&self) -> Option<&[u8]> {
        self.0.as_deref()?.strip_prefix(&[0])
    }

    /// Whether it has none.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_none()
    }

    fn parse(text: &str) -> Result<Self, AddrProblem> {
        let (before, name) = match text.strip_prefix('@') {
            Some(name) => (&b"\0"[..], name),
            None => (&b""[..], text),
        };
        match name.len() {
            0 => Err(AddrProblem::NoName),
            _ if name.contains(char::is_control) => Err(AddrProblem::BadName),
            1..=Self::BYTES_MAX => Ok(Self(Some([before, name.as_bytes()].concat().into()))),
            _ => Err(AddrProblem::LongName),
        }
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

/// `host:port`, `[v6]:port`, `unix:PATH`, or `unix:@NAME` for an abstract name. A host name is
/// resolved at once and its first address taken, so parse at start, never on a loop.
impl FromStr for Addr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        if let Some(address) = Addr::unless_name(text)? {
            return Ok(address);
        }
        let unknown = || AddrError { text: text.to_owned(), what: AddrProblem::Unknown };
        let mut found = text.to_socket_addrs().map_err(|_| unknown())?;
        found.next().map(Addr::Inet).ok_or_else(unknown)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Inet(address) => address.fmt(f),
            Addr::Unix(name) => write!(f, "unix:{name}"),
        }
    }
}

/// What follows `unix:`. A name that a peer has chosen cannot break a line of a log.
impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.abstract_name() {
            Some(name) => {
                f.write_str("@")?;
                name
            }
            None => {
                // A path that begins with `@` would be read as an abstract name.
                if self.as_bytes().starts_with(b"@") {
                    f.write_str("./")?;
                }
                self.as_bytes()
            }
        };
        for c in String::from_utf8_lossy(name).chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
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
    NoName,
    BadName,
    LongName,
}

impl fmt::Display for AddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            AddrProblem::NoPort => "no port: write HOST:PORT or [V6]:PORT",
            AddrProblem::BadPort => "the port is not a number from 0 to 65535",
            AddrProblem::BadHost => "the host is not a name or an address; IPv6 goes in brackets",
            AddrProblem::Unknown => "no address is known for this host",
            AddrProblem::NoName => "no name: write unix:PATH or unix:@NAME",
            AddrProblem::BadName => "there is a control character in the name",
            AddrProblem::LongName => {
                "a Unix socket's name has 107 bytes at most, the @ not counted"
            }
        };
        write!(f, "address `{}`: {what}", self.text)
    }
}

impl std::error::Error for AddrError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    #[test]
    fn both_families_and_names_parse() {
        assert_eq!("127.0.0.1:80".parse::<Addr>().unwrap().to_string(), "127.0.0.1:80");
        assert_eq!("[::1]:80".parse::<Addr>().unwrap().to_string(), "[::1]:80");
        assert!("localhost:0".parse::<Addr>().is_ok());
    }

    #[test]
    fn unix_names_parse_and_print_as_they_were_written() {
        let path = "unix:/run/a b.sock".parse::<Addr>().unwrap();
        assert_eq!(path.unix().unwrap().path(), Some(Path::new("/run/a b.sock")));
        assert_eq!(path.to_string(), "unix:/run/a b.sock");
        let abstract_one = "unix:@name".parse::<Addr>().unwrap();
        assert_eq!(abstract_one.unix().unwrap().abstract_name(), Some(&b"name"[..]));
        assert_eq!(abstract_one.unix().unwrap().path(), None);
        assert_eq!(abstract_one.to_string(), "unix:@name");
        for longest in ["x".repeat(107), format!("@{}", "x".repeat(107))] {
            assert!(format!("unix:{longest}").parse::<Addr>().is_ok());
        }
    }

    /// Both a path `@name` and the abstract name were shown as `unix:@name`.
    #[test]
    fn a_path_is_never_shown_as_an_abstract_name() {
        let path = Addr::Unix(UnixName::from_kernel(b"@name"));
        assert_eq!(path.to_string(), "unix:./@name");
        let read = path.to_string().parse::<Addr>().unwrap();
        assert_eq!(read.unix().unwrap().path(), Some(Path::new("./@name")));
    }

    #[test]
    fn names_from_the_kernel_are_paths_abstract_or_none() {
        assert!(UnixName::from_kernel(b"").is_unnamed());
        assert_eq!(UnixName::from_kernel(b"/tmp/x\0").path(), Some(Path::new("/tmp/x")));
        let odd = UnixName::from_kernel(b"\0a\nb\0");
        assert_eq!(odd.abstract_name(), Some(&b"a\nb\0"[..]));
        assert_eq!(odd.to_string(), "@a\\nb\\u{0}");
        assert_eq!(Addr::Unix(UnixName::default()).to_string(), "unix:");
    }

    #[test]
    fn what_is_wrong_is_said_with_the_text() {
        for (text, part) in [
            ("127.0.0.1", "no port"),
            ("127.0.0.1:65536", "0 to 65535"),
            ("127.0.0.1:+5", "0 to 65535"),
            ("1.2.3.4:", "no port"),
            (":80", "host"),
            ("::1:80", "brackets"),
            ("no.such.host.invalid:80", "no address is known"),
            ("unix:", "no name"),
            ("unix:@", "no name"),
            ("unix:/tmp/a\nREADY", "control character"),
            (&format!("unix:{}", "x".repeat(108)), "107 bytes"),
            (&format!("unix:@{}", "x".repeat(108)), "107 bytes"),
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

    /// An address lies in the queue for each connection on its way to a loop.
    #[test]
    fn an_address_is_no_larger_than_an_internet_one() {
        assert_eq!(size_of::<Addr>(), 32);
    }

    /// Without host names, which would be looked up.
    #[test]
    fn generated_addresses_come_back_and_only_what_is_one_is_read() {
        crate::fuzzing::fuzz(|random| {
            let port = random.number() as u16;
            let ip: IpAddr = match random.one_in(2) {
                true => Ipv4Addr::from(random.number() as u32).into(),
                false => {
                    Ipv6Addr::from(u128::from(random.number()) << 64 | u128::from(random.number()))
                        .into()
                }
            };
            let inet = Addr::from(SocketAddr::new(ip, port));
            assert_eq!(Addr::unless_name(&inet.to_string()), Ok(Some(inet.clone())));
            let name: String = (0..1 + random.below(100))
                .map(|_| (b' ' + random.below(95) as u8) as char)
                .collect();
            let mut texts = vec![inet.to_string(), format!("unix:{name}"), format!("unix:@{name}")];
            for text in &mut texts {
                if let Ok(Some(read)) = Addr::unless_name(text) {
                    assert_eq!(Addr::unless_name(&read.to_string()), Ok(Some(read)), "{text}");
                }
                let mut bytes = std::mem::take(text).into_bytes();
                random.mutate(
                    &mut bytes,
                    &[b":", b"[", b"]", b"@", b"unix:", b"::", b"65536", b"\0", b"%1"],
                );
                let Ok(text) = String::from_utf8(bytes) else { continue };
                if let Ok(Some(read)) = Addr::unless_name(&text) {
                    assert_eq!(Addr::unless_name(&read.to_string()), Ok(Some(read)), "{text}");
                }
            }
        });
    }

    /// The text that a log shows is one line, and is that address again when it is parsed. The exception is a
    /// name that cannot be written as a text.
    fn is_shown(address: &Addr) {
        let shown = address.to_string();
        assert!(!shown.contains(char::is_control), "{shown:?}");
        match address {
            Addr::Inet(address) => assert_eq!(shown.parse(), Ok(*address)),
            Addr::Unix(name) => {
                let bytes = name.abstract_name().unwrap_or(name.as_bytes());
                let is_path_with_at = name.path().is_some() && bytes.starts_with(b"@");
                let text = std::str::from_utf8(bytes).unwrap_or_default();
                let is_short = bytes.len() + 2 <= UnixName::BYTES_MAX;
                if is_short && !text.is_empty() && !text.contains(char::is_control) {
                    let read = Addr::unless_name(&shown).unwrap().unwrap();
                    match is_path_with_at {
                        true => assert_eq!(
                            read.unix().unwrap().path(),
                            Some(Path::new(&format!("./{text}")))
                        ),
                        false => assert_eq!(read, *address),
                    }
                }
            }
        }
    }

    /// Reads each text once as a user would write it, and once as the kernel's name of a Unix socket.
    #[test]
    fn kept_texts_are_the_addresses_that_std_reads_and_are_shown_in_one_line() {
        crate::fuzzing::each_kept(include_str!("../../tests/corpus/addr.txt"), |bytes| {
            let name = UnixName::from_kernel(&bytes[..bytes.len().min(UnixName::BYTES_MAX + 1)]);
            assert_eq!(name.is_unnamed(), name.as_bytes().is_empty());
            assert!(name.path().is_none() || name.abstract_name().is_none());
            is_shown(&Addr::Unix(name));
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let read = Addr::unless_name(text);
            if let Ok(Some(address)) = &read {
                is_shown(address);
            }
            if let Err(error) = &read {
                assert!(error.to_string().contains(text));
            }
            if !text.starts_with("unix:") {
                let by_std = text.parse::<SocketAddr>().ok().map(Addr::Inet);
                assert_eq!(read.as_ref().ok().cloned().flatten(), by_std, "{text}");
            }
            if let Ok(None) = read {
                let (host, port) = text.rsplit_once(':').unwrap();
                let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
                assert!(!host.is_empty() && is_number && port.parse::<u16>().is_ok(), "{text}");
            }
        });
    }
}
