//! Starts that fail in the middle, and starts anew: what is left of the former.

use super::*;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// A directory of its own, removed with all that is in it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("net-core-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // it stays in the folder of what is temporary
    }
}

/// Each fault comes after listeners on TCP and on a Unix path are open, in the acceptor's hands or in a
/// loop's; and the same server without it starts at once, at the same addresses.
#[test]
fn a_start_that_fails_in_the_middle_leaves_nothing_behind() {
    let _alone = alone();
    let directory = Directory::new("failed");
    let path = directory.0.join("socket");
    let at = TcpListener::bind(OWN_ADDRESS).unwrap().local_addr().unwrap().to_string();
    let tcp = TcpListener::bind(OWN_ADDRESS).unwrap();
    let udp = UdpSocket::bind(OWN_ADDRESS).unwrap();
    let tcp_at = tcp.local_addr().unwrap().to_string();
    let udp_at = udp.local_addr().unwrap().to_string();
    let before = left();
    for (mode, loops) in modes().into_iter().flat_map(|mode| [(mode, 1), (mode, 2), (mode, 3)]) {
        let good = || {
            let server = server(&at, mode).loops(Loops::Count(loops));
            server.listen(&format!("unix:{}", path.display()))
        };
        let faults = [
            (good().listen(&tcp_at), format!("listen on {tcp_at}: ")),
            (good().listen("unix:/nowhere/at/all"), "listen on unix:/nowhere/at/all: ".into()),
            (good().listen("198.51.100.1:80"), "listen on 198.51.100.1:80: ".into()),
            (good().datagrams(&udp_at), format!("receive datagrams at {udp_at}: ")),
            (good().admin(&tcp_at), format!("listen on {tcp_at} for the admin endpoint: ")),
            (good().admin("unix:/nowhere/at/all"), "listen on unix:/nowhere/at/all for".into()),
        ];
        let is_as_before = |what: &str| {
            let what = format!("{mode:?}, {loops} loops: {what}");
            assert!(!path.exists(), "{what}");
            nothing_else_is_left(&before, &what);
            drop(TcpListener::bind(&at).expect(&what));
        };
        for (faulty, said) in faults {
            let error = faulty.start(|_place| Echo).err().expect(&said).to_string();
            assert!(error.contains(&said), "{error} instead of {said}");
            is_as_before(&said);
        }
        for failing in 0..loops {
            let made = move |place: &net_core::LoopInfo<_>| {
                assert!(place.number() != failing, "no handler");
                Echo
            };
            let error = good().start(made).err().unwrap().to_string();
            assert_eq!(
                error,
                format!("loop {failing}: the handler's factory panicked: no handler")
            );
            is_as_before(&error);
        }
        let running = good().start(|_place| Echo).unwrap();
        assert_eq!(&ask(&mut connect(at.parse().unwrap()), b"hi"), b"hi");
        assert_eq!(&ask(&mut UnixStream::connect(&path).unwrap(), b"hi"), b"hi");
        drop(running);
        is_as_before("one that has started");
    }
}

/// Half of them are drained, the others dropped, each with a client inside; and one that would start
/// meanwhile is told, and takes nothing away.
#[test]
fn a_server_starts_again_at_its_unix_path() {
    let _alone = alone();
    let directory = Directory::new("again");
    let path = directory.0.join("socket");
    let at = format!("unix:{}", path.display());
    let before = left();
    for (mode, loops) in modes().into_iter().flat_map(|mode| [(mode, 1), (mode, 2)]) {
        for round in 0..6 {
            let start = || server(&at, mode).loops(Loops::Count(loops)).start(|_place| Echo);
            let running = start().unwrap();
            let mut client = UnixStream::connect(&path).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(&ask(&mut client, b"hi"), b"hi");
            let error = start().err().unwrap().to_string();
            assert!(error.contains(&format!("listen on {at}: ")), "{error}");
            assert_eq!(&ask(&mut UnixStream::connect(&path).unwrap(), b"ho"), b"ho");
            if round % 2 == 0 {
                running.handle().drain();
                assert!(running.wait().unwrap().counts.is_balanced());
            } else {
                drop(running);
            }
            assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
            drop(client);
            assert!(!path.exists(), "{mode:?}, round {round}");
            nothing_else_is_left(&before, &format!("{mode:?}, round {round}"));
        }
    }
}
