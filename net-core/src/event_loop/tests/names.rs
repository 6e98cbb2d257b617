//! Dials to names: the resolver's answers, early, late or never, and one outcome for each dial.

use super::{At, Outcome, Rig, Stage, on_both_rigs, usual};
use crate::base::close_reason::{Callback, CloseReason, DeadlineKind};
use crate::features::dial::{Dial, Retry};
use crate::observe::counters::Counter;
use crate::sys::Errno;
use crate::threads::control::Phase;
use crate::threads::resolver::{Found, Lookup, LookupResult};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

on_both_rigs! {
    the_addresses_are_tried_in_order_until_one_is_up: 20,
    beside_an_address_that_is_silent_the_next_is_tried_a_little_later: 20,
    however_short_the_time_every_address_is_tried: 10,
    an_address_that_answers_late_wins_all_the_same_if_it_is_first: 20,
    several_that_are_up_at_once_give_one_connection: 20,
    however_a_race_goes_it_has_one_outcome_and_leaves_no_socket: 60,
    a_dial_that_ends_takes_its_sockets_and_its_question_along: 10,
    who_waited_for_one_name_dials_in_turns: 10,
    an_answer_waits_beside_a_full_mailbox_and_its_thread_does_not: 10,
    a_connect_that_meets_a_full_queue_is_tried_again_until_its_time_is_over: 5,
    when_none_is_up_the_last_error_is_the_reason: 10,
    an_unknown_name_ends_the_dial_and_can_be_asked: 10,
    a_resolver_that_never_answers_is_not_waited_for: 10,
    an_answer_for_an_attempt_that_is_over_changes_nothing: 20,
    each_attempt_asks_anew: 10,
    one_name_too_many_is_told_at_once: 5,
    a_stop_does_not_wait_for_answers: 10,
    bytes_wait_for_the_answer_and_the_connect: 20,
}

const MS: fn(u64) -> Duration = Duration::from_millis;
const NAME: &str = "db.example:5432";

/// What `on_close` was told: the names, one for each end.
type Names = Rc<RefCell<Vec<Option<String>>>>;

/// A stage that dials the name once for each message.
fn named<D: Rig>(seed: u64, names_queue: usize, retry: Option<Retry>) -> (Stage<D>, Names) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.connect_timeout = MS(1000);
        limits.names_queue = names_queue;
    });
    let names = Rc::new(RefCell::new(Vec::new()));
    let (log, notes) = (stage.log.clone(), Rc::clone(&names));
    stage.play(move |at| match at {
        At::Message(here, _) => {
            let mut dial = Dial::to_host(NAME).unwrap();
            if let Some(retry) = retry {
                dial = dial.retry(retry);
            }
            let id = here.dial(dial, log.session(None)).unwrap();
            let mut conn = here.connection(id).unwrap();
            assert!(conn.send(b"first").is_taken());
        }
        At::Close(conn) => notes.borrow_mut().push(conn.dialled_name().map(str::to_owned)),
        other => usual(other),
    });
    (stage, names)
}

fn dial<D: Rig>(stage: &mut Stage<D>) -> Lookup {
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    stage.shared.resolver.take().expect("the loop has asked")
}

fn answer<D: Rig>(stage: &mut Stage<D>, question: &Lookup, found: Found) {
    assert_eq!(&*question.name, NAME);
    stage.shared.answer(LookupResult { id: question.id, attempt: question.attempt, found });
    stage.settle();
}

fn addresses(count: u8) -> Found {
    Ok((1..=count).map(|n| SocketAddr::from(([10, 0, 0, n], 5432))).collect())
}

fn not_known() -> Found {
    Err(Arc::new(io::Error::other("not known")))
}

/// How the only dial has ended, and whether it was up.
fn outcome<D: Rig>(stage: &Stage<D>) -> (bool, Option<CloseReason>) {
    let notes = stage.log.get();
    let record = notes.records.last().expect("a dial was taken");
    (record.calls.contains(&Callback::Open), record.closed)
}

/// To which addresses connects were begun, by the last part of each.
fn tried<D: Rig>(stage: &Stage<D>) -> Vec<u8> {
    let world = stage.world.get();
    let inet = world.dialled_to.iter().map(|to| to.inet().expect("an Internet address"));
    inet.map(|to| to.ip().to_string().rsplit('.').next().unwrap().parse().unwrap()).collect()
}

