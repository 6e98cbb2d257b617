//! A control group with a memory limit for one process, where the system lets one be made: version 2, or
//! the memory controller of version 1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A control group. Removed when it is dropped, which its last process must have left.
pub struct Group(PathBuf);

impl Group {
    /// Makes one with this limit, in bytes, and moves the process there, with all its threads. An error
    /// says where that is not possible, and why.
    pub fn limit(pid: u32, bytes: u64) -> io::Result<Self> {
        let (parent, file) = parent()?;
        let group = Self(parent.join(format!("soak-{pid}")));
        let named = |what: &str, e: io::Error| {
            io::Error::new(e.kind(), format!("{what} {}: {e}", group.0.display()))
        };
        fs::create_dir(&group.0).map_err(|e| named("make", e))?;
        fs::write(group.0.join(file), bytes.to_string()).map_err(|e| named("limit", e))?;
        fs::write(group.0.join("cgroup.procs"), pid.to_string()).map_err(|e| named("enter", e))?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0); // where it stays, it is empty
    }
}

/// The group that this process is in, if its children may have a memory limit, and the file for it.
pub(super) fn parent() -> io::Result<(PathBuf, &'static str)> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let of = |controller: &str| {
        let mut fields = groups.lines().map(|line| line.splitn(3, ':').skip(1));
        fields.find_map(|mut field| {
            let is_it = field.next()?.split(',').any(|name| name == controller);
            field.next().filter(|_| is_it).map(|path| path.trim_start_matches('/').to_owned())
        })
    };
    let mut places = Vec::new();
    if let Some(path) = of("memory") {
        places.push((Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes"));
    }
    if let Some(path) = of("") {
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            places.push((Path::new(mount).join(&path), "memory.max"));
        }
    }
    // Version 2 gives a controller to children only where the parent has said so.
    let has_memory = |place: &Path, file: &str| {
        file != "memory.max"
            || fs::read_to_string(place.join("cgroup.subtree_control"))
                .is_ok_and(|controllers| controllers.split_whitespace().any(|c| c == "memory"))
    };
    let found = places.into_iter().find(|(place, file)| place.is_dir() && has_memory(place, file));
    found.ok_or_else(|| {
        io::Error::other("no control group here whose children may have a memory limit")
    })
}
