//! Tests of PROXY headers: examples of the protocol's text, headers at their limits, cut, and random.

use super::*;
use proptest::prelude::*;

/// A header of version 2.
fn binary(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, kind], &length, rest].concat()
}

fn inet(from: [u8; 4], from_port: u16) -> Vec<u8> {
    [&from[..], &[10, 0, 0, 1], &from_port.to_be_bytes(), &443_u16.to_be_bytes()].concat()
}

fn inet6(from: Ipv6Addr, from_port: u16) -> Vec<u8> {
    let to = Ipv6Addr::LOCALHOST.octets();
    [&from.octets()[..], &to, &from_port.to_be_bytes(), &443_u16.to_be_bytes()].concat()
}

fn unix(from: &[u8]) -> Vec<u8> {
    let mut addresses = vec![0; 216];
    addresses[..from.len()].copy_from_slice(from);
    addresses
}

/// The client of a header. Checks that the header is complete at its last byte and not before, and that bytes
/// behind it change nothing.
fn client(header: &[u8]) -> Option<Addr> {
    for cut in 0..header.len() {
        assert_eq!(parse(&header[..cut]), Ok(None), "{cut} of {}", header.escape_ascii());
    }
    let parsed = parse(header).unwrap().expect("it is whole");
    assert_eq!(parsed.len, header.len());
    assert_eq!(parse(&[header, b"GET"].concat()).as_ref(), Ok(&Some(ProxyHeader { ..parsed })));
    parse(header).unwrap().unwrap().client
}

fn client_text(header: &[u8]) -> String {
    client(header).expect("it names the client").to_string()
}

/// The error of a bad header, and the number of bytes after which the error is known.
fn bad(header: &[u8]) -> (usize, BadHeader) {
    for cut in 0..=header.len() {
        match parse(&header[..cut]) {
            Ok(None) => {}
            Ok(Some(parsed)) => panic!("{parsed:?}"),
            Err(what) => {
                assert_eq!(parse(header), Err(what), "whatever follows");
                return (cut, what);
            }
        }
    }
    panic!("nothing is wrong with {}", header.escape_ascii());
}

#[test]
fn the_lines_of_the_protocols_text_are_read() {
    let tcp4 = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(client_text(tcp4), "255.255.255.255:65535");
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let tcp6 = format!("PROXY TCP6 {full} {full} 65535 65535\r\n");
    assert_eq!(client_text(tcp6.as_bytes()), format!("[{full}]:65535"));
    assert_eq!(client_text(b"PROXY TCP6 ::ffff:10.1.2.3 ::1 0 443\r\n"), "10.1.2.3:0");
    assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
    let longest = format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n");
    assert_eq!(longest.len(), LINE_MAX);
    assert_eq!(client(longest.as_bytes()), None);
}

#[test]
fn a_line_ends_within_107_bytes_or_is_refused() {
    let line = |len: usize| [b"PROXY UNKNOWN ", &vec![b'x'; len - 16][..], b"\r\n"].concat();
    assert_eq!(client(&line(107)), None);
    assert_eq!(bad(&line(108)), (107, BadHeader::TooLong));
    assert_eq!(bad(&[b"PROXY ", &[b' '; 200][..]].concat()), (107, BadHeader::TooLong));
}

#[test]
fn lines_that_are_none_are_refused() {
    for line in [
        &b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n"[..],
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8  2\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
        b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY \xff\xfe\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN\rx",
        b"PROXY UNKNOWN\n",
    ] {
        assert_eq!(bad(line).1, BadHeader::Malformed, "{}", line.escape_ascii());
    }
}

#[test]
fn what_is_no_header_is_known_at_its_first_byte() {
    assert_eq!(bad(b"GET / HTTP/1.1\r\n"), (1, BadHeader::Missing));
    assert_eq!(bad(b"PROXY\tTCP4"), (6, BadHeader::Missing));
    assert_eq!(bad(b"\r\n\r\n\0\r\nQUIt\n"), (11, BadHeader::Missing));
}

#[test]
fn binary_headers_of_every_family_are_read() {
    let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
    assert_eq!(client_text(&binary(0x21, 0x11, &inet([192, 0, 2, 1], 5))), "192.0.2.1:5");
    assert_eq!(client_text(&binary(0x21, 0x21, &inet6(ip, 6))), "[2001:db8::7]:6");
    assert_eq!(client_text(&binary(0x21, 0x31, &unix(b"/run/x"))), "unix:/run/x");
    assert_eq!(client_text(&binary(0x21, 0x31, &unix(b"\0abstract"))), "unix:@abstract");
    assert_eq!(client_text(&binary(0x21, 0x31, &unix(b""))), "unix:");
    assert_eq!(client_text(&binary(0x21, 0x31, &unix(&[b'x'; 108]))).len(), "unix:".len() + 107);
}

