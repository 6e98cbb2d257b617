//! The resolver: looks names up for the loops, on threads of its own, because the system's resolver
//! blocks.
//!
//! A loop asks, and goes on. The answer comes back to the loop by mail. The acceptor's thread starts the
//! resolver's threads: on the first question, and whenever a question waits that may be asked, and never more
//! than the limit. The end of the server does not wait for them. A look-up may hang for as long as a name
//! server is silent, and its result is then not used.
//!
//! A look-up cannot be cancelled, so the resolver sees to it that silent name servers do not use up all
//! threads:
//!
//! - **Equal questions are one look-up.** A name that is asked again joins the look-up that waits or is
//!   under way, and all dials that have joined get its answer.
//! - **A domain has a share**: half of the threads, and half of the queue. A domain is the last two
//!   labels of a name.
//! - **A name that no dial wants is not looked up.** A dial that ends takes its question back. The
//!   question of a loop that is stuck is passed over once its time is over.
//! - **No thread waits for a loop.** An answer is posted beyond the bound of a mailbox that is full.

use crate::base::id::ConnId;
use net_timer::Tick;
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// Addresses of one name that are tried. Names with more are rare, and a dial has only so much time.
const ADDRESSES_MAX: usize = 16;

/// How often a full queue is searched for overdue names: the search takes some microseconds of the loop that
/// asks.
const SEARCH_EVERY_MS: u64 = 100;

/// A dial that waits for the addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub(crate) id: ConnId,
    /// Which of the dial's attempts asks, so that no later attempt takes the answer for its own.
    pub(crate) attempt: u32,
    /// `host:port`.
    pub(crate) name: Arc<str>,
    /// When the attempt is over, and the dial no longer waits for the answer.
    pub(crate) until: Tick,
}

/// What was found, in the system's order. Not empty if it is `Ok`.
pub(crate) type Found = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

/// What was found, for one of the dials that asked.
#[derive(Debug)]
pub(crate) struct LookupResult {
    pub(crate) id: ConnId,
    pub(crate) attempt: u32,
    pub(crate) found: Found,
}

pub(crate) struct Resolver {
    inner: Mutex<Inner>,
    /// Signals that a name waits, or that the resolver is over.
    news: Condvar,
    names_max: usize,
    threads_max: usize,
}

#[derive(Default)]
struct Inner {
    /// The dials that wait for each name. A name is here exactly while it is in `queue` or `running`.
    asked: HashMap<Arc<str>, Vec<Lookup>>,
    /// Names that wait for a thread, the oldest first.
    queue: VecDeque<Arc<str>>,
    /// Names that a thread looks up: one for each thread that is not idle.
    running: Vec<Arc<str>>,
    threads: usize,
    /// The latest time that a loop has told, and when the queue was last searched for overdue names.
    now: Tick,
    searched_at: Tick,
    is_over: bool,
}

/// The last two labels of the host in `host:port`, or the whole host.
fn domain_of(name: &str) -> &str {
    let host = name.rsplit_once(':').map_or(name, |(host, _)| host);
    let host = host.strip_suffix('.').unwrap_or(host);
    let before = host.rmatch_indices('.').nth(1);
    before.map_or(host, |(dot, _)| &host[dot + 1..])
}

/// How much of `all` one domain may use: half, and one at least.
fn share_of(all: usize) -> usize {
    all.div_ceil(2)
}

fn of_domain<'a>(names: impl IntoIterator<Item = &'a Arc<str>>, domain: &str) -> usize {
    names.into_iter().filter(|name| domain_of(name).eq_ignore_ascii_case(domain)).count()
}

impl Inner {
    fn idle(&self) -> usize {
        self.threads - self.running.len()
    }

    /// Whether a name waits that one more thread could look up.
    fn wants_thread(&self, most: usize) -> bool {
        let may_start = !self.is_over && self.threads < most;
        may_start && self.queue.len() > self.idle() && self.next_place(most).is_some()
    }