fn the_addresses_are_tried_in_order_until_one_is_up<D: Rig>(seed: u64) {
    let (mut stage, names) = named::<D>(seed, 9, None);
    let question = dial(&mut stage);
    let outcomes = [Outcome::Refused, Outcome::Fails(libc::ENETUNREACH), Outcome::Up];
    stage.world.get().dials.extend(outcomes);
    answer(&mut stage, &question, addresses(5));
    assert_eq!(tried(&stage), [1, 2, 3]);
    assert_eq!(outcome(&stage), (true, None));
    stage.advance(5000);
    assert_eq!(outcome(&stage), (true, None), "the time of its connect is over, and it is up");
    stage.stop();
    assert_eq!(*names.borrow(), [Some(NAME.to_owned())]);
}

/// One dead address cost its share of the time, five seconds of ten, at each dial.
fn beside_an_address_that_is_silent_the_next_is_tried_a_little_later<D: Rig>(seed: u64) {
    let (mut stage, _) = named::<D>(seed, 9, None);
    let question = dial(&mut stage);
    stage.world.get().dials.extend([Outcome::Silence, Outcome::Silence, Outcome::Up]);
    answer(&mut stage, &question, addresses(3));
    stage.advance(249);
    assert_eq!(tried(&stage), [1], "a quarter of a second is not over");
    stage.advance(2);
    assert_eq!(tried(&stage), [1, 2]);
    stage.advance(250);
    assert_eq!(tried(&stage), [1, 2, 3]);
    assert_eq!(outcome(&stage), (true, None));
    assert_eq!(stage.world.get().sockets.len(), 1, "those that were undecided are closed");
    assert_eq!(stage.world.peer(2).got(), b"first");
    assert!([0, 1].iter().all(|loser| stage.world.peer(*loser).got().is_empty()));
    stage.advance(5000);
    assert_eq!((tried(&stage), outcome(&stage)), (vec![1, 2, 3], (true, None)));
    stage.stop();
}

/// With little time for many addresses, each has its turn in it all the same.
fn however_short_the_time_every_address_is_tried<D: Rig>(seed: u64) {
    let (mut stage, _) = named::<D>(seed, 9, None);
    let question = dial(&mut stage);
    stage.world.get().dials.extend(vec![Outcome::Silence; 15]);
    answer(&mut stage, &question, addresses(16));
    stage.advance(990);
    assert_eq!(tried(&stage), (1..=16).collect::<Vec<_>>());
    assert_eq!(outcome(&stage), (true, None));
    assert_eq!(stage.world.get().sockets.len(), 1);
    stage.stop();
}

fn an_address_that_answers_late_wins_all_the_same_if_it_is_first<D: Rig>(seed: u64) {
    for (late, wins) in [(600, 0), (300, 0), (700, 1)] {
        let (mut stage, _) = named::<D>(seed, 9, None);
        let question = dial(&mut stage);
        let now = stage.world.get().now;
        stage.world.get().dials.extend([Outcome::UpAt(now + late), Outcome::UpAt(now + 650)]);
        answer(&mut stage, &question, addresses(2));
        (0..99).for_each(|_| stage.advance(10)); // the world decides when it is looked at
        assert_eq!(outcome(&stage), (true, None), "first at {late}");
        let record = stage.log.get().records[0].clone();
        let opened = record.calls.iter().filter(|call| **call == Callback::Open).count();
        assert_eq!((opened, stage.world.get().sockets.len()), (1, 1));
        let got = [0, 1].map(|n| stage.world.peer(n).got());
        assert_eq!(got[wins], b"first");
        assert!(got[1 - wins].is_empty());
        stage.stop();
    }
}

fn several_that_are_up_at_once_give_one_connection<D: Rig>(seed: u64) {
    let (mut stage, _) = named::<D>(seed, 9, None);
    for round in 0..5 {
        let question = dial(&mut stage);
        let at = stage.world.get().now + 760 + stage.rng.below(3) as u64;
        stage.world.get().dials.extend(vec![Outcome::UpAt(at); 3]);
        answer(&mut stage, &question, addresses(3));
        stage.advance(990);
        assert_eq!(outcome(&stage), (true, None));
        assert_eq!(stage.world.get().sockets.len(), round + 1, "one is left of three");
    }
    assert_eq!((stage.count(Counter::Dialled), stage.count(Counter::Open)), (5, 5));
    stage.stop();
}