/// The last byte of such a name was once cut off: an abstract name of 107 bytes and its leading zero fill the
/// whole field.
#[test]
fn the_longest_abstract_name_is_read_to_its_end() {
    let name = [b"\0".as_slice(), &[b'x'; 106], b"y"].concat();
    let read = client(&binary(0x21, 0x31, &unix(&name))).expect("it names the client");
    assert_eq!(read.unix().unwrap().abstract_name(), Some(&name[1..]));
    assert_eq!(read.to_string().parse(), Ok(read));
}

#[test]
fn who_speaks_for_itself_or_of_no_stream_names_nobody() {
    assert_eq!(client(&binary(0x20, 0x00, b"")), None);
    assert_eq!(client(&binary(0x20, 0x11, &inet([1, 2, 3, 4], 5))), None, "local");
    assert_eq!(client(&binary(0x20, 0x11, b"xx")), None, "whatever a local one has is passed over");
    assert_eq!(client(&binary(0x21, 0x00, b"xxxx")), None, "unspecified");
    assert_eq!(client(&binary(0x21, 0x12, &inet([1, 2, 3, 4], 5))), None, "datagrams");
}

#[test]
fn extensions_are_passed_over_up_to_the_limit() {
    let mut rest = inet([192, 0, 2, 1], 5);
    rest.resize(REST_MAX, 0xE0);
    assert_eq!(client_text(&binary(0x21, 0x11, &rest)), "192.0.2.1:5");
    rest.push(0);
    assert_eq!(bad(&binary(0x21, 0x11, &rest)), (FIXED, BadHeader::TooLong));
    assert_eq!(bad(&binary(0x20, 0x00, &[0; 65_535])), (FIXED, BadHeader::TooLong));
}

#[test]
fn binary_headers_that_contradict_themselves_are_refused_as_soon_as_they_do() {
    assert_eq!(bad(&binary(0x11, 0x11, &inet([1; 4], 5))), (13, BadHeader::Malformed), "version 1");
    assert_eq!(bad(&binary(0x22, 0x11, &inet([1; 4], 5))), (13, BadHeader::Malformed), "command");
    assert_eq!(bad(&binary(0x21, 0x41, &inet([1; 4], 5))), (14, BadHeader::Malformed), "family");
    assert_eq!(bad(&binary(0x21, 0x13, &inet([1; 4], 5))), (14, BadHeader::Malformed), "transport");
    for (kind, least) in [(0x11, 12), (0x21, 36), (0x31, 216)] {
        assert_eq!(bad(&binary(0x21, kind, &vec![0; least - 1])), (FIXED, BadHeader::Malformed));
        assert!(parse(&binary(0x21, kind, &vec![0; least])).unwrap().is_some());
    }
}

/// Bytes that are a header, or almost a header.
fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec(
        prop::sample::select(
            &["TCP4", "TCP6", "UNKNOWN", "1.2.3.4", "::1", "80", "65536", "", "x"][..],
        ),
        0..7,
    );
    let end = prop::sample::select(&["\r\n", "\n", "\r", ""][..]);
    let line = (words, end)
        .prop_map(|(words, end)| format!("PROXY {}{end}", words.join(" ")).into_bytes());
    let rest = prop::collection::vec(any::<u8>(), 0..300);
    let binary = (0x1F..0x23_u8, 0..0x50_u8, rest.clone(), -2..3_i32).prop_map(
        |(command, kind, rest, off)| {
            let mut header = binary(command, kind, &rest);
            let length = (rest.len() as i32 + off).clamp(0, 65_535) as u16;
            header[14..16].copy_from_slice(&length.to_be_bytes());
            header
        },
    );
    prop_oneof![line, binary, rest]
}

/// Checks that a result that the first bytes decide stays, whatever bytes follow. With the length of the
/// longest header there is always a result.
fn is_decided_once(bytes: &[u8]) {
    let whole = parse(bytes);
    let mut decided = false;
    for cut in 0..=bytes.len() {
        match parse(&bytes[..cut]) {
            Ok(None) => assert!(!decided, "undecided again at {cut}"),
            part => {
                if let Ok(Some(header)) = &part {
                    assert!(header.len <= cut.min(HEADER_MAX));
                }
                assert_eq!(part, whole, "at {cut}");
                decided = true;
            }
        }
    }
    assert!(decided || bytes.len() < HEADER_MAX, "nobody waits for ever");
}

