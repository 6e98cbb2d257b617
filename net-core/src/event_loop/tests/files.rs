//! Files sent from where they lie: order, shares, marks, and files that end too early.

use super::{At, Rig, Stage, on_both_rigs, pattern, usual};
use crate::base::close_reason::{CloseReason, DeadlineKind};
use crate::connection::outbox::SendOutcome;
use net_buffer::FileRange;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

on_both_rigs! {
    a_file_keeps_its_place_among_the_bytes: 40,
    a_close_behind_a_file_delivers_it_whole: 20,
    a_file_that_ends_too_early_resets_its_connection_alone: 20,
    a_stretch_that_no_file_has_costs_its_connection_alone: 10,
    downloads_share_a_turn_and_all_get_on: 10,
    input_waits_while_a_long_file_is_under_way: 20,
    a_file_costs_nothing_of_the_hard_cap: 10,
    a_slow_download_is_not_stuck_and_one_that_stands_is: 10,
    a_callback_that_panics_sends_no_file: 10,
}

/// A file of these bytes, without a name.
pub(super) fn file_of(bytes: &[u8]) -> Arc<File> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("net-core-{}-{number}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(bytes).unwrap();
    file.into()
}

/// Answers every byte with a head, the range, and a tail.
fn serves<D: Rig>(stage: &mut Stage<D>, range: FileRange) {
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            for _ in input.take_all() {
                let _ = conn.send(b"<");
                let _ = conn.send_file(range.clone());
                let _ = conn.send(b">");
            }
        }
        other => usual(other),
    });
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [b"<", bytes, b">"].concat()
}

fn a_file_keeps_its_place_among_the_bytes<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let bytes = pattern(0, 5000);
    let file = file_of(&bytes);
    let (from, len) = (stage.rng.below(1000), stage.rng.within(1, 4000));
    serves(&mut stage, FileRange::new(file, from as u64, len));
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"1");
    stage.settle();
    peer.send(b"23");
    let expected = framed(&bytes[from..from + len]).repeat(3);
    for _ in 0..10_000 {
        if peer.got().len() == expected.len() {
            break;
        }
        let most = stage.rng.within(1, 700);
        peer.read(most);
        stage.settle();
    }
    assert!(peer.got() == expected);
    stage.stop();
}

fn a_close_behind_a_file_delivers_it_whole<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let bytes = pattern(0, 300_000);
    let file = file_of(&bytes);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            let _ = conn.send_file(FileRange::whole(file.clone()).unwrap());
            conn.close();
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.send(b"x");
    stage.settle();
    assert!(peer.got() == bytes);
    assert!(peer.saw_fin() && !peer.saw_reset());
    peer.finish();
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::Local));
    stage.stop();
}

fn a_file_that_ends_too_early_resets_its_connection_alone<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let bytes = pattern(0, 3000);
    let file = file_of(&bytes);
    let promised = FileRange::new(file, 0, 3001);
    stage.play(move |at| match at {
        At::Data(conn, input) if input.peek() == b"file" => {
            input.take_all();
            let _ = conn.send_file(promised.clone());
            let _ = conn.send(b"never sent");
        }
        other => usual(other),
    });
    let (peer, other) = (stage.open(), stage.open());
    peer.send(b"file");
    other.send(b"echo");
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::FileEnded));
    assert!(bytes.starts_with(&peer.got()), "something else came");
    assert!(peer.saw_reset(), "a FIN would make it look whole");
    assert_eq!(other.got(), b"echo");
    stage.stop();
}

/// A stretch of nearly 2⁶⁴ bytes behind a head wrapped the sum of what waits: the loop died of it when the
/// head was sent.
fn a_stretch_that_no_file_has_costs_its_connection_alone<D: Rig>(seed: u64) {
    let file = file_of(&pattern(0, 3000));
    const LONG: usize = isize::MAX as usize;
    const CASES: [&[(u64, usize)]; 6] = [
        &[(0, usize::MAX)],
        &[(0, usize::MAX - 18)],
        &[(u64::MAX, 2)],
        &[(1, LONG)],
        &[(0, LONG), (0, LONG), (0, LONG)],
        &[(2999, LONG - 2999), (0, usize::MAX)],
    ];
    for stretches in CASES {
        let mut stage = Stage::<D>::new(seed);
        let other = stage.open();
        let file = Arc::clone(&file);
        stage.play(move |at| match at {
            At::Data(conn, input) if input.peek() == b"f" => {
                input.take_all();
                let _ = conn.send(b"a head of 19 bytes ");
                let queued = stretches
                    .iter()
                    .map(|&(from, len)| conn.send_file(FileRange::new(file.clone(), from, len)));
                assert_eq!(queued.last(), Some(SendOutcome::Refused));
            }
            other => usual(other),
        });
        let peer = stage.open();
        peer.send(b"f");
        stage.settle();
        assert!(peer.saw_reset(), "{stretches:?}");
        assert_eq!(stage.record(&peer).closed, Some(CloseReason::FileEnded), "{stretches:?}");
        other.send(b"x");
        stage.settle();
        assert_eq!(other.got(), b"x");
        stage.stop();
    }
}