/// However the race goes: silence, refusals, late answers, ends from here. One outcome, no socket left.
fn however_a_race_goes_it_has_one_outcome_and_leaves_no_socket<D: Rig>(seed: u64) {
    let retry = Retry { attempts: 2, first_pause: MS(10), ..Retry::default() };
    let (mut stage, _) = named::<D>(seed, 9, Some(retry));
    for _ in 0..10 {
        stage.handle().post(0, 0).unwrap();
        for _ in 0..8 {
            let at = stage.world.get().now + stage.rng.below(900) as u64;
            let outcome = match stage.rng.below(7) {
                0 => Outcome::Up,
                1 => Outcome::Silence,
                2 => Outcome::Refused,
                3 => Outcome::Fails(libc::ENETUNREACH),
                4 => Outcome::Fails(libc::EAGAIN),
                5 => Outcome::Greeted(b"hello".to_vec(), stage.rng.one_in(2)),
                _ => Outcome::UpAt(at),
            };
            stage.world.get().dials.push_back(outcome);
        }
        stage.settle();
        for _ in 0..12 {
            if let Some(question) = stage.shared.resolver.take() {
                let count = stage.rng.within(1, 5) as u8;
                answer(&mut stage, &question, addresses(count));
            }
            let passes = stage.rng.below(300) as u64;
            stage.advance(passes);
            if stage.rng.one_in(30) {
                let id = stage.event_loop.state.table.next_live(0);
                let _ = id.map(|id| stage.handle().close(id));
            }
        }
    }
    stage.advance(5000);
    for record in &stage.log.get().records {
        let opened = record.calls.iter().filter(|call| **call == Callback::Open).count();
        assert!(opened + usize::from(record.closed.is_some()) >= 1, "{record:?}");
        assert!(opened <= 1, "{record:?}");
    }
    let open = stage.log.get().records.iter().filter(|record| record.closed.is_none()).count();
    assert_eq!(stage.world.get().sockets.len(), open);
    stage.stop();
}

/// Ended by whatever way, while several connects are undecided or the resolver is asked.
fn a_dial_that_ends_takes_its_sockets_and_its_question_along<D: Rig>(seed: u64) {
    for is_asking in [true, false] {
        for ends in 0..3 {
            let (mut stage, _) = named::<D>(seed, 9, None);
            stage.world.get().dials.extend(vec![Outcome::Silence; 3]);
            stage.handle().post(0, 0).unwrap();
            stage.settle();
            if !is_asking {
                let question = stage.shared.resolver.take().unwrap();
                answer(&mut stage, &question, addresses(3));
                stage.advance(600);
                assert_eq!(stage.world.get().sockets.len(), 3);
            }
            let id = stage.event_loop.state.table.next_live(0).unwrap();
            match ends {
                0 => stage.handle().close(id).unwrap(),
                1 => stage.shared.raise(Phase::Drain),
                _ => stage.shared.raise(Phase::Stop),
            }
            stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
            stage.settle();
            assert!(outcome(&stage).1.is_some(), "{ends}");
            assert_eq!(stage.world.get().sockets.len(), 0);
            assert!(stage.shared.resolver.take().is_none(), "nobody wants to know it any more");
            stage.stop();
        }
    }
}

/// Ten thousand may wait for one name: its answer began a connect for each, in one turn.
fn who_waited_for_one_name_dials_in_turns<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.dials_per_turn = 3);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, _) => {
            for _ in 0..40 {
                here.dial(Dial::to_host(NAME).unwrap(), log.session(None)).unwrap();
            }
        }
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    while let Some(Lookup { id, attempt, .. }) = stage.shared.resolver.take() {
        stage.shared.answer(LookupResult { id, attempt, found: addresses(1) });
    }
    let mut begun = 0;
    for _ in 0..40 {
        stage.turn();
        let now = stage.world.get().dialled_at.len();
        assert!(now - begun <= 3 + 1, "{now} after {begun}");
        begun = now;
    }
    stage.settle();
    assert_eq!(stage.count(Counter::Open), 40);
    stage.stop();
}

