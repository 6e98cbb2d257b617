//! The admin endpoint of a server, asked over HTTP.

use super::connect;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// What an endpoint answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The first answer in `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::read_from(&mut BufReader::new(bytes), false).unwrap()
    }

    /// The next answer on a connection that may stay open.
    pub fn read(client: &mut TcpStream) -> Self {
        // One byte at a time: what follows belongs to the next answer.
        Self::read_from(&mut BufReader::with_capacity(1, client), false).unwrap()
    }

    fn read_from(from: &mut impl BufRead, is_head: bool) -> std::io::Result<Self> {
        let mut line = || -> std::io::Result<String> {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let line = line.strip_suffix("\r\n").map(str::to_owned);
            line.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
        };
        let status = line()?;
        let status = status.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{status}"));
        let status = status[..3].parse().unwrap();
        let mut fields = Vec::new();
        loop {
            let line = line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("field: {line}"));
            fields.push((name.to_ascii_lowercase(), value.trim_start().to_owned()));
        }
        let mut answer = Self { status, fields, body: String::new() };
        let length = answer.field("content-length").unwrap().parse().unwrap();
        if !is_head {
            let mut body = vec![0; length];
            from.read_exact(&mut body)?;
            answer.body = String::from_utf8(body).unwrap();
        }
        Ok(answer)
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Asks on a connection of its own, again if it was sent away for others.
pub fn ask(at: SocketAddr, request: &str) -> Answer {
    let is_head = request.starts_with("HEAD ");
    for _ in 0..20 {
        let mut client = connect(at);
        let asked = client.write_all(request.as_bytes());
        if asked.is_ok()
            && let Ok(answer) = Answer::read_from(&mut BufReader::new(client), is_head)
        {
            return answer;
        }
    }
    panic!("twenty times no answer to {request}");
}

pub fn get(at: SocketAddr, path: &str) -> Answer {
    ask(at, &format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"))
}

pub fn get_on(client: &mut TcpStream, path: &str) -> Answer {
    write!(client, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    Answer::read(client)
}

/// All samples of `/metrics`, by name and labels as they stand.
pub fn metrics(at: SocketAddr) -> BTreeMap<String, f64> {
    let answer = get(at, "/metrics");
    assert_eq!(answer.status, 200);
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
    samples.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
}

/// A family's samples, whatever their labels, added up.
pub fn sum(samples: &BTreeMap<String, f64>, family: &str) -> f64 {
    let of_family = |series: &str| series.split('{').next() == Some(family);
    let found: Vec<f64> = samples.iter().filter(|(s, _)| of_family(s)).map(|(_, n)| *n).collect();
    assert!(!found.is_empty(), "no {family} in {samples:?}");
    found.iter().sum()
}
