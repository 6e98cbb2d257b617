//! `Dial`: the destination, the source address, the timeout and the retries of an outgoing connection.
//!
//! This module decides when a failed attempt is tried again. The loop carries the attempt out.

use crate::base::close_reason::CloseReason;
use crate::base::splitmix;
use crate::sys::addr::{Addr, AddrError};
use crate::sys::{DialOptions, Errno, Socket, SocketOptions};
use net_timer::Tick;
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A connection that a callback asks for: [`LoopContext::dial`](crate::LoopContext::dial).
///
/// ```no_run
/// use net_core::{CloseReason, Conn, Dial, Handler, Input, LoopContext, Peer, Server};
/// use net_core::dial::Retry;
///
/// /// Asks another server what the time is there, for each message posted.
/// struct Asks;
///
/// impl Handler for Asks {
///     type Session = ();
///     type Message = ();
///
///     fn admit(&mut self, _peer: &Peer) -> Option<()> {
///         None // this one only dials
///     }
///
///     fn on_message(&mut self, here: &mut LoopContext<'_, Self>, _message: ()) {
///         let server: net_core::Addr = "192.0.2.1:13".parse().expect("an address");
///         let dial = Dial::to(server).retry(Retry { attempts: 3, ..Retry::default() });
///         if let Err(refused) = here.dial(dial, ()) {
///             eprintln!("not even begun: {refused}");
///         }
///     }
///
///     fn on_data(&mut self, _conn: &mut Conn<'_, Self>, input: &mut Input<'_>) {
///         println!("{}", String::from_utf8_lossy(input.take_all()));
///     }
///
///     fn on_close(&mut self, _conn: &mut Conn<'_, Self>, why: &CloseReason) {
///         println!("that was all: {why}"); // or it never came up, and this says why
///     }
/// }
///
/// fn main() -> Result<net_core::server::Ended, net_core::StartError> {
///     Server::new().run_with(|_loop| Asks, |running| _ = running.handle().post(0, ()))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Dial {
    pub(crate) to: Target,
    pub(crate) options: DialOptions,
    timeout: Option<Duration>,
    retry: Option<Retry>,
}

/// Where a dial goes.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Addr(Addr),
    /// `host:port`, looked up anew for each attempt.
    Name(Arc<str>),
}

impl Dial {
    /// Dials this address, with one attempt.
    pub fn to(to: Addr) -> Self {
        Self::with(Target::Addr(to))
    }

    /// Dials `host:port`, with one attempt. If the text is an address, dials that address.
    ///
    /// The name is looked up outside the loop, on one of the resolver
    /// [threads](crate::Limits::resolver_threads). The addresses are tried in the system's order, but with
    /// IPv6 and IPv4 in turn, within the timeout of the attempt. The next address is tried as soon as a
    /// connect has failed, or at most 250 ms after the last connect began. Connects that are undecided go on.
    /// The first connect that succeeds becomes the connection, and the others are closed (RFC 8305).
    ///
    /// The attempt ends with [`CloseReason::Unresolved`] if the name has no address, or if
    /// [`names_queue`](crate::Limits::names_queue) is full. An error in the text itself is returned here.
    pub fn to_host(text: &str) -> Result<Self, AddrError> {
        let address = Addr::unless_name(text)?;
        Ok(Self::with(address.map_or_else(|| Target::Name(text.into()), Target::Addr)))
    }

    fn with(to: Target) -> Self {
        Self { to, options: DialOptions::default(), timeout: None, retry: None }
    }

    /// Sets options of the TCP socket before it connects. Default: nodelay alone.
    ///
    /// Options of listeners (`defer_accept`, `only_v6`) are ignored. An option that the kernel refuses ends
    /// the attempt with `Machine(errno)`. A linger other than 0 ends it with `EINVAL`.
    pub fn sockets(mut self, options: SocketOptions) -> Self {
        self.options.sockets = Some(Box::new(options));
        self
    }

    /// Sets the source address. With port 0 the kernel chooses the port at connect, so that one port of the
    /// source address can serve many destinations (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
    pub fn source(mut self, source: SocketAddr) -> Self {
        self.options.source = Some(source);
        self
    }