/// A mailbox that is full has no place for an answer. The thread that had it waited there, for ever if
/// the loop was stuck, and with it every other look-up.
fn an_answer_waits_beside_a_full_mailbox_and_its_thread_does_not<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.mail_queue = 2;
        limits.mail_per_turn = 1;
    });
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, 0) => {
            for _ in 0..5 {
                here.dial(Dial::to_host(NAME).unwrap(), log.session(None)).unwrap();
            }
        }
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    let questions: Vec<_> = std::iter::from_fn(|| stage.shared.resolver.take()).collect();
    assert_eq!(questions.len(), 5);
    while stage.handle().post(0, 1).is_ok() {}
    for Lookup { id, attempt, .. } in questions {
        stage.shared.answer(LookupResult { id, attempt, found: addresses(1) }); // returns
    }
    stage.settle();
    assert_eq!((tried(&stage), stage.count(Counter::Open)), (vec![1; 5], 5));
    stage.stop();
}

/// The queue of a Unix listener that was full for a moment refused ten dials of twelve.
fn a_connect_that_meets_a_full_queue_is_tried_again_until_its_time_is_over<D: Rig>(seed: u64) {
    for (fails, errno) in [(3, libc::EAGAIN), (9, libc::ENOBUFS), (200, libc::EAGAIN)] {
        for is_named in [true, false] {
            let (mut stage, _) = named::<D>(seed, 9, None);
            stage.world.get().dials.extend(vec![Outcome::Fails(errno); fails]);
            if is_named {
                let question = dial(&mut stage);
                answer(&mut stage, &question, addresses(1));
            } else {
                let log = stage.log.clone();
                stage.play(move |at| match at {
                    At::Message(here, _) => {
                        let to = "unix:/run/busy".parse().unwrap();
                        let id = here.dial(Dial::to(to), log.session(None)).unwrap();
                        assert!(here.connection(id).unwrap().send(b"first").is_taken());
                    }
                    other => usual(other),
                });
                stage.handle().post(0, 0).unwrap();
                stage.settle();
            }
            assert_eq!(outcome(&stage), (false, None));
            stage.advance(990);
            if fails == 200 {
                let tries = stage.world.get().dialled_at.len();
                assert!((12..40).contains(&tries), "{tries} in a second");
                assert_eq!(outcome(&stage), (false, None), "its time is not over");
                stage.advance(13);
                let why = CloseReason::Machine(Errno::new(errno));
                assert_eq!(outcome(&stage), (false, Some(why)));
                assert_eq!(stage.world.get().sockets.len(), 0);
            } else {
                assert_eq!(outcome(&stage), (true, None));
                assert_eq!(stage.world.peer(0).got(), b"first");
            }
            stage.stop();
        }
    }
}

fn when_none_is_up_the_last_error_is_the_reason<D: Rig>(seed: u64) {
    let refused = CloseReason::Machine(Errno::CONNREFUSED);
    for (outcomes, after, why) in [
        ([Outcome::Fails(libc::ENETUNREACH), Outcome::Refused], 0, refused),
        ([Outcome::Refused, Outcome::Refused], 0, refused),
        // One that is silent may still answer, for as long as the attempt has time.
        ([Outcome::Silence, Outcome::Refused], 1001, CloseReason::Deadline(DeadlineKind::Connect)),
        ([Outcome::Refused, Outcome::Silence], 1001, CloseReason::Deadline(DeadlineKind::Connect)),
    ] {
        let (mut stage, _) = named::<D>(seed, 9, None);
        let question = dial(&mut stage);
        stage.world.get().dials.extend(outcomes);
        answer(&mut stage, &question, addresses(2));
        if after > 0 {
            stage.advance(after - 4);
            assert_eq!(outcome(&stage), (false, None));
            stage.advance(14);
        }
        assert_eq!(tried(&stage), [1, 2]);
        assert_eq!(outcome(&stage), (false, Some(why)), "within the time of the attempt");
        stage.stop();
    }
}

