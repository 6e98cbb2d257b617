//! The PROXY protocol, versions 1 and 2: the header by which a proxy says who the client is. Pure.
//!
//! Source: haproxy.org/download/3.0/doc/proxy-protocol.txt. Bytes behind the header are not looked at.

use crate::base::close_reason::BadHeader;
use crate::sys::addr::{Addr, UnixName};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest line of version 1, with its line end. Section 2.1 shows why no line is longer.
const LINE_MAX: usize = 107;
const LINE_BEGIN: &[u8] = b"PROXY ";
const UNKNOWN: &[u8] = b"UNKNOWN";

/// The first bytes of a header of version 2. No other protocol begins with these bytes.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, then version and command, family and transport, and two bytes of length.
const FIXED: usize = 16;
/// Largest number of bytes of addresses and extensions in a header of version 2. The longest addresses have
/// 216 bytes. The extensions that proxies add (names, a certificate's parts, an endpoint's number) have a few
/// hundred bytes.
const REST_MAX: usize = 4096;

/// The longest header. With this many bytes, [`parse`] always has a result.
pub(crate) const HEADER_MAX: usize = FIXED + REST_MAX;

/// A complete header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProxyHeader {
    /// Length of the header in bytes. The bytes behind it are the client's.
    pub(crate) len: usize,
    /// The address of the client. `None`: the proxy speaks for itself, or does not know the client, and the
    /// address of the connection counts.
    pub(crate) client: Option<Addr>,
}

/// Reads the header at the front of `bytes`. `None`: the header is not complete yet. Bytes that cannot become
/// a header are an error at once, and stay an error whatever bytes follow.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadHeader> {
    if begins(bytes, SIGNATURE) {
        parse_binary(bytes)
    } else if begins(bytes, LINE_BEGIN) {
        parse_line(bytes)
    } else {
        Err(BadHeader::Missing)
    }
}

/// Whether `bytes` begins with `how`, as far as `bytes` goes.
fn begins(bytes: &[u8], how: &[u8]) -> bool {
    let there = bytes.len().min(how.len());
    bytes[..there] == how[..there]
}

// --- version 1: a line ---------------------------------------------------------------------------

fn parse_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadHeader> {
    let within = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = within.iter().position(|&byte| byte == b'\r' || byte == b'\n') else {
        return if within.len() == LINE_MAX { Err(BadHeader::TooLong) } else { Ok(None) };
    };
    match within.get(end..end + 2) {
        Some(b"\r\n") => {}
        // The carriage return is the last byte so far, or the last byte that a line may have.
        None if within[end] == b'\r' && within.len() < LINE_MAX => return Ok(None),
        None if within[end] == b'\r' => return Err(BadHeader::TooLong),
        _ => return Err(BadHeader::Malformed),
    }
    let line = &within[LINE_BEGIN.len()..end];
    // For an unknown client, the rest of the line is skipped.
    let client = match line == UNKNOWN || line.starts_with(b"UNKNOWN ") {
        true => None,
        false => Some(parse_words(line).ok_or(BadHeader::Malformed)?),
    };
    Ok(Some(ProxyHeader { len: end + 2, client }))
}

/// `TCP4 192.0.2.1 192.0.2.2 56324 443`: the client's address, the address that it connected to, and the
/// ports of both.
fn parse_words(line: &[u8]) -> Option<Addr> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (family, from, to) = (words.next()?, words.next()?, words.next()?);
    let (from_port, _to_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let ip = match family {
        "TCP4" => both::<Ipv4Addr>(from, to)?,
        "TCP6" => both::<Ipv6Addr>(from, to)?,
        _ => return None,
    };
    Some(SocketAddr::new(ip, from_port).into())
}

/// The first of two addresses, if both are of this family.
fn both<Ip: FromStr + Into<IpAddr>>(first: &str, second: &str) -> Option<IpAddr> {
    let (first, second) = (first.parse::<Ip>(), second.parse::<Ip>());
    first.ok().filter(|_| second.is_ok()).map(Into::into)
}

/// A port as the protocol writes it: without a sign and without a leading zero.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let has_zeros = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| is_plain && !has_zeros)
}

// --- version 2: bytes ----------------------------------------------------------------------------

fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadHeader> {
    // Each byte is checked as soon as it is there, so that a wrong header fails without waiting for its rest.
    let is_local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(BadHeader::Malformed),
    };
    let Some(&kind) = bytes.get(13) else { return Ok(None) };
    if kind >> 4 > 3 || kind & 0x0F > 2 {
        return Err(BadHeader::Malformed);
    }
    let Some(length) = bytes.get(14..FIXED) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length > REST_MAX {
        return Err(BadHeader::TooLong);
    }
    // Only stream addresses are used. For every other kind, the address of the connection counts.
    let addresses = match kind {
        _ if is_local => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => 0,
    };
    if length < addresses {
        return Err(BadHeader::Malformed);
    }
    // The extensions behind the addresses are skipped.
    let Some(rest) = bytes.get(FIXED..FIXED + length) else { return Ok(None) };
    let client = client_of(&rest[..addresses]);
    Ok(Some(ProxyHeader { len: FIXED + length, client }))
}

/// The client in the addresses of a header. Their length tells the family. Both addresses come first, then
/// both ports.
fn client_of(addresses: &[u8]) -> Option<Addr> {
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    match addresses.len() {
        12 => {
            let ip: [u8; 4] = addresses[..4].try_into().ok()?;
            Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port(8)).into())
        }
        36 => {
            let ip: [u8; 16] = addresses[..16].try_into().ok()?;
            Some(SocketAddr::new(Ipv6Addr::from(ip).into(), port(32)).into())
        }
        216 => Some(Addr::Unix(unix_name(&addresses[..108]))),
        _ => None,
    }
}

/// A name in a field of 108 bytes, padded with zeros. (The header does not tell the length of an abstract
/// name, so zeros at its end count as padding.)
fn unix_name(field: &[u8]) -> UnixName {
    let padding = field.iter().rev().take_while(|&&byte| byte == 0).count();
    match &field[..field.len() - padding] {
        // The leading zero does not count for the length.
        name @ [0, ..] => UnixName::from_kernel(name),
        path => UnixName::from_kernel(&path[..path.len().min(UnixName::BYTES_MAX)]),
    }
}

#[cfg(test)]
mod tests;
