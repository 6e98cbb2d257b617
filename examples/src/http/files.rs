//! Files below one folder, and nothing outside it.

use super::answer::Status;
use net_core::handler::FileRange;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A folder that one loop serves.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Opened at the first request. By then this loop has the descriptor table that it keeps.
    open: Option<OwnedFd>,
}

impl Folder {
    /// The folder is not opened yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// Checks whether the folder can be opened.
    pub fn check(path: &Path) -> io::Result<()> {
        open(path).map(drop)
    }

    /// The file that a request's path names, and its media type; or how the request fails. A path that
    /// ends in `/` names the `index.html` there.
    ///
    /// The kernel resolves the path below the folder (`RESOLVE_BENEATH`): neither `..` nor a
    /// symbolic link leads out of it.
    pub fn find(&mut self, target: &str) -> Result<(FileRange, &'static str), Status> {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let mut path = decode(path.strip_prefix('/').ok_or(Status::BadRequest)?)?;
        if path.is_empty() || path.ends_with('/') {
            path.push_str("index.html");
        }
        let folder = match &mut self.open {
            Some(folder) => folder,
            none => none.insert(open(&self.path).map_err(|_| Status::Unavailable)?),
        };
        // NONBLOCK: opening a FIFO would wait for its other end.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(folder, path.as_str(), flags, Mode::empty(), resolve);
        let file = file.map_err(|errno| match errno {
            Errno::ACCESS | Errno::PERM => Status::Forbidden,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Status::Unavailable,
            _ => Status::NotFound,
        })?;
        let range = FileRange::whole(File::from(file)).map_err(|_| Status::NotFound)?;
        Ok((range, kind_of(&path)))
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Undoes the percent signs of a path.
fn decode(path: &str) -> Result<String, Status> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let decoded = if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = digit().zip(digit()).ok_or(Status::BadRequest)?;
            (16 * high + low) as u8
        } else {
            byte
        };
        if decoded == 0 {
            return Err(Status::BadRequest);
        }
        bytes.push(decoded);
    }
    String::from_utf8(bytes).map_err(|_| Status::NotFound)
}

fn kind_of(path: &str) -> &'static str {
    match Path::new(path).extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("txt" | "md") => "text/plain; charset=utf-8",
        Some("css") => "text/css",
        Some("js" | "mjs") => "text/javascript",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_undone_and_nothing_ends_a_path_early() {
        assert_eq!(decode("a%20b%2Fc%c3%a4").unwrap(), "a b/cä");
        for wrong in ["%", "%1", "%zz", "%00", "a%0"] {
            assert_eq!(decode(wrong), Err(Status::BadRequest), "{wrong}");
        }
    }

    #[test]
    fn nothing_outside_the_folder_is_found() {
        let place = std::env::temp_dir().join(format!("http-files-{}", std::process::id()));
        let root = place.join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(place.join("secret.txt"), "secret").unwrap();
        std::fs::write(root.join("sub/index.html"), "<p>hello").unwrap();
        std::os::unix::fs::symlink("../secret.txt", root.join("out.txt")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.join("far.txt")).unwrap();
        std::os::unix::fs::symlink("sub/index.html", root.join("in.html")).unwrap();
        let mut folder = Folder::new(root.clone());
        for target in ["/sub/", "/sub/index.html?query", "/in.html", "/sub/../in.html"] {
            let (range, kind) = folder.find(target).unwrap();
            assert_eq!((range.len(), kind), (8, "text/html; charset=utf-8"), "{target}");
        }
        for target in ["/", "/sub", "/out.txt", "/far.txt", "/../secret.txt", "/%2e%2e/secret.txt"]
        {
            assert_eq!(folder.find(target).unwrap_err(), Status::NotFound, "{target}");
        }
        assert_eq!(folder.find("secret").unwrap_err(), Status::BadRequest);
        std::fs::remove_dir_all(&place).unwrap();
    }
}