fn downloads_share_a_turn_and_all_get_on<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.file_bytes_per_turn = 1000;
        limits.send_bytes_per_turn = 400;
    });
    stage.world.get().buffers = (1 << 16, 1 << 20);
    let bytes = pattern(0, 20_000);
    serves(&mut stage, FileRange::new(file_of(&bytes), 0, bytes.len()));
    let peers: Vec<_> = (0..10).map(|_| stage.open()).collect();
    peers.iter().for_each(|peer| peer.send(b"x"));
    let got = |peers: &[super::Peer]| -> Vec<usize> {
        peers.iter().map(|peer| peer.got().len()).collect()
    };
    for _ in 0..150 {
        let before: usize = got(&peers).iter().sum();
        stage.turn();
        stage.world.get().flow();
        let after = got(&peers);
        let sent = after.iter().sum::<usize>() - before;
        // In the turn in which it is asked for, the callback's end and the turn's are two.
        assert!(sent <= 2 * 1000, "{sent} bytes in one turn");
    }
    let got = got(&peers);
    let (most, least) = (got.iter().max().unwrap(), got.iter().min().unwrap());
    assert!(*least > 0 && most - least <= 6000, "{got:?}");
    stage.settle();
    peers.iter().for_each(|peer| assert!(peer.got() == framed(&bytes)));
    stage.stop();
}

fn input_waits_while_a_long_file_is_under_way<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.receive_block_bytes = 8);
    let bytes = pattern(0, 30_000);
    serves(&mut stage, FileRange::new(file_of(&bytes), 0, bytes.len()));
    let peer = stage.open();
    peer.reads(false);
    peer.send(&[b'x'; 40]);
    stage.settle();
    let asked = stage.record(&peer).data_bytes;
    assert!(asked <= 8, "{asked} requests were taken while the first is not answered");
    peer.reads(true);
    stage.settle();
    assert!(peer.got() == framed(&bytes).repeat(40));
    stage.stop();
}

fn a_file_costs_nothing_of_the_hard_cap<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| limits.output_limit = 10_000);
    let bytes = pattern(0, 50_000);
    let file = file_of(&bytes);
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            assert_eq!(
                conn.send_file(FileRange::whole(file.clone()).unwrap()),
                SendOutcome::AboveHighWatermark
            );
            assert!(conn.send(&[1; 10_000]).is_taken(), "a file is not in memory");
            assert_eq!(conn.send(&[1]), SendOutcome::Refused);
        }
        other => usual(other),
    });
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"x");
    stage.settle();
    assert_eq!(stage.record(&peer).closed, Some(CloseReason::OutputLimit));
    stage.stop();
}

fn a_slow_download_is_not_stuck_and_one_that_stands_is<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::with(seed, |limits| {
        limits.stuck_timeout = Some(Duration::from_millis(600));
    });
    let bytes = pattern(0, 300_000);
    serves(&mut stage, FileRange::new(file_of(&bytes), 0, bytes.len()));
    let peer = stage.open();
    peer.reads(false);
    peer.send(b"x");
    stage.settle();
    for _ in 0..40 {
        peer.read(3000);
        stage.advance(60);
        assert_eq!(stage.record(&peer).closed, None, "after {} bytes", peer.got().len());
    }
    // It is asked, and then closed, and then nothing of the rest is taken.
    stage.advance(300_000);
    let closed = stage.record(&peer).closed;
    assert_eq!(
        closed,
        Some(CloseReason::Deadline(DeadlineKind::Stuck)),
        "or that the rest was lost"
    );
    let deadline = crate::base::close_reason::Callback::Deadline;
    assert!(stage.record(&peer).calls.contains(&deadline), "nobody was told that it stands");
    stage.stop();
}

fn a_callback_that_panics_sends_no_file<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let file = file_of(&pattern(0, 5000));
    stage.play(move |at| match at {
        At::Data(conn, input) => {
            input.take_all();
            let _ = conn.send_file(FileRange::whole(file.clone()).unwrap());
            panic!("on purpose");
        }
        other => usual(other),
    });
    let peer = stage.open();
    stage.panics = 1;
    peer.send(b"x");
    stage.settle();
    assert_eq!(peer.got(), b"");
    stage.stop();
}