    /// The place in the queue of the first name whose domain has not used up its share of the threads.
    fn next_place(&self, threads_max: usize) -> Option<usize> {
        let mut used_up: Vec<&str> = self.running.iter().map(|name| domain_of(name)).collect();
        used_up.retain(|domain| of_domain(&self.running, domain) >= share_of(threads_max));
        let may_run = |name: &Arc<str>| {
            let domain = domain_of(name);
            !used_up.iter().any(|used_up| used_up.eq_ignore_ascii_case(domain))
        };
        self.queue.iter().position(may_run)
    }

    /// Takes the name that is to be looked up next out of the queue.
    fn pop(&mut self, threads_max: usize) -> Option<Arc<str>> {
        while let Some(place) = self.next_place(threads_max) {
            let name = self.queue.remove(place)?;
            if self.is_wanted(&name) {
                return Some(name);
            }
            self.asked.remove(&name);
        }
        None
    }

    /// Whether a dial waits for the name whose time is not over. A dial that is over has taken its question
    /// back, but a dial of a loop that is stuck has not.
    fn is_wanted(&self, name: &str) -> bool {
        self.asked.get(name).is_some_and(|all| all.iter().any(|q| q.until > self.now))
    }

    /// Whether one more name may wait.
    fn has_room(&mut self, name: &str, names_max: usize) -> bool {
        let (domain, share) = (domain_of(name), share_of(names_max));
        let is_full = |queue: &VecDeque<Arc<str>>| {
            let is_half_full = queue.len() >= share;
            queue.len() >= names_max || is_half_full && of_domain(queue, domain) >= share
        };
        if is_full(&self.queue) && self.now.saturating_since(self.searched_at) >= SEARCH_EVERY_MS {
            self.searched_at = self.now;
            let mut queue = std::mem::take(&mut self.queue);
            queue.retain(|name| {
                let is_wanted = self.is_wanted(name);
                if !is_wanted {
                    self.asked.remove(name);
                }
                is_wanted
            });
            self.queue = queue;
        }
        !is_full(&self.queue)
    }
}

impl Resolver {
    pub(crate) fn new(names_max: usize, threads_max: usize) -> Self {
        Self { inner: Mutex::default(), news: Condvar::new(), names_max, threads_max }
    }

    /// Asks, without waiting. `Ok(true)`: one more thread would help, so the acceptor should be woken. If the
    /// queue is full, or the resolver is over, the question is given back.
    pub(crate) fn ask(&self, question: Lookup, now: Tick) -> Result<bool, Lookup> {
        let mut inner = self.inner.lock();
        if inner.is_over {
            return Err(question);
        }
        inner.now = inner.now.max(now);
        if let Some(all) = inner.asked.get_mut(&question.name) {
            all.push(question);
            return Ok(false);
        }
        if !inner.has_room(&question.name, self.names_max) {
            return Err(question);
        }
        let name = Arc::clone(&question.name);
        inner.queue.push_back(Arc::clone(&name));
        inner.asked.insert(name, vec![question]);
        self.news.notify_one();
        Ok(inner.wants_thread(self.threads_max))
    }

    /// The dial that asked is over, or its attempt. A name that no other dial wants is not looked up.
    #[cold]
    pub(crate) fn withdraw(&self, id: ConnId, name: &str) {
        let mut inner = self.inner.lock();
        let Some(all) = inner.asked.get_mut(name) else { return };
        all.retain(|question| question.id != id);
        if all.is_empty()
            && let Some(place) = inner.queue.iter().position(|queued| **queued == *name)
        {
            inner.queue.remove(place);
            inner.asked.remove(name);
        }
    }

    /// Whether to start one more thread now. The thread counts from here. The acceptor's thread only.
    pub(crate) fn takes_thread(&self) -> bool {
        let mut inner = self.inner.lock();
        let takes = inner.wants_thread(self.threads_max);
        inner.threads += usize::from(takes);
        takes
    }

    /// The thread that was to be started could not be. If there is no other thread, no question would ever be
    /// answered: the questions come back.
    pub(crate) fn gives_thread_back(&self) -> Vec<Lookup> {
        let mut inner = self.inner.lock();
        inner.threads -= 1;
        if inner.threads > 0 {
            return Vec::new();
        }
        inner.queue.clear();
        inner.asked.drain().flat_map(|(_, questions)| questions).collect()
    }

