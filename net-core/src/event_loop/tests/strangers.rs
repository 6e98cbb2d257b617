//! Ids of strangers: of another loop, of another server, or made up. They find nothing.

use super::{At, Rig, Stage, on_both_rigs, usual};
use crate::base::id::ConnId;
use crate::config::policy::OverflowPolicy;
use crate::observe::counters::Counter;
use crate::threads::mailbox::PostError;

on_both_rigs! {
    an_id_of_another_server_finds_nothing_from_any_thread: 5,
    an_id_of_another_loop_finds_nothing_in_a_callback: 5,
}

/// The same slot and generation, of loops that this server of one loop does not have.
fn strangers(id: ConnId) -> [ConnId; 2] {
    let rest = id.to_string();
    [1, 255].map(|n| rest.replacen("0/", &format!("{n}/"), 1).parse().unwrap())
}

/// An id of a server with more loops: the thread that used it panicked, out of bounds.
fn an_id_of_another_server_finds_nothing_from_any_thread<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let peer = stage.open();
    let (handle, id) = (stage.handle(), stage.id(&peer));
    for stranger in strangers(id) {
        assert_eq!(handle.send(stranger, "bytes"), Err(PostError::Ended("bytes".into())));
        let sent = handle.send_with(stranger, "bytes", OverflowPolicy::DropNewest);
        assert_eq!(sent, Err(PostError::Ended("bytes".into())));
        assert_eq!(handle.close(stranger), Err(PostError::Ended(stranger)));
    }
    assert_eq!(handle.send(id, "for me"), Ok(()));
    stage.settle();
    assert_eq!((peer.got(), peer.saw_fin()), (b"for me".to_vec(), false));
    assert_eq!((stage.count(Counter::Mail), stage.count(Counter::BytesDropped)), (1, 0));
    stage.stop();
}

fn an_id_of_another_loop_finds_nothing_in_a_callback<D: Rig>(seed: u64) {
    let mut stage = Stage::<D>::new(seed);
    let [first, second] = [stage.open(), stage.open()];
    let ids = [stage.id(&first), stage.id(&second)];
    stage.play(move |at| match at {
        At::Message(here, _) => {
            for stranger in strangers(ids[1]) {
                assert!(here.connection(stranger).is_none());
                let mut conn = here.connection(ids[0]).unwrap();
                assert!(conn.other(stranger).is_none());
                assert!(!conn.pair_with(stranger) && !conn.tunnel_with(stranger));
            }
            assert!(here.connection(ids[0]).unwrap().pair_with(ids[1]), "its own it finds");
        }
        other => usual(other),
    });
    stage.handle().post(0, 0).unwrap();
    stage.settle();
    stage.stop();
}