    /// How long one attempt may take. Default: [`connect_timeout`](crate::Limits::connect_timeout).
    ///
    /// A connect fails at once if the accept queue of a Unix listener is full (`EAGAIN`), or if the kernel is
    /// short of memory (`ENOBUFS`). Then the connect is tried again within this time, after pauses of 1 to
    /// 100 ms. When the time is over, that error is the close reason.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Tries again when an attempt has failed, for any reason. The session is kept, and so is the output that
    /// was already queued on the connection.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }
}

impl From<Addr> for Dial {
    fn from(to: Addr) -> Self {
        Self::to(to)
    }
}

impl From<SocketAddr> for Dial {
    fn from(to: SocketAddr) -> Self {
        Self::to(to.into())
    }
}

/// How often, and after what pauses, a dial is tried again. Bounded in attempts and in time.
///
/// Each pause is twice the pause before, up to `pause_max`. Then it is shortened at random by up to a half,
/// so that clients that were cut off together do not all reconnect at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    /// The number of attempts, including the first.
    pub attempts: u32,
    /// The pause after the first failure, before it is shortened at random.
    pub first_pause: Duration,
    /// The longest pause, before it is shortened at random.
    pub pause_max: Duration,
    /// The time for all attempts, counted from the dial. At its end the attempt under way is given up, and no
    /// further attempt begins.
    pub within: Duration,
}

impl Default for Retry {
    /// 8 attempts within a minute, after pauses of 100 ms to 10 s.
    fn default() -> Self {
        Self {
            attempts: 8,
            first_pause: Duration::from_millis(100),
            pause_max: Duration::from_secs(10),
            within: Duration::from_secs(60),
        }
    }
}

impl Retry {
    /// The pause after failure number `failures`, counted from 1.
    fn pause(&self, failures: u32, jitter: &mut Jitter) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let whole = self.first_pause.saturating_mul(doubled).min(self.pause_max);
        let millis = Tick::millis_of(whole);
        Duration::from_millis(jitter.between(millis / 2, millis))
    }
}

/// A dial that did not begin. It gives the session back.
pub struct DialRejected<S> {
    /// `Draining` or `Stopped`: the server is ending and does not dial any more. `Refused(Full)`: every slot
    /// of this loop's table is taken. `Machine(ENOMEM)`: there is no memory for more connections.
    pub why: CloseReason,
    /// The session that was given to the dial.
    pub session: S,
}

impl<S> fmt::Display for DialRejected<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not dialled: {}", self.why)
    }
}

// Written by hand, so that a result can be unwrapped even if the session is not `Debug`.
impl<S> fmt::Debug for DialRejected<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How long a connect may be undecided before the next address is tried in parallel: RFC 8305, section 8.
const ADDRESS_DELAY_MS: u64 = 250;
/// The lower bound of that delay in RFC 8305. It holds however little time is left for all addresses.
const ADDRESS_DELAY_MIN_MS: u64 = 10;
/// The longest pause before a connect that failed for a passing reason of this machine is tried again.
const AGAIN_MAX_MS: u64 = 100;

/// What a connecting connection remembers of its dial.
#[derive(Debug)]
pub(crate) struct Dialling {
    pub(crate) dial: Dial,
    /// An attempt is under way. If false, the dial waits for its turn or for the end of a pause.
    pub(crate) is_under_way: bool,
    /// The dial is in the loop's list of dials. Entries left there by an attempt that is over do not count.
    pub(crate) awaits_turn: bool,
    /// The attempt under way waits for the addresses of the name.
    pub(crate) is_asking: bool,
    /// Addresses that this attempt still has to try, the next one first.
    pub(crate) found: VecDeque<Addr>,
    /// Sockets whose connects began before the connect of the connection's own socket. All these connects
    /// are undecided and race; their events carry the same id. Empty if the connection has no socket.
    pub(crate) older: Vec<Socket>,
    /// Why the last connect could not begin, if its address is to be tried again.
    pub(crate) put_off: Option<Errno>,
    /// How many times in a row a connect was put off.
    put_offs: u32,
    /// When the next address is tried although no connect is decided. `MAX`: no address is left.
    next: Tick,
    attempts: u32,
    /// When the attempt under way is given up.
    overdue: Tick,
    /// When the whole dial is given up.
    until: Tick,
}