    /// What a thread of the resolver does: looks up one name after the other until the resolver is over.
    pub(crate) fn serve(
        &self,
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>>,
        answer: impl Fn(LookupResult),
    ) {
        while let Some(name) = self.next() {
            let found: Found = lookup(&name).map(Arc::from).map_err(Arc::new);
            for Lookup { id, attempt, .. } in self.done(&name) {
                answer(LookupResult { id, attempt, found: found.clone() });
            }
        }
    }

    fn next(&self) -> Option<Arc<str>> {
        let mut inner = self.inner.lock();
        loop {
            if inner.is_over {
                return None;
            }
            if let Some(name) = inner.pop(self.threads_max) {
                inner.running.push(Arc::clone(&name));
                return Some(name);
            }
            self.news.wait(&mut inner);
        }
    }

    /// The look-up is over. Returns the questions that wait for it.
    fn done(&self, name: &str) -> Vec<Lookup> {
        let mut inner = self.inner.lock();
        if let Some(place) = inner.running.iter().position(|running| **running == *name) {
            inner.running.swap_remove(place);
        }
        inner.asked.remove(name).unwrap_or_default()
    }

    /// The question that waits longest, without waiting: for tests that answer themselves.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Option<Lookup> {
        let mut inner = self.inner.lock();
        let name = inner.queue.front()?.clone();
        let questions = inner.asked.get_mut(&name)?;
        let question = questions.remove(0);
        if questions.is_empty() {
            inner.asked.remove(&name);
            inner.queue.pop_front();
        }
        Some(question)
    }

    /// Ends the resolver: threads that wait end now, the others after their present look-up.
    pub(crate) fn end(&self) {
        let mut inner = self.inner.lock();
        inner.is_over = true;
        inner.queue.clear();
        inner.asked.clear();
        self.news.notify_all();
    }
}

