//! The kernel's object caches, from `/proc/slabinfo`: what sockets are made of, counted.
//!
//! Three things to know before trusting a number:
//! - Only root may read the file; for others there is nothing here.
//! - Caches of like size are merged, and then only one of their names is listed. `eventpoll_pwq`
//!   often hides behind `anon_vma_chain`. `/sys/kernel/slab` tells which share a cache; the count is
//!   then that of all of them together. `eventpoll_epi`, for one, grows by three for each loopback
//!   pair where it is merged with `tcp_bind2_bucket`.
//! - A program that lists `/proc/PID/fd` makes a `dentry` and an inode for each descriptor. They are given
//!   back under pressure, and no socket needs them. So of the caches that serve every kind of file,
//!   [`Slabs::bytes_since`] counts no more objects than there are new sockets.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use net_core::process::proc_file::{ProbeError, Root, kib_line};

/// One value for each cache that a watched socket takes an object from, by the kernel's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlabSet<T> {
    /// The socket as TCP sees it.
    #[serde(rename = "TCP")]
    pub tcp: T,
    /// The socket as a file system sees it.
    pub sock_inode_cache: T,
    /// The open file.
    pub filp: T,
    /// Its name, which no socket uses and every file has.
    pub dentry: T,
    /// The registration with an epoll.
    pub eventpoll_epi: T,
    /// The registration's place in the socket's wait queue.
    pub eventpoll_pwq: T,
}

impl<T> SlabSet<T> {
    /// Another set, made from each entry.
    pub fn map<U>(self, mut each: impl FnMut(T) -> U) -> SlabSet<U> {
        SlabSet {
            tcp: each(self.tcp),
            sock_inode_cache: each(self.sock_inode_cache),
            filp: each(self.filp),
            dentry: each(self.dentry),
            eventpoll_epi: each(self.eventpoll_epi),
            eventpoll_pwq: each(self.eventpoll_pwq),
        }
    }

    /// Two sets as one of pairs.
    pub fn zip<U>(self, other: SlabSet<U>) -> SlabSet<(T, U)> {
        SlabSet {
            tcp: (self.tcp, other.tcp),
            sock_inode_cache: (self.sock_inode_cache, other.sock_inode_cache),
            filp: (self.filp, other.filp),
            dentry: (self.dentry, other.dentry),
            eventpoll_epi: (self.eventpoll_epi, other.eventpoll_epi),
            eventpoll_pwq: (self.eventpoll_pwq, other.eventpoll_pwq),
        }
    }
}

/// One cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// Objects in use. The kernel counts objects that a core has set aside for itself as used.
    pub objects: u64,
    /// Size of one, in bytes.
    pub object_bytes: u64,
    /// All pages of the cache, in bytes: objects in use, free ones, and waste.
    pub footprint_bytes: u64,
    /// The share of those pages that the objects in use have, in bytes.
    pub used_bytes: u64,
}