impl Dialling {
    pub(crate) fn new(dial: Dial, now: Tick) -> Self {
        let until = dial.retry.map_or(Tick::MAX, |retry| now.after(retry.within));
        Self {
            dial,
            is_under_way: false,
            awaits_turn: true,
            is_asking: false,
            found: VecDeque::new(),
            older: Vec::new(),
            put_off: None,
            put_offs: 0,
            next: Tick::MAX,
            attempts: 0,
            overdue: until,
            until,
        }
    }

    /// An attempt begins. Returns the time at which it is overdue.
    pub(crate) fn begin(&mut self, now: Tick, connect_timeout: Duration) -> Tick {
        self.is_under_way = true;
        self.attempts = self.attempts.saturating_add(1);
        self.overdue = now.after(self.dial.timeout.unwrap_or(connect_timeout)).min(self.until);
        self.overdue
    }

    /// The number of the attempt, counted from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempts
    }

    /// The time at which the attempt under way is overdue.
    pub(crate) fn overdue(&self) -> Tick {
        self.overdue
    }

    /// The attempt under way has taken too long.
    pub(crate) fn is_overdue(&self, now: Tick) -> bool {
        now >= self.overdue
    }

    /// The name that is dialled; `None` if an address is dialled.
    pub(crate) fn name(&self) -> Option<&Arc<str>> {
        match &self.dial.to {
            Target::Name(name) => Some(name),
            Target::Addr(_) => None,
        }
    }

    /// The resolver has answered. IPv6 and IPv4 addresses take turns, beginning with the family of the first
    /// address, so that a family without a working path delays the dial only a little (RFC 8305, section 4).
    pub(crate) fn found(&mut self, addresses: &[SocketAddr]) {
        let is_first = |at: &&SocketAddr| at.is_ipv4() == addresses[0].is_ipv4();
        let (first, other): (Vec<_>, Vec<_>) = addresses.iter().partition(is_first);
        self.found.clear();
        for n in 0..first.len().max(other.len()) {
            let pair = [first.get(n), other.get(n)].into_iter().flatten();
            self.found.extend(pair.map(|at: &&SocketAddr| Addr::from(**at)));
        }
    }

    /// A connect has begun. Returns when to act if it is still undecided: try the next address in parallel,
    /// or end the overdue attempt. The delay before the next address is an equal share of the time that is
    /// left, and between 10 and 250 ms.
    pub(crate) fn has_begun(&mut self, now: Tick) -> Tick {
        (self.put_off, self.put_offs) = (None, 0);
        let left = self.overdue.saturating_since(now);
        let share = left / (self.found.len() as u64 + 1);
        let delay = share.clamp(ADDRESS_DELAY_MIN_MS, ADDRESS_DELAY_MS);
        self.next = if self.found.is_empty() { Tick::MAX } else { now.saturating_add(delay) };
        self.next.min(self.overdue)
    }

    /// A connect to `to` could not begin, for a passing reason of this machine. Returns when the address is
    /// tried again, or when the attempt is overdue if that is earlier.
    pub(crate) fn put_off(&mut self, to: Addr, why: Errno, now: Tick, jitter: &mut Jitter) -> Tick {
        let pause = (1 << self.put_offs.min(10)).min(AGAIN_MAX_MS);
        self.put_offs += 1;
        self.put_off = Some(why);
        self.found.push_back(to);
        self.next = now.saturating_add(jitter.between(pause.div_ceil(2), pause));
        self.next.min(self.overdue)
    }

    /// The attempt has failed. Returns when the next attempt is due; `None`: it was the last attempt.
    pub(crate) fn end(&mut self, now: Tick, jitter: &mut Jitter) -> Option<Tick> {
        self.is_under_way = false;
        self.awaits_turn = false;
        self.is_asking = false;
        self.found.clear();
        (self.put_off, self.put_offs) = (None, 0);
        let retry = self.dial.retry.filter(|retry| self.attempts < retry.attempts)?;
        let next = now.after(retry.pause(self.attempts, jitter));
        (next < self.until).then_some(next)
    }
}