/// Asks the system: /etc/hosts, name servers, and whatever else it is set up for.
pub(crate) fn lookup(name: &str) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<_> = name.to_socket_addrs()?.take(ADDRESSES_MAX).collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// For what must come, on a machine that is busy.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn asks(n: u32, name: &str) -> Lookup {
        let id = ConnId::new(0, n, NonZeroU32::MIN);
        Lookup { id, attempt: n, name: name.into(), until: Tick::from_millis(1000) }
    }

    fn question(n: u32) -> Lookup {
        asks(n, &format!("host-{n}:80"))
    }

    fn ask(resolver: &Resolver, question: Lookup) -> Result<bool, Lookup> {
        resolver.ask(question, Tick::ZERO)
    }

    fn nothing() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("nothing there"))
    }

    /// Threads that look up as told: a name that begins with `silent` hangs until it is released.
    struct Rig {
        resolver: Arc<Resolver>,
        begun: mpsc::Receiver<String>,
        answers: mpsc::Receiver<LookupResult>,
        release: Vec<mpsc::Sender<()>>,
        threads: Vec<thread::JoinHandle<()>>,
    }

    impl Rig {
        fn new(threads: usize) -> Self {
            let resolver = Arc::new(Resolver::new(64, threads));
            let ((begin, begun), (tell, answers)) = (mpsc::channel(), mpsc::channel());
            let mut rig =
                Self { resolver, begun, answers, release: Vec::new(), threads: Vec::new() };
            for _ in 0..threads {
                let (release, released) = mpsc::channel::<()>();
                let (begin, tell) = (begin.clone(), tell.clone());
                let resolver = Arc::clone(&rig.resolver);
                resolver.inner.lock().threads += 1;
                rig.release.push(release);
                rig.threads.push(thread::spawn(move || {
                    let lookup = |name: &str| {
                        begin.send(name.to_owned()).unwrap();
                        if name.starts_with("silent") {
                            let _ = released.recv(); // until the test lets go of it
                        }
                        nothing()
                    };
                    resolver.serve(lookup, |answer| tell.send(answer).unwrap());
                }));
            }
            rig
        }

        /// The next look-up that has begun.
        fn begun(&self) -> String {
            self.begun.recv_timeout(PATIENCE).unwrap()
        }

        /// Who is answered next.
        fn answered(&self) -> u32 {
            self.answers.recv_timeout(PATIENCE).unwrap().attempt
        }

        /// Ends it all. Returns the look-ups that had begun and were not asked for.
        fn end(mut self) -> Vec<String> {
            self.resolver.end();
            self.release.clear();
            self.threads.drain(..).for_each(|thread| thread.join().unwrap());
            self.begun.try_iter().collect()
        }
    }

    #[test]
    fn questions_are_bounded_and_come_back() {
        let resolver = Resolver::new(2, 1);
        assert_eq!(ask(&resolver, question(0)), Ok(true));
        assert_eq!(ask(&resolver, question(1)), Ok(true));
        assert_eq!(ask(&resolver, question(2)), Err(question(2)));
        assert_eq!(resolver.take(), Some(question(0)));
        assert_eq!(ask(&resolver, question(2)), Ok(true));
        resolver.end();
        assert_eq!(ask(&resolver, question(3)), Err(question(3)));
        assert_eq!(resolver.take(), None, "who asked has ended too");
    }

    #[test]
    fn no_more_threads_are_taken_than_may_be_and_none_without_a_question() {
        let resolver = Resolver::new(9, 2);
        assert!(!resolver.takes_thread());
        (0..3).for_each(|n| assert!(ask(&resolver, question(n)).is_ok()));
        assert!(resolver.takes_thread() && resolver.takes_thread() && !resolver.takes_thread());
        assert!(resolver.gives_thread_back().is_empty(), "one is left to answer");
        assert_eq!(resolver.gives_thread_back().len(), 3);
        resolver.end();
        assert!(!resolver.takes_thread());
    }

    #[test]
    fn each_question_is_answered_once_by_whichever_thread() {
        let resolver = Resolver::new(1000, 3);
        resolver.inner.lock().threads = 3;
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..3 {
                let (resolver, tell) = (&resolver, tell.clone());
                scope.spawn(move || {
                    let lookup = |name: &str| Err(io::Error::other(name.to_owned()));
                    resolver.serve(lookup, |answer| tell.send(answer).unwrap());
                });
            }
            (0..500).for_each(|n| assert!(ask(&resolver, question(n)).is_ok()));
            let next = |_| told.recv_timeout(PATIENCE).unwrap();
            let mut answered: Vec<_> = (0..500).map(next).collect();
            resolver.end();
            answered.sort_by_key(|answer| answer.attempt);
            for (n, answer) in answered.into_iter().enumerate() {
                let said = answer.found.unwrap_err().to_string();
                assert_eq!((answer.attempt as usize, said), (n, format!("host-{n}:80")));
            }
        });
    }

    /// Four dials of a name whose server was silent took all four threads: every other name waited.
    #[test]
    fn many_who_ask_for_one_silent_name_take_one_thread_and_no_more() {
        let rig = Rig::new(2);
        for n in 0..200 {
            assert!(ask(&rig.resolver, asks(n, "silent:1")).is_ok());
        }
        assert_eq!(rig.begun(), "silent:1");
        assert!(ask(&rig.resolver, question(300)).is_ok());
        assert_eq!((rig.begun(), rig.answered()), ("host-300:80".to_owned(), 300));
        assert!(ask(&rig.resolver, asks(200, "silent:1")).is_ok(), "it joins them");
        rig.release.iter().for_each(|release| release.send(()).unwrap());
        let mut answered: Vec<_> = (0..=200).map(|_| rig.answered()).collect();
        answered.sort_unstable();
        assert_eq!(answered, (0..=200).collect::<Vec<_>>(), "one look-up answers all");
        assert!(rig.end().is_empty());
    }

    #[test]
    fn a_silent_domain_has_half_of_the_threads_whatever_its_names_are() {
        let rig = Rig::new(4);
        for n in 0..9 {
            let name = format!("silent{n}.{}xample.com:80", ["e", "E"][n as usize % 2]);
            assert!(ask(&rig.resolver, asks(n, &name)).is_ok());
        }
        assert!(rig.begun().starts_with("silent") && rig.begun().starts_with("silent"));
        for n in 100..150 {
            assert!(ask(&rig.resolver, question(n)).is_ok());
            assert_eq!((rig.begun(), rig.answered()), (format!("host-{n}:80"), n));
        }
        rig.release.iter().for_each(|release| release.send(()).unwrap());
        assert!(rig.begun().starts_with("silent"), "then the next of that domain has its turn");
        rig.end();
    }

    #[test]
    fn a_domain_has_half_of_the_queue_and_the_rest_is_for_others() {
        let resolver = Resolver::new(8, 1);
        for n in 0..4 {
            assert!(ask(&resolver, asks(n, &format!("{n}.a.example.com:80"))).is_ok());
        }
        let fifth = asks(4, "4.b.example.com:80");
        assert_eq!(ask(&resolver, fifth.clone()), Err(fifth));
        assert!(ask(&resolver, asks(5, "1.a.example.com:80")).is_ok(), "this one only joins");
        for n in 10..14 {
            assert!(ask(&resolver, question(n)).is_ok(), "{n}");
        }
        assert!(ask(&resolver, question(14)).is_err());
    }

    #[test]
    fn the_domain_of_a_name_is_its_last_two_labels() {
        for (name, domain) in [
            ("localhost:80", "localhost"),
            ("db.internal:5432", "db.internal"),
            ("a.b.example.com:443", "example.com"),
            ("a.example.com.:443", "example.com"),
            (".:1", ""),
            ("..:1", "."),
            ("no-port.example.com", "example.com"),
        ] {
            assert_eq!(domain_of(name), domain, "{name}");
        }
    }

    /// After 200 dials that had been given up, 368 queries went out for a name that nobody wanted, and
    /// another name came up after 47 s.
    #[test]
    fn what_nobody_wants_any_more_is_not_looked_up() {
        let rig = Rig::new(1);
        assert!(ask(&rig.resolver, asks(0, "silent:1")).is_ok());
        assert_eq!(rig.begun(), "silent:1");
        for n in 1..9 {
            assert!(ask(&rig.resolver, question(n)).is_ok());
        }
        assert!(ask(&rig.resolver, asks(9, "host-4:80")).is_ok());
        for n in 0..9 {
            rig.resolver.withdraw(question(n).id, &question(n).name);
        }
        rig.resolver.withdraw(question(0).id, "silent:1");
        rig.resolver.withdraw(question(77).id, "never-asked:1");
        rig.release[0].send(()).unwrap();
        assert_eq!((rig.begun(), rig.answered()), ("host-4:80".to_owned(), 9));
        assert!(rig.end().is_empty(), "the others nobody waits for");
    }

    /// A loop that is stuck takes none of its questions back.
    #[test]
    fn what_a_stuck_loop_had_asked_is_passed_over_when_its_time_is_over() {
        let resolver = Resolver::new(2, 1);
        assert!(ask(&resolver, question(0)).is_ok() && ask(&resolver, question(1)).is_ok());
        assert!(resolver.ask(question(2), Tick::from_millis(999)).is_err());
        let late = Lookup { until: Tick::from_millis(3000), ..question(2) };
        assert!(resolver.ask(late.clone(), Tick::from_millis(1050)).is_err(), "just searched");
        assert!(resolver.ask(late.clone(), Tick::from_millis(1100)).is_ok());
        assert!(resolver.ask(question(3), Tick::from_millis(1100)).is_ok());
        let mut inner = resolver.inner.lock();
        assert_eq!(inner.pop(1), Some(late.name));
        assert_eq!(inner.pop(1), None, "its time was over when it was asked");
        assert_eq!(inner.asked.len(), 1);
    }

    #[test]
    fn the_end_does_not_wait_for_a_name_server() {
        let rig = Rig::new(1);
        assert!(ask(&rig.resolver, asks(0, "silent:1")).is_ok());
        assert!(ask(&rig.resolver, question(1)).is_ok());
        assert_eq!(rig.begun(), "silent:1");
        rig.resolver.end(); // returns, although the look-up hangs
        assert!(rig.end().is_empty(), "the second question is asked of nobody");
    }

    #[test]
    fn the_system_is_asked_and_its_error_comes_back() {
        let found = lookup("localhost:80").unwrap();
        assert!(found.iter().all(|at| at.ip().is_loopback() && at.port() == 80));
        // With a part too long to ask any name server for.
        assert!(lookup(&format!("{}.invalid:80", "x".repeat(64))).is_err());
    }
}
