//! A loop on the thread of the caller, who has it back as it was.

use super::*;
use net_core::metrics::Counter;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

/// What a thread has of its own: its name, its cores, its blocked signals.
#[derive(PartialEq, Eq, Debug)]
struct Own(String, String, String);

fn own_of(task: &str) -> Own {
    let status = fs::read_to_string(format!("/proc/{task}/status")).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    Own(line("Name:"), line("Cpus_allowed_list:"), line("SigBlk:"))
}

fn own() -> Own {
    own_of("thread-self")
}

fn own_of_acceptor() -> Own {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut tasks = fs::read_dir("/proc/self/task").unwrap();
        let is_it = |task: &str| {
            let name = fs::read_to_string(format!("/proc/{task}/comm"));
            name.is_ok_and(|name| name == "net-acceptor\n")
        };
        let found = tasks.find_map(|task| {
            let task = format!("self/task/{}", task.unwrap().file_name().display());
            is_it(&task).then_some(task)
        });
        if let Some(task) = found {
            return own_of(&task);
        }
        assert!(Instant::now() < end, "no thread is called net-acceptor");
        thread::sleep(Duration::from_millis(1));
    }
}

/// On which threads handlers were made, and on which cores they have admitted.
type Seen = Arc<Mutex<(Vec<ThreadId>, Vec<String>)>>;

/// Echoes; a question mark makes it panic.
struct Notes(Seen);

impl Notes {
    fn new(seen: &Seen) -> Self {
        seen.lock().unwrap().0.push(thread::current().id());
        Self(Arc::clone(seen))
    }
}

impl Handler for Notes {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        self.0.lock().unwrap().1.push(own().1);
        Some(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
        assert!(!input.peek().contains(&b'?'), "asked to panic");
        let _ = conn.echo(input); // refused only when the connection is ending
    }
}

/// Serves in every way, ended by a drain or a stop from another thread.
#[test]
fn a_loop_on_the_callers_thread_serves_and_the_thread_is_as_before() {
    let _alone = alone();
    let (before, own_before) = (left(), own());
    for (loops, accept) in
        [1, 2, 3].into_iter().flat_map(|n| [(n, Accept::Acceptor), (n, Accept::ReusePort)])
    {
        for is_drained in [true, false] {
            let notes = Arc::default();
            let seen = Arc::clone(&notes);
            let server = Server::new().listen(OWN_ADDRESS).loops(Loops::Count(loops)).pin(true);
            let mut client = None;
            let ended = server.accept(accept).run_on_current_thread(
                move |_place| Notes::new(&notes),
                |running| {
                    let at = running.addrs()[0].inet().unwrap();
                    let handle = running.handle();
                    assert_eq!(
                        own(),
                        own_before,
                        "while it does not run, the thread is the caller's"
                    );
                    assert_eq!(own_of_acceptor().1, own_before.1, "threads inherit all cores");
                    client = Some(thread::spawn(move || {
                        let mut clients: Vec<_> = (0..4 * loops).map(|_| connect(at)).collect();
                        clients.iter_mut().for_each(|it| assert_eq!(&ask(it, b"hi"), b"hi"));
                        clients[0].write_all(b"?").unwrap();
                        assert!(matches!(clients[0].read(&mut [0]), Ok(0) | Err(_)));
                        assert_eq!(&ask(&mut clients[1], b"ho"), b"ho", "a panic costs one");
                        if is_drained {
                            handle.drain()
                        } else {
                            handle.stop()
                        }
                        for client in &mut clients {
                            assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
                        }
                    }));
                },
            );
            let ended = ended.unwrap();
            client.unwrap().join().unwrap();
            assert!(ended.counts.is_balanced(), "{}", ended.counts);
            let (made, cores) = &*seen.lock().unwrap();
            let here = made.iter().filter(|&&id| id == thread::current().id()).count();
            assert_eq!((made.len(), here), (loops, 1), "{accept:?}");
            assert!(cores.iter().all(|list| !list.contains(['-', ','])), "pinned: {cores:?}");
            assert_eq!(own(), own_before);
            nothing_else_is_left(&before, &format!("{loops} loops, {accept:?}"));
        }
    }
}

