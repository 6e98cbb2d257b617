//! What `/metrics` says all the while, and the most of it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two samples.
const EVERY: Duration = Duration::from_millis(100);

/// The most that was seen, over all samples.
#[derive(Default, Debug)]
pub struct Most {
    /// How often it was looked.
    pub samples: usize,
    /// Bytes that all loops had buffered.
    pub buffered: f64,
    /// Memory of the process.
    pub resident: f64,
    /// Of the kernel, for the TCP sockets of the whole machine.
    pub kernel: f64,
    /// Connections of the server.
    pub connections: f64,
}

/// Looks until it is told to stop.
pub fn watch(admin: SocketAddr, is_over: &AtomicBool) -> io::Result<Most> {
    let mut most = Most::default();
    while !is_over.load(Ordering::Relaxed) {
        let seen = metrics(admin)?;
        let sum = |family: &str| -> f64 {
            let of_family = seen.iter().filter(|(name, _)| name.split('{').next() == Some(family));
            of_family.map(|(_, value)| value).sum()
        };
        most.samples += 1;
        for (place, family) in [
            (&mut most.buffered, "net_core_buffered_bytes"),
            (&mut most.resident, "process_resident_memory_bytes"),
            (&mut most.kernel, "net_core_kernel_tcp_memory_bytes"),
            (&mut most.connections, "net_core_connections"),
        ] {
            *place = place.max(sum(family));
        }
        std::thread::sleep(EVERY);
    }
    Ok(most)
}

/// The samples of one answer of `/metrics`, by name and labels. An endpoint that does not answer within
/// ten seconds is an error.
pub fn metrics(admin: SocketAddr) -> io::Result<BTreeMap<String, f64>> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let samples = answer.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| line.rsplit_once(' '));
    Ok(samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}