proptest! {
    #[test]
    fn what_is_decided_of_the_first_bytes_stays_whatever_follows(
        mut bytes in nearly_a_header(),
        mutation in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        more in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Some((at, byte)) = mutation && !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(more);
        is_decided_once(&bytes);
    }

    #[test]
    fn every_address_comes_back(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), port in any::<u16>()) {
        let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
        let expected = |ip: IpAddr| Some(Addr::from(SocketAddr::new(ip, port)));
        let line = format!("PROXY TCP4 {v4} 10.0.0.1 {port} 443\r\n");
        prop_assert_eq!(client(line.as_bytes()), expected(v4.into()));
        prop_assert_eq!(client(&binary(0x21, 0x11, &inet(v4.octets(), port))), expected(v4.into()));
        let line = format!("PROXY TCP6 {v6} ::1 {port} 443\r\n");
        prop_assert_eq!(client(line.as_bytes()), expected(v6.into()));
        prop_assert_eq!(client(&binary(0x21, 0x21, &inet6(v6, port))), expected(v6.into()));
    }
}

/// A header by the protocol's text, and the client that it names.
fn generated(random: &mut crate::fuzzing::Random) -> (Vec<u8>, Option<Addr>) {
    let port = random.number() as u16;
    let (v4, v6) =
        (Ipv4Addr::from(random.number() as u32), Ipv6Addr::from(u128::from(random.number())));
    let client = match random.one_in(2) {
        true => SocketAddr::from((v4, port)),
        false => SocketAddr::from((v6, port)),
    };
    if random.one_in(2) {
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        let (ip, port) = (client.ip(), client.port());
        return (
            format!("PROXY {family} {ip} {ip} {port} 443\r\n").into_bytes(),
            Some(client.into()),
        );
    }
    let mut addresses = match client.ip() {
        std::net::IpAddr::V4(ip) => [ip.octets(), [127, 0, 0, 1]].concat(),
        std::net::IpAddr::V6(ip) => [ip.octets(), [1; 16]].concat(),
    };
    addresses.extend_from_slice(&client.port().to_be_bytes());
    addresses.extend_from_slice(&[1, 187]);
    addresses.extend(random.bytes(40)); // extensions, of which nothing is read
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend_from_slice(&[0x21, if client.is_ipv4() { 0x11 } else { 0x21 }]);
    bytes.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    bytes.extend(addresses);
    (bytes, Some(client.into()))
}

#[test]
fn generated_headers_are_read_the_same_however_much_has_come() {
    const WORDS: &[&[u8]] = &[
        b" ",
        b"\r\n",
        b"\r",
        b"\n",
        b"0",
        b"65536",
        b"::",
        b".",
        b"UNKNOWN",
        b"TCP4",
        b"TCP6",
        b"\0",
        b"\xff\xff",
    ];
    crate::fuzzing::fuzz(|random| {
        let (mut bytes, client) = generated(random);
        assert_eq!(parse(&bytes), Ok(Some(ProxyHeader { len: bytes.len(), client })));
        random.mutate(&mut bytes, WORDS);
        let most = if random.one_in(20) { 5000 } else { 20 };
        bytes.extend(random.bytes(most));
        let whole = parse(&bytes);
        match &whole {
            Ok(Some(header)) => assert!(header.len <= bytes.len().min(HEADER_MAX)),
            Ok(None) => assert!(bytes.len() < HEADER_MAX),
            Err(_) => {}
        }
        for _ in 0..4 {
            let part = parse(&bytes[..random.below(bytes.len() + 1)]);
            match part {
                Ok(None) => {}
                Ok(Some(_)) => assert_eq!(part, whole, "{}", bytes.escape_ascii()),
                Err(_) => {
                    assert!(whole.is_err(), "{part:?}, then {whole:?}: {}", bytes.escape_ascii())
                }
            }
        }
    });
}

/// Writes the client of a header again, in both versions, and checks that it is read as the same client.
fn comes_back(header: &ProxyHeader) {
    let written = match header.client.as_ref() {
        None => vec![b"PROXY UNKNOWN\r\n".to_vec(), binary(0x20, 0, b"")],
        Some(Addr::Unix(name)) => vec![binary(0x21, 0x31, &unix(name.as_bytes()))],
        Some(Addr::Inet(SocketAddr::V4(at))) => vec![
            format!("PROXY TCP4 {} 0.0.0.0 {} 0\r\n", at.ip(), at.port()).into_bytes(),
            binary(0x21, 0x11, &inet(at.ip().octets(), at.port())),
        ],
        Some(Addr::Inet(SocketAddr::V6(at))) => vec![
            format!("PROXY TCP6 {} :: {} 0\r\n", at.ip(), at.port()).into_bytes(),
            binary(0x21, 0x21, &inet6(*at.ip(), at.port())),
        ],
    };
    for bytes in written {
        let client = header.client.clone();
        assert_eq!(parse(&bytes), Ok(Some(ProxyHeader { len: bytes.len(), client })));
    }
}

#[test]
fn kept_headers_are_read_the_same_at_every_cut() {
    let kept = include_str!("../../../tests/corpus/proxy_header.txt");
    crate::fuzzing::each_kept(kept, |bytes| {
        is_decided_once(bytes);
        if let Ok(Some(header)) = parse(bytes) {
            comes_back(&header);
        }
    });
}
