//! The resolver: looks names up for the loops, on threads of its own, because the system's resolver
//! blocks.
//!
//! A loop asks, and goes on; the answer comes back to it by mail. The threads are started by the
//! acceptor's thread, on the first question and on the second that waits, and never more than a few.
//! Nobody waits for them at the end: one may hang for as long as a name server is silent, and what it
//! finds then, nobody takes.

use crate::id::ConnId;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// Addresses of one name that are tried. Names with more are rare, and a dial has only so much time.
const ADDRESSES_MAX: usize = 16;

/// A dial that waits for the addresses of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) id: ConnId,
    /// Which of its attempts asks, so that no later one takes the answer for its own.
    pub(crate) attempt: u32,
    /// `host:port`.
    pub(crate) name: Arc<str>,
}

/// What was found, in the system's order. Not empty if it is `Ok`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) id: ConnId,
    pub(crate) attempt: u32,
    pub(crate) found: io::Result<Vec<SocketAddr>>,
}

pub(crate) struct Resolver {
    inner: Mutex<Inner>,
    /// A question waits, or it is over.
    news: Condvar,
    questions_max: usize,
    threads_max: usize,
}

#[derive(Default)]
struct Inner {
    questions: VecDeque<Question>,
    threads: usize,
    /// Of the threads, those that wait for a question.
    idle: usize,
    is_over: bool,
}

impl Inner {
    fn wants_thread(&self, most: usize) -> bool {
        !self.is_over && self.questions.len() > self.idle && self.threads < most
    }
}

impl Resolver {
    pub(crate) fn new(questions_max: usize, threads_max: usize) -> Self {
        Self { inner: Mutex::default(), news: Condvar::new(), questions_max, threads_max }
    }

    /// Asks, without waiting. `Ok(true)`: one more thread would help, so the acceptor should be woken.
    /// Full, or over, it gives the question back.
    pub(crate) fn ask(&self, question: Question) -> Result<bool, Question> {
        let mut inner = self.inner.lock();
        if inner.is_over || inner.questions.len() >= self.questions_max {
            return Err(question);
        }
        inner.questions.push_back(question);
        self.news.notify_one();
        Ok(inner.wants_thread(self.threads_max))
    }

    /// Whether to start one more thread now; it counts from here. The acceptor's thread only.
    pub(crate) fn takes_thread(&self) -> bool {
        let mut inner = self.inner.lock();
        let takes = inner.wants_thread(self.threads_max);
        inner.threads += usize::from(takes);
        takes
    }

    /// The thread that was to be started could not be. Without any, nobody would ever answer: the
    /// questions come back.
    pub(crate) fn gives_thread_back(&self) -> VecDeque<Question> {
        let mut inner = self.inner.lock();
        inner.threads -= 1;
        if inner.threads > 0 { VecDeque::new() } else { std::mem::take(&mut inner.questions) }
    }

    /// Answers one question after the other until it is over: what a thread of the resolver does.
    pub(crate) fn serve(
        &self,
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>>,
        answer: impl Fn(Answer),
    ) {
        while let Some(Question { id, attempt, name }) = self.next() {
            answer(Answer { id, attempt, found: lookup(&name) });
        }
    }

    fn next(&self) -> Option<Question> {
        let mut inner = self.inner.lock();
        loop {
            if inner.is_over {
                return None;
            }
            if let Some(question) = inner.questions.pop_front() {
                return Some(question);
            }
            inner.idle += 1;
            self.news.wait(&mut inner);
            inner.idle -= 1;
        }
    }

    /// The next question, without waiting: for tests that answer themselves.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Option<Question> {
        self.inner.lock().questions.pop_front()
    }

    /// It is over: threads that wait end now, others after what they are at.
    pub(crate) fn end(&self) {
        let mut inner = self.inner.lock();
        inner.is_over = true;
        inner.questions.clear();
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

    fn question(n: u32) -> Question {
        let id = ConnId::new(0, n, NonZeroU32::MIN);
        Question { id, attempt: n, name: format!("host-{n}:80").into() }
    }

    #[test]
    fn questions_are_bounded_and_come_back() {
        let resolver = Resolver::new(2, 1);
        assert_eq!(resolver.ask(question(0)), Ok(true));
        assert_eq!(resolver.ask(question(1)), Ok(true));
        assert_eq!(resolver.ask(question(2)), Err(question(2)));
        assert_eq!(resolver.take(), Some(question(0)));
        assert_eq!(resolver.ask(question(2)), Ok(true));
        resolver.end();
        assert_eq!(resolver.ask(question(3)), Err(question(3)));
        assert_eq!(resolver.take(), None, "who asked has ended too");
    }

    #[test]
    fn no_more_threads_are_taken_than_may_be_and_none_without_a_question() {
        let resolver = Resolver::new(9, 2);
        assert!(!resolver.takes_thread());
        (0..3).for_each(|n| assert!(resolver.ask(question(n)).is_ok()));
        assert!(resolver.takes_thread() && resolver.takes_thread() && !resolver.takes_thread());
        assert!(resolver.gives_thread_back().is_empty(), "one is left to answer");
        assert_eq!(resolver.gives_thread_back().len(), 3);
        resolver.end();
        assert!(!resolver.takes_thread());
    }

    #[test]
    fn each_question_is_answered_once_by_whichever_thread() {
        let resolver = Resolver::new(1000, 3);
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..3 {
                let (resolver, tell) = (&resolver, tell.clone());
                scope.spawn(move || {
                    let lookup = |name: &str| Err(io::Error::other(name.to_owned()));
                    resolver.serve(lookup, |answer| tell.send(answer).unwrap());
                });
            }
            (0..500).for_each(|n| assert!(resolver.ask(question(n)).is_ok()));
            let mut answered: Vec<_> = told.iter().take(500).collect();
            resolver.end();
            answered.sort_by_key(|answer| answer.attempt);
            for (n, answer) in answered.into_iter().enumerate() {
                let said = answer.found.unwrap_err().to_string();
                assert_eq!((answer.attempt as usize, said), (n, format!("host-{n}:80")));
            }
        });
    }

    #[test]
    fn the_end_does_not_wait_for_a_name_server() {
        let resolver = Arc::new(Resolver::new(9, 1));
        let (begun, begins) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (mine, theirs) = (Arc::clone(&resolver), Arc::clone(&resolver));
        assert!(mine.ask(question(0)).is_ok() && mine.ask(question(1)).is_ok());
        let thread = thread::spawn(move || {
            let lookup = |_: &str| {
                begun.send(()).unwrap();
                released.recv().unwrap();
                Err(io::Error::other("too late"))
            };
            theirs.serve(lookup, drop);
        });
        begins.recv().unwrap();
        mine.end(); // returns, although the lookup hangs
        release.send(()).unwrap();
        thread.join().unwrap();
        assert!(begins.recv().is_err(), "the second question is asked of nobody");
    }

    #[test]
    fn the_system_is_asked_and_its_error_comes_back() {
        let found = lookup("localhost:80").unwrap();
        assert!(found.iter().all(|at| at.ip().is_loopback() && at.port() == 80));
        // With a part too long to ask any name server for.
        assert!(lookup(&format!("{}.invalid:80", "x".repeat(64))).is_err());
    }
}
