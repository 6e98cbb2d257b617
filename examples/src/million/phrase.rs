//! The bytes that a connection sends to prove that it lives. Each connection sends its own, different every
//! time.

/// The first bytes of a client. The answer shows that a loop of the server serves the client.
pub const GREETING: &[u8] = b"?";

/// Length of a phrase, in bytes.
pub const PHRASE_BYTES: usize = 32;

/// The phrase of one connection in one round. Runs with different seeds share no phrase. Nor do two
/// connections or two rounds of a run: the phrase contains the connection's number, and the rest is a
/// bijection of seed, number and round.
pub fn phrase(seed: u64, connection: u64, round: u32) -> [u8; PHRASE_BYTES] {
    let mut bytes = [0; PHRASE_BYTES];
    let mut state = mixed(seed ^ mixed(connection ^ (u64::from(round) << 40)));
    bytes[..8].copy_from_slice(&connection.to_le_bytes());
    for word in bytes[8..].chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&mixed(state).to_le_bytes());
    }
    bytes
}

/// The finalizer of SplitMix64: every bit of the input moves half of the output's.
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The text that a broadcast carries in a run with this seed.
pub fn announcement(seed: u64) -> String {
    format!("to everyone, from run {seed:016x}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn phrases_differ_by_seed_connection_and_round() {
        let mut seen = HashSet::new();
        for seed in [0, 1, u64::MAX] {
            for connection in 0..1_000 {
                for round in 0..3 {
                    let phrase = phrase(seed, connection, round);
                    assert!(seen.insert(phrase[8..].to_vec()), "{seed} {connection} {round}");
                }
            }
        }
    }

    #[test]
    fn a_phrase_can_be_made_again() {
        assert_eq!(phrase(7, 999_999, 0), phrase(7, 999_999, 0));
        assert_eq!(phrase(7, 0x0102, 0)[..2], [2, 1]);
    }

    #[test]
    fn an_announcement_names_its_run() {
        assert_ne!(announcement(1), announcement(2));
    }
}
