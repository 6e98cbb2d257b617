//! How much memory N connections take, by arithmetic alone.
//!
//! The kernel's part is the sum of the slab objects of a socket that epoll watches, each at its
//! share of the pages its slab takes: a 2,368-byte TCP socket costs 32,768 / 13 = 2,520 bytes. The
//! sizes are those of `/proc/slabinfo` on Linux 6.18, x86-64; the list was checked by opening 19,000
//! loopback pairs and looking at which caches grew, and by how much.
//!
//! Readings of the whole machine say less. `MemAvailable` takes `sock_inode_cache` and `dentry` for
//! reclaimable, although those of an open socket are pinned. So 2.1 KB of each pair look free and are not:
//! 8.3 KB by objects are 6.2 KB by `MemAvailable`. `MemFree` shows them.

use serde::{Deserialize, Serialize};

use super::asked::Role;

/// `TCP`: 2,368 bytes, 13 in 8 pages.
const TCP: u64 = 32_768 / 13;
/// `sock_inode_cache`: 832 bytes, 19 in 4 pages.
const SOCK_INODE: u64 = 16_384 / 19;
/// `filp`: 192 bytes, 21 in a page.
const FILP: u64 = 4_096 / 21;
/// `dentry`: 192 bytes, 21 in a page.
const DENTRY: u64 = 4_096 / 21;
/// `lsm_inode_cache` 32 bytes and `lsm_file_cache` 24 bytes, where security modules are built in.
const LSM: u64 = 32 + 24;
/// `eventpoll_epi` 128, `eventpoll_pwq` 64 and `ep_head` 16 bytes: one of each per registration.
const EPOLL: u64 = 128 + 64 + 16;
/// The control group that pays: one 8-byte pointer for each object above, in lists that belong to the slabs.
/// Measured: 99 bytes a pair, in the caches of `kmalloc`.
const OWNERS: u64 = 50;
/// The place in the descriptor table: 8 bytes, and up to 16 because a table doubles. 32,768 places for 20,000
/// descriptors in use make 13 bytes. The bitmaps take a quarter of a byte.
const TABLE_PLACE: u64 = 13;
/// `tcp_bind2_bucket`, 128 bytes: one for each (address, port) that a client binds. The accepted side uses
/// its listener's bucket.
const BIND_BUCKET: u64 = 128;

/// Kernel bytes of one accepted socket that a server's epoll watches.
pub const KERNEL_BYTES_PER_SERVER_SOCKET: u64 =
    TCP + SOCK_INODE + FILP + DENTRY + LSM + EPOLL + OWNERS + TABLE_PLACE;

/// Kernel bytes of one connected socket that a client's epoll watches.
pub const KERNEL_BYTES_PER_CLIENT_SOCKET: u64 = KERNEL_BYTES_PER_SERVER_SOCKET + BIND_BUCKET;

/// Kernel bytes of a connection with both ends on this machine, both watched by epoll.
pub const KERNEL_BYTES_PER_PAIR: u64 =
    KERNEL_BYTES_PER_SERVER_SOCKET + KERNEL_BYTES_PER_CLIENT_SOCKET;

/// Server's own bytes per idle connection with its deadline armed: 48 for the entry in the table
/// and 4 for the slot's generation.
pub const USER_BYTES_PER_CONNECTION: u64 = 52;

/// Swarm's own bytes per connection: as the server's, 16 bytes for the state of the connection, and 8 bytes
/// for the list of connections that are up.
pub const SWARM_BYTES_PER_CONNECTION: u64 = 76;

/// Own bytes of a loop without connections, after it has served some: the touched part of its receive block
/// and stack, its event batch, its queues, the last page of each of its arrays.
pub const USER_BYTES_PER_LOOP: u64 = 81_000;

/// Own bytes of an arena of the allocator. The first threads get one each. The other threads share these.
pub const USER_BYTES_PER_ARENA: u64 = 51_000;

/// Arenas that glibc's allocator makes: eight per core. This was fitted on two cores. On more cores, each
/// further arena is an error of its size.
pub const ARENAS_MAX: u64 = 16;

/// Own bytes of the server's process with no loop.
pub const USER_BYTES_PER_PROCESS: u64 = 470_000;

/// Own bytes of the swarm's process with no loop. It keeps histograms.
pub const SWARM_BYTES_PER_PROCESS: u64 = 800_000;

/// Kernel bytes of a loop that has no connection: thread stack (16 KiB), task, descriptor table to
/// start with, epoll, eventfd and its end of the fd channel.
pub const KERNEL_BYTES_PER_LOOP: u64 = 64 * 1024;

/// Memory left for everything else on the machine, in bytes. It keeps the kernel from reclaiming in the
/// middle of the run.
pub const MEMORY_RESERVE_BYTES: u64 = 1 << 30;

/// What a number of connections is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// Kernel memory, in bytes, of the ends on this machine.
    pub kernel_bytes: u64,
    /// The server's private memory, in bytes. Zero if it runs elsewhere.
    pub user_bytes: u64,
    /// The swarm's private memory, in bytes. Zero if it runs elsewhere.
    pub swarm_bytes: u64,
}