/// Returns whether a connect that fails at once with this error should be tried again soon.
///
/// `EAGAIN`: the accept queue of the Unix listener is full. `ENOBUFS`: the kernel has no memory for the
/// connect. All other errors last longer than a dial. With `EADDRNOTAVAIL`, a port becomes free only a minute
/// after its connection has ended, and each try makes the kernel search all ports. With `EMFILE`, the handler
/// knows best what to close.
pub(crate) fn passes_soon(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::NOBUFS)
}

/// A source of random numbers that a test can repeat.
#[derive(Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        let number = splitmix::next(&mut self.0);
        match (high - low).checked_add(1) {
            Some(count) => low + number % count,
            None => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn dialling(retry: Option<Retry>) -> Dialling {
        let mut dial = Dial::to("127.0.0.1:1".parse().unwrap());
        dial.retry = retry;
        Dialling::new(dial, Tick::ZERO)
    }

    /// Lets every attempt fail at once. Returns the times at which the attempts began.
    fn attempts(retry: Retry, seed: u64) -> Vec<u64> {
        let (mut dialling, mut jitter) = (dialling(Some(retry)), Jitter::new(seed));
        let mut now = Tick::ZERO;
        let mut begun = Vec::new();
        loop {
            dialling.begin(now, SECOND);
            begun.push(now.as_millis());
            match dialling.end(now, &mut jitter) {
                Some(next) => now = next,
                None => return begun,
            }
        }
    }

    #[test]
    fn without_retry_the_first_attempt_is_the_last() {
        let mut dialling = dialling(None);
        assert_eq!(dialling.begin(Tick::ZERO, SECOND), Tick::ZERO.after(SECOND));
        assert_eq!(dialling.end(Tick::ZERO, &mut Jitter::new(1)), None);
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_keep_their_order() {
        let mut dialling = dialling(None);
        for (found, tried) in [
            (&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"][..], [0, 3, 1, 2].as_slice()),
            (&["1.1.1.1:1", "[::1]:1", "[::2]:1", "2.2.2.2:1"], &[0, 1, 3, 2]),
            (&["1.1.1.1:1", "2.2.2.2:1"], &[0, 1]),
            (&["[::1]:1"], &[0]),
        ] {
            let found = addresses(found);
            dialling.found(&found);
            let expected: Vec<_> = tried.iter().map(|n| Addr::from(found[*n])).collect();
            assert_eq!(dialling.found, expected);
        }
    }

    #[test]
    fn the_next_address_is_tried_a_little_later_or_so_that_all_have_their_turn() {
        let found = addresses(&["1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1", "4.4.4.4:1"]);
        for (timeout_ms, looks) in [
            (5000, [250, 500, 750, 5000]), // no longer than a quarter of a second
            (400, [100, 200, 300, 400]),   // a quarter of the time each
            (12, [10, 12, 12, 12]),        // but at least 10 ms apart
        ] {
            let mut dialling = dialling(None);
            dialling.begin(Tick::ZERO, Duration::from_millis(timeout_ms));
            dialling.found(&found);
            let mut now = Tick::ZERO;
            for look in looks {
                assert!(dialling.found.pop_front().is_some());
                now = dialling.has_begun(now);
                // `Tick::after` rounds up, so that no time is too early.
                let expected = look..=look + 1;
                assert!(expected.contains(&now.as_millis()), "{timeout_ms}: {looks:?}, {now:?}");
            }
            assert!(dialling.is_overdue(now));
        }
    }

    #[test]
    fn what_is_put_off_is_tried_again_after_pauses_that_double_up_to_a_tenth_of_a_second() {
        let (mut dialling, mut jitter) = (dialling(None), Jitter::new(3));
        dialling.begin(Tick::ZERO, 60 * SECOND);
        let (to, why) = (Addr::from(addresses(&["1.1.1.1:1"])[0]), Errno::AGAIN);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            pauses.push(dialling.put_off(to.clone(), why, Tick::ZERO, &mut jitter).as_millis());
            assert_eq!(
                (dialling.found.pop_front(), dialling.put_off),
                (Some(to.clone()), Some(why))
            );
        }
        for (pause, whole) in pauses.iter().zip([1, 2, 4, 8, 16, 32, 64, 100, 100, 100, 100, 100]) {
            assert!((whole / 2..=whole).contains(pause) && *pause > 0, "{pauses:?}");
        }
        dialling.begin(Tick::ZERO, Duration::from_millis(20));
        assert!(dialling.put_off(to, why, Tick::ZERO, &mut jitter).as_millis() <= 21);
        assert!(passes_soon(why) && passes_soon(Errno::NOBUFS));
        for lasting in [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NETUNREACH, Errno::CONNREFUSED] {
            assert!(!passes_soon(lasting));
        }
    }

    #[test]
    fn a_text_is_an_address_or_a_name_or_refused_with_its_reason() {
        let to = |text: &str| Dial::to_host(text).map(|dial| dial.to);
        assert!(matches!(to("10.0.0.1:80"), Ok(Target::Addr(Addr::Inet(_)))));
        assert!(matches!(to("[::1]:80"), Ok(Target::Addr(Addr::Inet(_)))));
        assert!(matches!(to("unix:@x"), Ok(Target::Addr(Addr::Unix(_)))));
        assert!(matches!(to("no.such.host.invalid:80"), Ok(Target::Name(_))), "nobody is asked");
        for text in ["host", "host:70000", ":80", "::1:80"] {
            assert!(to(text).unwrap_err().to_string().contains(text));
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_lose_up_to_a_half() {
        let retry = Retry {
            attempts: 8,
            first_pause: Duration::from_millis(100),
            pause_max: Duration::from_millis(800),
            within: Duration::from_secs(3600),
        };
        for seed in 0..100 {
            let begun = attempts(retry, seed);
            assert_eq!(begun.len(), 8, "no more attempts than asked for");
            let pauses = begun.windows(2).map(|pair| pair[1] - pair[0]);
            for (pause, whole) in pauses.zip([100, 200, 400, 800, 800, 800, 800]) {
                // `Tick::after` rounds up, so that no time is too early.
                assert!((whole / 2..=whole + 1).contains(&pause), "{pause} of {whole}");
            }
        }
    }

    #[test]
    fn time_bounds_it_too() {
        let retry = Retry { attempts: u32::MAX, within: 10 * SECOND, ..Retry::default() };
        for seed in 0..100 {
            let begun = attempts(retry, seed);
            assert!(begun.len() < 20 && *begun.last().unwrap() < 10_000, "{begun:?}");
        }
        let mut dialling = dialling(Some(Retry { within: SECOND, ..retry }));
        assert_eq!(dialling.begin(Tick::ZERO, 60 * SECOND), Tick::ZERO.after(SECOND));
    }

    #[test]
    fn ten_thousand_who_are_cut_off_together_come_back_spread() {
        let mut jitter = Jitter::new(7);
        let retry = Retry::default();
        let mut per_millisecond = [0u32; 101];
        for _ in 0..10_000 {
            per_millisecond[retry.pause(1, &mut jitter).as_millis() as usize] += 1;
        }
        let (early, late) = per_millisecond.split_at(50);
        assert!(early.iter().all(|&n| n == 0), "nobody sooner than half the pause");
        assert!(late.iter().all(|&n| (100..350).contains(&n)), "spread evenly: {late:?}");
    }

    #[test]
    fn the_edges_of_pauses_do_not_wrap() {
        let mut jitter = Jitter::new(0);
        let endless =
            Retry { first_pause: Duration::MAX, pause_max: Duration::MAX, ..Retry::default() };
        assert!(endless.pause(u32::MAX, &mut jitter) > Duration::from_secs(1 << 32));
        let none = Retry { first_pause: Duration::ZERO, ..Retry::default() };
        assert_eq!(none.pause(9, &mut jitter), Duration::ZERO);
        assert_eq!(jitter.between(5, 5), 5);
        let _ = jitter.between(0, u64::MAX);
    }
}
