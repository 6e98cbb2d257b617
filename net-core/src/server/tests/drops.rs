//! Tests a whole server with user values that panic when dropped: none costs more than a panic in a callback.

use super::*;
use crate::api::pool::{JobPanicked, Pool};
use crate::base::panics::guard;
use std::sync::atomic::{AtomicUsize, Ordering};

static DROPPED: AtomicUsize = AtomicUsize::new(0);

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

/// Panics when it is dropped, with another such value as the payload.
struct Again;

impl Drop for Again {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new(Again));
    }
}

/// A handler that panics when dropped. So do its sessions, its messages, and the jobs that it is asked
/// for.
struct Mined {
    pool: Pool,
    _bomb: Bomb,
}

impl Handler for Mined {
    type Session = Bomb;
    type Message = Bomb;

    fn admit(&mut self, _peer: &Peer) -> Option<Bomb> {
        Some(Bomb)
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        let then = |conn: &mut Conn<'_, Self>, answer: Result<(), JobPanicked>| {
            let said: &[u8] = if answer.is_ok() { b"answer" } else { b"panic." };
            assert!(conn.send(said).is_taken());
        };
        match input.take_all() {
            b"work" => {
                let bomb = Bomb;
                let taken = self.pool.offload(conn, move || drop(bomb), then);
                assert!(taken.is_ok());
            }
            b"payload" => {
                let work = || std::panic::resume_unwind(Box::new(Again));
                assert!(self.pool.offload(conn, work, then).is_ok());
            }
            b"callback" => std::panic::resume_unwind(Box::new(Again)),
            _ => _ = conn.send(b"answer"),
        }
    }
}

/// Regression test: a session, a message, a handler, a factory or a job's value may panic when it is
/// dropped, and so may the payload of a panic. Some of these ended a loop or a thread of a pool, and with
/// it the server.
#[test]
fn whatever_panics_when_it_is_dropped_the_server_ends_as_it_was_asked_to() {
    for here in [false, true] {
        let pool = Pool::new(1, 16).unwrap();
        let (jobs, factory_s) = (pool.clone(), std::sync::Mutex::new(Some(Bomb)));
        let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(1)).pin(false);
        let factory = move |_: &LoopInfo<Bomb>| {
            let _part_of_it = &factory_s;
            Mined { pool: jobs.clone(), _bomb: Bomb }
        };
        let talk = |running: &Running<Bomb>| {
            let at = running.addrs()[0].inet().unwrap();
            let handle = running.handle();
            move || {
                let say = |word: &[u8]| {
                    let mut client = TcpStream::connect(at).unwrap();
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    client.write_all(word).unwrap();
                    let mut back = Vec::new();
                    let _ = client.take(6).read_to_end(&mut back);
                    back
                };
                assert_eq!(say(b"hello"), b"answer");
                assert_eq!(say(b"work"), b"panic.");
                assert_eq!(say(b"payload"), b"panic.");
                assert_eq!(say(b"callback"), b"");
                assert!(handle.post(0, Bomb).is_ok());
                assert_eq!(say(b"work"), b"panic.", "the pool's thread goes on");
                assert_eq!(say(b"hello"), b"answer");
                handle.drain();
            }
        };
        let before = DROPPED.load(Ordering::Relaxed);
        let ended = if here {
            let (tell, told) = mpsc::channel();
            let ended = server.run_on_current_thread(factory, |running| {
                tell.send(thread::spawn(talk(running))).unwrap();
            });
            told.recv().unwrap().join().unwrap();
            ended
        } else {
            let running = server.start(factory).unwrap();
            talk(&running)();
            running.wait()
        };
        let ended = ended.unwrap();
        assert!(ended.counts.is_balanced(), "{}", ended.counts);
        // Six sessions, the message, the callback, the handler, and the jobs' values.
        let panics = ended.counts.get(Counter::Panics);
        assert!(panics >= 9, "{panics}");
        let dropped = DROPPED.load(Ordering::Relaxed) - before;
        assert!(dropped >= 11, "{dropped}");
        assert_eq!(pool.counts().panicked, 3);
        let _ = guard(|| drop(pool));
    }
}

/// A loop that dies of a fault of the library still drops the user's values one by one, because two
/// panics in one drop would abort the process.
#[test]
fn a_loop_that_dies_drops_its_sessions_one_by_one() {
    let pool = Pool::new(1, 1).unwrap();
    let server = Server::new().listen("127.0.0.1:0").loops(Loops::Count(1)).pin(false);
    let running = server.start(move |_| Dying(Mined { pool: pool.clone(), _bomb: Bomb })).unwrap();
    let at = running.addrs()[0].inet().unwrap();
    let mut clients: Vec<_> = (0..5).map(|_| TcpStream::connect(at).unwrap()).collect();
    for client in &mut clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    }
    clients[0].write_all(b"die").unwrap();
    let said = running.wait().unwrap_err().to_string();
    assert!(said.contains("died of a panic: struck"), "{said}");
}

struct Dying(Mined);

impl Handler for Dying {
    type Session = Bomb;
    type Message = Bomb;

    fn admit(&mut self, _peer: &Peer) -> Option<Bomb> {
        let _whole = &self.0;
        Some(Bomb)
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        match input.take_all() {
            b"die" => crate::sys::fault::at_next_wait(|| panic!("struck")),
            _ => _ = conn.send(b"answer"),
        }
    }
}