impl Cache {
    /// The bytes of this number of objects, each with its share of the pages of a slab.
    fn bytes_of(&self, objects: u64) -> u64 {
        let bytes = u128::from(objects) * u128::from(self.used_bytes);
        let share = bytes.checked_div(u128::from(self.objects)).unwrap_or(0);
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// How many more objects there are than before. 0 if the cache is not listed.
fn gained(now: Option<Cache>, before: Option<Cache>) -> u64 {
    let objects = |cache: Option<Cache>| cache.map_or(0, |cache| cache.objects);
    objects(now).saturating_sub(objects(before))
}

/// All caches at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slabs {
    /// The caches a report shows. `None` where the kernel lists no such cache.
    pub caches: SlabSet<Option<Cache>>,
    /// `lsm_inode_cache`, of which every inode takes one where security modules are built in.
    pub lsm_inode: Option<Cache>,
    /// Pages of all caches from which a socket takes objects, in bytes, including caches that are not shown.
    /// Not included are `dentry` and `lsm_inode_cache`, from which every kind of inode takes. A cache that
    /// several names share counts once.
    pub socket_bytes: u64,
    /// The share of these pages that the objects in use have, in bytes.
    pub socket_used_bytes: u64,
}

/// Caches from which sockets take objects and that no report shows. The last ones hold, among other things,
/// the list of each slab that says which control group pays for each of its objects.
const NOT_SHOWN: [&str; 11] = [
    "TCPv6",
    "ep_head",
    "lsm_file_cache",
    "tcp_bind_bucket",
    "tcp_bind2_bucket",
    "kmalloc-128",
    "kmalloc-192",
    "kmalloc-256",
    "kmalloc-512",
    "kmalloc-1k",
    "kmalloc-2k",
];

const SHOWN: SlabSet<&str> = SlabSet {
    tcp: "TCP",
    sock_inode_cache: "sock_inode_cache",
    filp: "filp",
    dentry: "dentry",
    eventpoll_epi: "eventpoll_epi",
    eventpoll_pwq: "eventpoll_pwq",
};

impl Slabs {
    /// Reads the caches now. `None` if the file is missing or only root may read it.
    ///
    /// # Errors
    /// When the file cannot be read for another reason.
    pub fn sample(root: &Root<'_>) -> Result<Option<Self>, ProbeError> {
        let text = match root.text("/proc/slabinfo") {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(ProbeError::Unreadable { error, .. }) if is_forbidden(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let listing = Listing { root, text: &text, page_bytes: page_bytes(root) };
        let mut counted = BTreeSet::new();
        let (mut socket_bytes, mut socket_used_bytes) = (0_u64, 0_u64);
        let mut find = |name: &str| {
            let (row, cache) = listing.cache(name)?;
            if name != SHOWN.dentry && counted.insert(row) {
                socket_bytes = socket_bytes.saturating_add(cache.footprint_bytes);
                socket_used_bytes = socket_used_bytes.saturating_add(cache.used_bytes);
            }
            Some(cache)
        };
        let caches = SHOWN.map(&mut find);
        for name in NOT_SHOWN {
            find(name);
        }
        let lsm_inode = listing.cache("lsm_inode_cache").map(|(_, cache)| cache);
        Ok(Some(Self { caches, lsm_inode, socket_bytes, socket_used_bytes }))
    }

    /// The memory that sockets have taken since `before`, in bytes: the new pages, or the share of the new
    /// objects if that is more. Pages alone would leave out objects in places that were free before. A run
    /// shortly after another run finds many such places.
    pub fn bytes_since(&self, before: &Self) -> u64 {
        let pages = self.socket_bytes.saturating_sub(before.socket_bytes);
        let own = pages.max(self.socket_used_bytes.saturating_sub(before.socket_used_bytes));
        let sockets = gained(self.caches.sock_inode_cache, before.caches.sock_inode_cache);
        let share = |now: Option<Cache>, before| {
            let objects = gained(now, before).min(sockets);
            now.map_or(0, |cache| cache.bytes_of(objects))
        };
        let dentries = share(self.caches.dentry, before.caches.dentry);
        own + dentries + share(self.lsm_inode, before.lsm_inode)
    }

    /// How many objects each shown cache has gained since `before`; `None` where it is not listed.
    pub fn objects_since(&self, before: &Self) -> SlabSet<Option<u64>> {
        self.caches.zip(before.caches).map(|(now, before)| now.map(|_| gained(now, before)))
    }
}

/// The text of the file, and what is needed to find a cache under another name.
struct Listing<'a> {
    root: &'a Root<'a>,
    text: &'a str,
    page_bytes: u64,
}

impl<'a> Listing<'a> {
    /// The cache, and the name under which it is listed.
    fn cache(&self, name: &str) -> Option<(&'a str, Cache)> {
        self.row(name).or_else(|| {
            let home = self.home(name)?;
            let same = |row: &&str| self.home(row).is_some_and(|other| other == home);
            self.row(self.names().find(same)?)
        })
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.text.lines().skip(2).filter_map(|line| line.split_whitespace().next())
    }

    /// The directory of the merged cache to which this name is a link.
    fn home(&self, name: &str) -> Option<PathBuf> {
        std::fs::read_link(self.root.path(&format!("/sys/kernel/slab/{name}"))).ok()
    }