impl Prediction {
    /// All of it, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.kernel_bytes.saturating_add(self.user_bytes).saturating_add(self.swarm_bytes)
    }
}

/// What `connections` over loopback take with `loops` in the server and as many in the swarm.
pub fn predict(connections: u64, loops: u32) -> Prediction {
    predict_for(Role::Both, connections, loops)
}

/// As [`predict`], for the halves that run on this machine.
pub fn predict_for(role: Role, connections: u64, loops: u32) -> Prediction {
    let loops = u64::from(loops);
    let kernel = |per_connection: u64| {
        connections.saturating_mul(per_connection).saturating_add(loops * KERNEL_BYTES_PER_LOOP)
    };
    let user = |per_connection: u64, process: u64| {
        let arenas = loops.min(ARENAS_MAX) * USER_BYTES_PER_ARENA;
        let fixed = process + loops * USER_BYTES_PER_LOOP + arenas;
        connections.saturating_mul(per_connection).saturating_add(fixed)
    };
    let mut prediction = Prediction::default();
    if role.serves() {
        prediction.kernel_bytes = kernel(KERNEL_BYTES_PER_SERVER_SOCKET);
        prediction.user_bytes = user(USER_BYTES_PER_CONNECTION, USER_BYTES_PER_PROCESS);
    }
    if role.swarms() {
        let clients = kernel(KERNEL_BYTES_PER_CLIENT_SOCKET);
        prediction.kernel_bytes = prediction.kernel_bytes.saturating_add(clients);
        prediction.swarm_bytes = user(SWARM_BYTES_PER_CONNECTION, SWARM_BYTES_PER_PROCESS);
    }
    prediction
}

/// Ten million connections on a machine that has a core for each of `loops`.
pub fn predict_ten_million(loops: u32) -> Prediction {
    predict(10_000_000, loops)
}

/// All bytes, of kernel and processes, which one more connection takes on this machine.
pub fn bytes_per_connection(role: Role) -> u64 {
    predict_for(role, 1, 0).total_bytes() - predict_for(role, 0, 0).total_bytes()
}

/// By how many percent the prediction is above the measured value, or below it if negative. `None`: nothing
/// was measured.
pub fn error_percent(predicted: u64, measured: u64) -> Option<f64> {
    if measured == 0 {
        return None;
    }
    Some((predicted as f64 / measured as f64 - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_what_its_objects_add_up_to() {
        // 19,000 pairs grew these caches by 8,198 bytes a pair. Owners and table places come on top.
        let caches = 5041 + 1723 + 389 + 390 + 64 + 48 + 2 * 128 + 128 + 127 + 32;
        assert_eq!(caches, 8_198);
        let difference = KERNEL_BYTES_PER_PAIR as f64 / caches as f64 - 1.0;
        assert!((0.0..0.03).contains(&difference), "{difference}");
    }

    #[test]
    fn prediction_is_linear_with_a_fixed_cost_per_loop() {
        let empty = predict(0, 52);
        let arenas = ARENAS_MAX * USER_BYTES_PER_ARENA;
        assert_eq!(empty.user_bytes, 52 * USER_BYTES_PER_LOOP + arenas + USER_BYTES_PER_PROCESS);
        assert_eq!(empty.kernel_bytes, 2 * 52 * KERNEL_BYTES_PER_LOOP);
        let full = predict(1_000_000, 52);
        assert_eq!(full.kernel_bytes - empty.kernel_bytes, 1_000_000 * KERNEL_BYTES_PER_PAIR);
        assert_eq!(full.user_bytes - empty.user_bytes, 52_000_000);
        assert_eq!(predict_ten_million(16).kernel_bytes, predict(10_000_000, 16).kernel_bytes);
    }

    #[test]
    fn halves_on_two_machines_add_up_to_both_on_one() {
        let both = predict(12_345, 3).total_bytes();
        let server = predict_for(Role::Server, 12_345, 3);
        let swarm = predict_for(Role::Swarm { source_addresses: 1 }, 12_345, 3);
        assert_eq!(server.total_bytes() + swarm.total_bytes(), both);
        assert_eq!(server.swarm_bytes, 0);
        assert_eq!(swarm.user_bytes, 0);
    }

    #[test]
    fn the_server_s_end_is_what_the_library_says() {
        assert_eq!(
            bytes_per_connection(Role::Server),
            net_core::process::BYTES_PER_IDLE_CONNECTION
        );
    }

    #[test]
    fn absurd_numbers_saturate() {
        assert_eq!(predict(u64::MAX, 256).total_bytes(), u64::MAX);
    }

    #[test]
    fn error_has_a_sign_and_needs_a_measurement() {
        assert_eq!(error_percent(103, 100).map(f64::round), Some(3.0));
        assert_eq!(error_percent(97, 100).map(f64::round), Some(-3.0));
        assert_eq!(error_percent(97, 0), None);
    }
}