/// However it fails, the caller has its thread back, and nothing is left.
#[test]
fn a_loop_that_fails_here_gives_the_thread_back() {
    let _alone = alone();
    let (before, own_before) = (left(), own());
    let two = || Server::new().listen(OWN_ADDRESS).loops(Loops::Count(2));
    let as_before = |what: &str| {
        assert_eq!(own(), own_before, "{what}");
        nothing_else_is_left(&before, what);
    };
    // Loop 1 is the one here.
    for number in [0, 1] {
        let made = move |place: &net_core::LoopInfo<_>| {
            assert!(place.number() != number, "no handler");
            Echo
        };
        let said = two().run_on_current_thread(made, |_| unreachable!()).unwrap_err().to_string();
        assert_eq!(said, format!("loop {number}: the handler's factory panicked: no handler"));
        as_before(&said);
    }
    {
        let taken = std::net::TcpListener::bind(OWN_ADDRESS).unwrap();
        let at = taken.local_addr().unwrap().to_string();
        let said =
            two().listen(&at).run_on_current_thread(|_| Echo, |_| unreachable!()).unwrap_err();
        assert!(said.to_string().starts_with(&format!("listen on {at}: ")), "{said}");
        let said =
            Server::new().listen(&at).run_alone_on_current_thread(|_| Echo, |_| unreachable!());
        let said = said.unwrap_err().to_string();
        assert!(said.starts_with(&format!("loop 0: listen on {at}: ")), "{said}");
    }
    as_before("an address in use");
    let panics = || two().run_on_current_thread(|_| Echo, |_| panic!("not ready"));
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    as_before("a panic in `ready`");
    let private = modes()[1].1;
    let said =
        two().fd_table(private).run_on_current_thread(|_| Echo, |_| unreachable!()).unwrap_err();
    assert!(said.to_string().contains("no descriptor table of its own"), "{said}");
    as_before("a private table");
}

/// Tells the caller, without a lock, that it is gone; and may panic where nobody catches it.
struct Gone(Rc<Cell<bool>>, bool);

impl Handler for Gone {
    type Session = ();
    type Message = Infallible;

    fn admit(&mut self, _peer: &Peer) -> Option<()> {
        None
    }

    fn on_data(&mut self, _conn: &mut Conn<'_, Self>, _input: &mut Input<'_>) {}
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.set(true);
        assert!(!self.1, "gone badly");
    }
}

/// A handler that panics when it is dropped, which no callback is, is counted, and the server ends as ever.
#[test]
fn a_handler_that_panics_at_its_drop_here_costs_nothing_else() {
    let _alone = alone();
    let (before, own_before) = (left(), own());
    for is_bad in [false, true] {
        let gone = Rc::new(Cell::new(false));
        let server = Server::new().listen(OWN_ADDRESS);
        let ended = server.run_alone_on_current_thread(
            |_place| Gone(Rc::clone(&gone), is_bad),
            |running| running.handle().drain(),
        );
        assert!(gone.get());
        assert_eq!(ended.unwrap().counts.get(Counter::Panics), u64::from(is_bad));
        assert_eq!(own(), own_before);
        nothing_else_is_left(&before, "a server of such a handler");
    }
}

/// The signal comes to whichever thread the kernel picks; the handler only counts it and rings.
#[test]
fn a_signal_drains_a_loop_on_the_callers_thread() {
    let _alone = alone();
    let before = left();
    let mut client = None;
    let ended = Server::new().listen(OWN_ADDRESS).run_alone_on_current_thread(
        |_place| Echo,
        |running| {
            let at = running.addrs()[0].inet().unwrap();
            client = Some(thread::spawn(move || {
                let mut client = connect(at);
                assert_eq!(&ask(&mut client, b"hi"), b"hi");
                let pid = std::process::id().to_string();
                let mut kill = std::process::Command::new("kill");
                #[expect(
                    clippy::disallowed_methods,
                    reason = "kill ends, and the test has a bound"
                )]
                let killed = kill.args(["-s", "TERM", &pid]).status();
                assert!(killed.unwrap().success());
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
            }));
        },
    );
    client.unwrap().join().unwrap();
    assert_eq!(ended.unwrap().cut_by_signal, None);
    nothing_else_is_left(&before, "a signal");
}