fn an_unknown_name_ends_the_dial_and_can_be_asked<D: Rig>(seed: u64) {
    let (mut stage, names) = named::<D>(seed, 9, None);
    let question = dial(&mut stage);
    answer(&mut stage, &question, not_known());
    assert_eq!(outcome(&stage), (false, Some(CloseReason::Unresolved)));
    assert_eq!(*names.borrow(), [Some(NAME.to_owned())]);
    assert!(stage.event_loop.state.names.is_empty(), "who is gone is not remembered");
    assert_eq!(stage.snapshot().closed_by(CloseReason::Unresolved), 1);
    stage.stop();
}

fn a_resolver_that_never_answers_is_not_waited_for<D: Rig>(seed: u64) {
    let (mut stage, _) = named::<D>(seed, 9, None);
    let question = dial(&mut stage);
    stage.advance(997);
    assert_eq!(outcome(&stage), (false, None));
    stage.advance(10);
    assert_eq!(outcome(&stage), (false, Some(CloseReason::Deadline(DeadlineKind::Connect))));
    answer(&mut stage, &question, addresses(1));
    assert!(tried(&stage).is_empty(), "nobody waits for this any more");
    stage.stop();
}

fn an_answer_for_an_attempt_that_is_over_changes_nothing<D: Rig>(seed: u64) {
    let retry = Retry { attempts: 3, first_pause: MS(10), ..Retry::default() };
    let (mut stage, _) = named::<D>(seed, 9, Some(retry));
    let first = dial(&mut stage);
    stage.advance(1100);
    let second = stage.shared.resolver.take().expect("the next attempt asks anew");
    answer(&mut stage, &first, addresses(9));
    assert!(tried(&stage).is_empty());
    answer(&mut stage, &second, addresses(1));
    answer(&mut stage, &second, not_known());
    assert_eq!((tried(&stage), outcome(&stage)), (vec![1], (true, None)));
    stage.stop();
}

fn each_attempt_asks_anew<D: Rig>(seed: u64) {
    let retry = Retry { attempts: 3, first_pause: MS(10), ..Retry::default() };
    let (mut stage, _) = named::<D>(seed, 9, Some(retry));
    let question = dial(&mut stage);
    answer(&mut stage, &question, not_known());
    stage.advance(20);
    let question = stage.shared.resolver.take().expect("asked again");
    stage.world.get().dials.push_back(Outcome::Refused);
    answer(&mut stage, &question, addresses(1));
    stage.advance(30);
    let question =
        stage.shared.resolver.take().expect("and again: the addresses may be others now");
    answer(&mut stage, &question, not_known());
    assert_eq!(outcome(&stage), (false, Some(CloseReason::Unresolved)));
    stage.stop();
}

fn one_name_too_many_is_told_at_once<D: Rig>(seed: u64) {
    let (mut stage, _) = named::<D>(seed, 2, None);
    let log = stage.log.clone();
    stage.play(move |at| match at {
        At::Message(here, n) => {
            let dial = Dial::to_host(&format!("host-{n}:1")).unwrap();
            here.dial(dial, log.session(None)).unwrap();
        }
        other => usual(other),
    });
    for n in [1, 2, 2, 3] {
        stage.handle().post(0, n).unwrap();
        stage.settle();
    }
    assert_eq!(outcome(&stage), (false, Some(CloseReason::Unresolved)));
    assert_eq!(stage.count(Counter::Open), 3, "the others wait for their answers");
    stage.stop();
}

fn a_stop_does_not_wait_for_answers<D: Rig>(seed: u64) {
    for order in [Phase::Drain, Phase::Stop] {
        let (mut stage, _) = named::<D>(seed, 9, None);
        let question = dial(&mut stage);
        stage.shared.loops[0].arrivals_ended.store(true, Ordering::Release);
        stage.shared.raise(order);
        stage.settle();
        assert!(stage.is_over);
        let late = LookupResult { id: question.id, attempt: 1, found: addresses(1) };
        stage.shared.answer(late); // it is nobody's
        stage.stop();
    }
}

fn bytes_wait_for_the_answer_and_the_connect<D: Rig>(seed: u64) {
    let (mut stage, _) = named::<D>(seed, 9, None);
    let question = dial(&mut stage);
    stage.world.get().dials.extend([Outcome::Refused, Outcome::Up]);
    answer(&mut stage, &question, addresses(2));
    assert_eq!(stage.world.peer(1).got(), b"first");
    stage.stop();
}
