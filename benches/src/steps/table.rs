//! What does a connection's entry cost: to find it, to put its deadline off, to come and to go,
//! among a million?

use super::{Circle, Rng, Rounds, Step};
use net_core::ConnId;
use net_core::bench::Connections;
use net_timer::Tick;
use std::hint::black_box;

const CONNECTIONS: usize = 1_000_000;

pub(super) fn steps() -> Vec<Step> {
    let step = |name, at_most, prepare| Step {
        group: "table",
        name,
        units: 1,
        counted: 10_000,
        at_most,
        prepare,
    };
    vec![
        // What the steps below take for themselves: a turn of the bench's loop, and drawing.
        step("nothing but drawing; 1M", 12.0, nothing),
        step("find; 1M", 35.0, find),
        // A timer's lazy re-arm is one store, of a connection that the message has found already.
        step("find, put the deadline off; 1M", 37.0, put_off),
        step("remove, insert; 1M", 290.0, remove_and_insert),
    ]
}

struct Stage {
    connections: Connections,
    ids: Vec<ConnId>,
    any: Circle,
}

impl Stage {
    fn new() -> Self {
        let mut connections = Connections::new();
        let insert = |_| connections.insert().expect("a table holds more than a million");
        let ids = (0..CONNECTIONS).map(insert).collect();
        Self { connections, ids, any: Rng::new().circle(CONNECTIONS as u64) }
    }
}

fn nothing() -> Rounds {
    let mut stage = Stage::new();
    Box::new(move |rounds| {
        for _ in 0..rounds {
            black_box(stage.ids[stage.any.next() as usize]);
        }
    })
}

fn find() -> Rounds {
    let mut stage = Stage::new();
    Box::new(move |rounds| {
        for _ in 0..rounds {
            let id = stage.ids[stage.any.next() as usize];
            assert!(stage.connections.has(black_box(id)));
        }
    })
}

fn put_off() -> Rounds {
    let mut stage = Stage::new();
    Box::new(move |rounds| {
        for round in 0..rounds {
            let id = stage.ids[stage.any.next() as usize];
            stage.connections.put_off(black_box(id), Tick::from_millis(round));
        }
    })
}

fn remove_and_insert() -> Rounds {
    let mut stage = Stage::new();
    Box::new(move |rounds| {
        for _ in 0..rounds {
            let id = &mut stage.ids[stage.any.next() as usize];
            assert!(stage.connections.remove(*id));
            *id = stage.connections.insert().expect("one slot is free");
        }
    })
}
