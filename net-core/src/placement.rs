//! Which loop gets the next connection.

/// Exact round-robin over the loops that have room.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    loops: usize,
    next: usize,
}

impl RoundRobin {
    pub(crate) fn new(loops: usize) -> Self {
        assert!(loops > 0, "a server has at least one loop");
        Self { loops, next: 0 }
    }

    /// The next loop with room and how many were passed over; `None` if no loop has room.
    pub(crate) fn pick(
        &mut self,
        mut has_room: impl FnMut(usize) -> bool,
    ) -> Option<(usize, usize)> {
        for skipped in 0..self.loops {
            let candidate = (self.next + skipped) % self.loops;
            if has_room(candidate) {
                self.next = (candidate + 1) % self.loops;
                return Some((candidate, skipped));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_connections_over_four_loops_are_ten_each() {
        let mut placement = RoundRobin::new(4);
        let mut counts = [0; 4];
        for _ in 0..40 {
            counts[placement.pick(|_| true).unwrap().0] += 1;
        }
        assert_eq!(counts, [10; 4]);
    }

    #[test]
    fn a_loop_without_room_is_passed_over_and_counted() {
        let mut placement = RoundRobin::new(3);
        let picked: Vec<_> = (0..4).map(|_| placement.pick(|k| k != 1).unwrap()).collect();
        assert_eq!(picked, [(0, 0), (2, 1), (0, 0), (2, 1)]);
        assert_eq!(placement.pick(|_| false), None);
    }
}
