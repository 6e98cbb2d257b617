//! Bytes in, bytes out: all of them, once, in order.

use super::{At, Rig, Stage, on_both_rigs, pattern, usual};

on_both_rigs! {
    what_is_sent_comes_back: 60,
}

fn what_is_sent_comes_back<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peers: Vec<_> = (0..5).map(|_| stage.arrive()).collect();
    let mut sent = vec![0; peers.len()];
    for _ in 0..200 {
        let k = stage.rng.below(peers.len());
        let len = stage.rng.pick(&[1, 10, 100, 5000]);
        peers[k].send(&pattern(sent[k], len));
        sent[k] += len;
        (0..stage.rng.below(3)).for_each(|_| stage.turn());
    }
    stage.settle();
    for (peer, sent) in peers.iter().zip(sent) {
        assert!(peer.got() == pattern(0, sent), "wire {}", peer.wire);
    }
    let _ = usual as fn(At<'_, '_, '_>);
    stage.stop();
}