    /// A row reads `name active all size per-slab pages : tunables … : slabdata active all …`.
    fn row(&self, name: &str) -> Option<(&'a str, Cache)> {
        let is_it = |line: &&str| line.split_whitespace().next() == Some(name);
        let words: Vec<&str> = self.text.lines().find(is_it)?.split_whitespace().collect();
        let number = |place: usize| words.get(place)?.parse::<u64>().ok();
        let slabs = number(words.iter().position(|&word| word == "slabdata")? + 2)?;
        let slab_bytes = number(5)?.saturating_mul(self.page_bytes);
        let objects = number(1)?;
        let used = u128::from(objects) * u128::from(slab_bytes);
        let used = used.checked_div(u128::from(number(4)?)).unwrap_or(0);
        let cache = Cache {
            objects,
            object_bytes: number(3)?,
            footprint_bytes: slabs.saturating_mul(slab_bytes),
            used_bytes: u64::try_from(used).unwrap_or(u64::MAX),
        };
        Some((words[0], cache))
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// The kernel's page size, from the list of this process's mappings. 4 KiB if it cannot be read.
fn page_bytes(root: &Root<'_>) -> u64 {
    let maps = root.text("/proc/self/smaps").ok().flatten();
    maps.and_then(|text| kib_line(&text, "KernelPageSize")).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::super::fake_root::FakeRoot;
    use super::*;

    const TEXT: &str = "slabinfo - version: 2.1\n\
        # name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables\n\
        tw_sock_TCP 16 16 256 16 1 : tunables 0 0 0 : slabdata 1 1 0\n\
        TCP 26 39 2368 13 8 : tunables 0 0 0 : slabdata 2 3 0\n\
        sock_inode_cache 95 95 832 19 4 : tunables 0 0 0 : slabdata 5 5 0\n\
        eventpoll_epi 224 224 128 32 1 : tunables 0 0 0 : slabdata 7 7 0\n\
        anon_vma_chain 64 64 64 64 1 : tunables 0 0 0 : slabdata 1 1 0\n";

    fn link(fake: &FakeRoot, name: &str, home: &str) {
        let directory = fake.path().join("sys/kernel/slab");
        std::fs::create_dir_all(&directory).unwrap();
        std::os::unix::fs::symlink(home, directory.join(name)).unwrap();
    }

    #[test]
    fn caches_are_read_by_their_whole_name() {
        let fake = FakeRoot::new();
        fake.write("proc/slabinfo", TEXT);
        let slabs = Slabs::sample(&fake.root()).unwrap().unwrap();
        let tcp = slabs.caches.tcp.unwrap();
        assert_eq!((tcp.objects, tcp.object_bytes, tcp.footprint_bytes), (26, 2368, 3 * 8 * 4096));
        assert_eq!(slabs.caches.filp, None);
        assert_eq!(slabs.caches.eventpoll_pwq, None);
    }

    #[test]
    fn merged_cache_is_found_under_another_name_and_counted_once() {
        let fake = FakeRoot::new();
        fake.write("proc/slabinfo", TEXT);
        for (name, home) in [
            ("anon_vma_chain", ":A-0000064"),
            ("eventpoll_pwq", ":A-0000064"),
            ("eventpoll_epi", ":A-0000128"),
            ("tcp_bind2_bucket", ":A-0000128"),
        ] {
            link(&fake, name, home);
        }
        let slabs = Slabs::sample(&fake.root()).unwrap().unwrap();
        assert_eq!(slabs.caches.eventpoll_pwq.unwrap().objects, 64);
        assert_eq!(slabs.socket_bytes, (3 * 8 + 5 * 4 + 7 + 1) * 4096);
    }

    #[test]
    fn growth_is_by_object() {
        let fake = FakeRoot::new();
        let before = Slabs::sample(&fake.write("proc/slabinfo", TEXT).root()).unwrap().unwrap();
        fake.write("proc/slabinfo", &TEXT.replace("TCP 26 39", "TCP 2026 2039"));
        let growth = Slabs::sample(&fake.root()).unwrap().unwrap().objects_since(&before);
        assert_eq!(growth.tcp, Some(2000));
        assert_eq!(growth.sock_inode_cache, Some(0));
        assert_eq!(growth.filp, None);
    }

    #[test]
    fn places_that_were_free_before_are_charged_when_they_are_used() {
        let fake = FakeRoot::new();
        let before = Slabs::sample(&fake.write("proc/slabinfo", TEXT).root()).unwrap().unwrap();
        fake.write("proc/slabinfo", &TEXT.replace("TCP 26 39", "TCP 39 39"));
        let now = Slabs::sample(&fake.root()).unwrap().unwrap();
        assert_eq!(now.socket_bytes, before.socket_bytes);
        assert_eq!(now.bytes_since(&before), 8 * 4096);
    }

    #[test]
    fn names_of_other_files_are_not_charged_to_sockets() {
        let at = |sockets, dentries, socket_bytes| {
            let cache = |objects, size| {
                let footprint_bytes = objects * size;
                let used_bytes = footprint_bytes;
                Some(Cache { objects, object_bytes: size, footprint_bytes, used_bytes })
            };
            let caches = SlabSet {
                sock_inode_cache: cache(sockets, 862),
                dentry: cache(dentries, 195),
                ..SlabSet::default()
            };
            Slabs { caches, socket_bytes, ..Slabs::default() }
        };
        let before = at(10, 5_000, 9_000);
        assert_eq!(at(110, 5_100, 99_000).bytes_since(&before), 90_000 + 100 * 195);
        assert_eq!(at(110, 9_900, 99_000).bytes_since(&before), 90_000 + 100 * 195);
        assert_eq!(at(110, 4_000, 99_000).bytes_since(&before), 90_000);
        assert_eq!(before.bytes_since(&at(110, 9_900, 99_000)), 0);
        assert_eq!(Slabs::default().bytes_since(&Slabs::default()), 0);
    }

    #[test]
    fn no_file_is_no_slabs() {
        assert_eq!(Slabs::sample(&FakeRoot::new().root()).unwrap(), None);
    }
}
