//! Random use of messages that may be dropped or replaced, held against a plain list of messages:
//! what is sent is a sequence of whole messages, in order, the newest for each key.

use std::collections::VecDeque;
use std::io::IoSlice;

use net_buffer::{Bytes, Output, Pool, Replaced, Waiting};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Sent whatever comes.
    Plain,
    /// May be dropped.
    Loose,
    Keyed(u64),
}

#[derive(Debug, Clone)]
enum Step {
    Push(Kind, usize),
    Replace {
        key: u64,
        len: usize,
        len_max: usize,
    },
    Drop(usize),
    Send {
        slices: usize,
        bytes: usize,
    },
    /// Takes back so many of the last messages, as after a panic.
    Undo(usize),
    /// Bytes that were lent come in front, if no message has begun.
    PushFront(usize),
}

#[derive(Clone, Debug)]
struct Message {
    kind: Kind,
    bytes: Vec<u8>,
    /// Bytes of it that have left.
    sent: usize,
}

#[derive(Default)]
struct Model(VecDeque<Message>);

impl Model {
    fn len(&self) -> usize {
        self.0.iter().map(|message| message.bytes.len() - message.sent).sum()
    }

    fn before(&self, at: usize) -> usize {
        self.0.iter().take(at).map(|message| message.bytes.len() - message.sent).sum()
    }

    fn replace(&mut self, key: u64, bytes: &[u8], len_max: usize) -> Replaced {
        let waits = |message: &Message| message.kind == Kind::Keyed(key) && message.sent == 0;
        let Some(at) = self.0.iter().position(waits) else { return Replaced::Nothing };
        let old = Waiting { before: self.before(at), len: self.0[at].bytes.len() };
        if self.len() - old.len + bytes.len() > len_max {
            return Replaced::TooLong;
        }
        self.0[at].bytes = bytes.to_vec();
        Replaced::Old(old)
    }

    fn drop_oldest(&mut self, at_least: usize) -> Option<Vec<Waiting>> {
        let is_loose = |message: &Message| message.kind == Kind::Loose && message.sent == 0;
        let all: usize = self.0.iter().filter(|m| is_loose(m)).map(|m| m.bytes.len()).sum();
        if all < at_least {
            return None;
        }
        let (mut dropped, mut freed) = (Vec::new(), 0);
        while freed < at_least {
            let at = self.0.iter().position(is_loose).expect("so many are to be had");
            let before = self.before(at);
            let len = self.0.remove(at).expect("it was found").bytes.len();
            dropped.push(Waiting { before, len });
            freed += len;
        }
        Some(dropped)
    }

    fn send(&mut self, mut n: usize) {
        while n > 0 {
            let front = &mut self.0[0];
            let part = n.min(front.bytes.len() - front.sent);
            front.sent += part;
            n -= part;
            if front.sent == front.bytes.len() {
                self.0.pop_front();
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|message| message.bytes[message.sent..].to_vec()).collect()
    }
}

fn a_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Plain), Just(Kind::Loose), (0..3_u64).prop_map(Kind::Keyed)]
}

fn a_step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![3 => 1..40_usize, 1 => 100..300_usize];
    prop_oneof![
        6 => (a_kind(), len()).prop_map(|(kind, len)| Step::Push(kind, len)),
        3 => (0..3_u64, len(), prop_oneof![Just(usize::MAX), 0..600_usize])
            .prop_map(|(key, len, len_max)| Step::Replace { key, len, len_max }),
        2 => (0..200_usize).prop_map(Step::Drop),
        3 => (1..5_usize, 0..200_usize).prop_map(|(slices, bytes)| Step::Send { slices, bytes }),
        1 => (0..3_usize).prop_map(Step::Undo),
        1 => (1..50_usize).prop_map(Step::PushFront),
    ]
}

fn sends(output: &Output, slices: usize) -> Vec<u8> {
    let mut into = vec![IoSlice::new(&[]); slices];
    let (filled, _) = output.slices(&mut into, usize::MAX);
    into[..filled].iter().flat_map(|slice| slice.to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn what_is_sent_is_what_a_list_of_messages_sends(steps in vec(a_step(), 0..80)) {
        let mut pool = Pool::new(1 << 16);
        pool.count_payloads_once();
        let mut output = Output::default();
        let mut model = Model::default();
        let mut number = 0_u8;
        let mut fresh = |len: usize| {
            number = number.wrapping_add(1);
            vec![number; len]
        };
        for step in steps {
            match step {
                Step::Push(kind, len) => {
                    let bytes = fresh(len);
                    match kind {
                        // By either way, which may share a block.
                        Kind::Plain if len % 2 == 0 => output.push(&bytes, &mut pool),
                        Kind::Plain => output.push_shared(bytes.clone().into(), &mut pool),
                        Kind::Loose => output.push_message(bytes.clone().into(), None, &mut pool),
                        Kind::Keyed(key) => output.push_message(bytes.clone().into(), Some(key), &mut pool),
                    }
                    model.0.push_back(Message { kind, bytes, sent: 0 });
                }
                Step::Replace { key, len, len_max } => {
                    let bytes = fresh(len);
                    let expected = model.replace(key, &bytes, len_max);
                    let replaced = output.replace_message(key, Bytes::from(bytes), len_max, &mut pool);
                    prop_assert_eq!(replaced, expected);
                }
                Step::Drop(at_least) => {
                    let mut dropped = Vec::new();
                    let is_done = output.drop_messages(at_least, &mut pool, |waiting| dropped.push(waiting));
                    let expected = model.drop_oldest(at_least);
                    prop_assert_eq!(is_done.then_some(dropped.clone()), expected);
                    prop_assert!(is_done || dropped.is_empty());
                }
                Step::Send { slices, bytes } => {
                    let offered = sends(&output, slices);
                    let n = bytes.min(offered.len());
                    prop_assert_eq!(&offered[..n], &model.bytes()[..n]);
                    output.advance(n, &mut pool);
                    model.send(n);
                }
                Step::Undo(count) => {
                    for _ in 0..count {
                        if model.0.back().is_some_and(|message| message.sent == 0) {
                            model.0.pop_back();
                        }
                    }
                    output.truncate(model.len(), &mut pool);
                }
                Step::PushFront(len) => {
                    let bytes = fresh(len);
                    output.push_front(&bytes, &mut pool);
                    if let Some(begun) = model.0.front_mut().filter(|message| message.sent > 0) {
                        // The rest of it is no whole message, and never was to be dropped.
                        begun.kind = Kind::Plain;
                        begun.bytes.drain(..begun.sent);
                        begun.sent = 0;
                    }
                    model.0.push_front(Message { kind: Kind::Plain, bytes, sent: 0 });
                }
            }
            prop_assert_eq!(output.len(), model.len());
        }
        prop_assert_eq!(sends(&output, 1000), model.bytes());
        output.clear(&mut pool);
        prop_assert_eq!(output.memory(), 0);
        prop_assert_eq!(pool.memory(), pool.retained_bytes(), "nothing is counted that is gone");
    }
}
