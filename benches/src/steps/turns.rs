//! What does a loop's turn cost without the system calls: receive, `on_data`, send, for 1, 100 and
//! 10,000 ready connections?

use super::{Rounds, Step};
use net_core::bench::Turns;

pub(super) fn steps() -> Vec<Step> {
    let step = |name, units, counted, at_most, prepare| Step {
        group: "turn",
        name,
        units,
        counted,
        at_most,
        prepare,
    };
    vec![
        step("1 ready", 1, 1_000, 420.0, || turns(1)),
        step("100 ready, a message", 100, 100, 110.0, || turns(100)),
        step("10k ready, a message", 10_000, 10, 110.0, || turns(10_000)),
    ]
}

fn turns(connections: usize) -> Rounds {
    let mut turns = Turns::new(connections).expect("an eventfd can be made");
    Box::new(move |rounds| {
        let sent = turns.sent();
        for _ in 0..rounds {
            turns.turn().expect("this kernel does not fail");
        }
        assert_eq!(turns.sent() - sent, rounds * connections as u64, "every message is echoed");
    })
}
