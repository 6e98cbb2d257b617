//! Unix stream sockets, unix(7): their names, and the file of a listener.

use super::ListenOptions;
use super::options::set_number;
use crate::sys::addr::{Addr, UnixName};
use socket2::{Domain, SockAddr, Socket, Type};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A non-blocking socket, and the address to bind it to or to dial.
pub(super) fn stream_socket(name: &UnixName) -> io::Result<(Socket, SockAddr)> {
    Ok((new_socket()?, SockAddr::unix(OsStr::from_bytes(name.as_bytes()))?))
}

/// No descriptors come by a dialled connection, nor by a listener's connections, which inherit the option.
fn new_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let _ = refuse_descriptors(&socket); // older kernels cannot: OPERATING says what follows
    Ok(socket)
}

/// From now on, a peer that sends descriptors to this Unix socket gets EPERM (`SO_PASSRIGHTS`, Linux 6.16).
///
/// Without this, the kernel closes the sent descriptors on the thread that receives. close(2) may take as
/// long as the sender likes: for a TCP socket with unsent bytes, as long as its `SO_LINGER` says.
pub(crate) fn refuse_descriptors(socket: &impl AsRawFd) -> io::Result<()> {
    // From asm-generic/socket.h. libc has it for one architecture only.
    const SO_PASSRIGHTS: libc::c_int = if cfg!(target_arch = "sparc64") { 0x5c } else { 83 };
    set_number(socket, libc::SOL_SOCKET, SO_PASSRIGHTS, 0)
}

/// The name in an address of the family `AF_UNIX`.
pub(super) fn name_of(address: &SockAddr) -> UnixName {
    if let Some(path) = address.as_pathname() {
        return UnixName::from_kernel(path.as_os_str().as_bytes());
    }
    match address.as_abstract_namespace() {
        Some(name) => UnixName::from_kernel(&[b"\0", name].concat()),
        None => UnixName::default(),
    }
}

/// Binds and listens. A socket's file in the way is removed if no process listens on it any more. Any other
/// file stays, and is an error. The umask decides who may connect.
pub(super) fn listen(name: &UnixName, options: &ListenOptions) -> io::Result<Socket> {
    let (socket, address) = stream_socket(name)?;
    // Held until the socket listens. Two servers that start at once would each take the other's new file for
    // stale.
    let _alone = name.path().and_then(lock_directory_of);
    match (socket.bind(&address), name.path()) {
        (Err(error), Some(path)) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_if_stale(path, &address)?;
            socket.bind(&address)?;
        }
        (bound, _) => bound?,
    }
    socket.listen(options.backlog)?;
    Ok(socket)
}

fn remove_if_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        let what = "a file that is no socket is in the way";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    let probe = new_socket()?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // A process answers, or is too busy to answer, or the socket is of another kind.
        _ => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    }
}

/// Keeps other servers that do the same out of the directory, until it is dropped. A process that holds the
/// lock for long is not waited for. It would keep this server from starting, and is no server of ours.
fn lock_directory_of(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..100 {
        // SAFETY: flock takes no pointers, and the descriptor is open.
        if unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Some(directory);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// The file of a listening Unix socket. A drop removes the file, if it is still the same file.
///
/// Drop it while the socket still listens. Then no other process has a reason to put another file in its
/// place. A client that has already found the file is admitted.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// The device and inode of the file.
    is: (u64, u64),
}

impl SocketFile {
    /// The file at which a socket has just begun to listen; `None` if the address has no file.
    pub(crate) fn of(at: &Addr) -> Option<Self> {
        // The working directory of this process may change.
        let path = std::path::absolute(at.unix()?.path()?).ok()?;
        let is = identity(&path)?;
        Some(Self { path, is })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path) == Some(self.is) {
            let _ = fs::remove_file(&self.path); // if this fails, the next start removes the file
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    /// A new directory, which is removed with its contents.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("net-core-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn at(&self, file: &str) -> (PathBuf, Addr) {
            let path = self.0.join(file);
            let at = format!("unix:{}", path.display()).parse().unwrap();
            (path, at)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn listen_at(at: &Addr) -> io::Result<Socket> {
        listen(at.unix().unwrap(), &ListenOptions::default())
    }

    #[test]
    fn a_file_where_nobody_listens_is_replaced() {
        let directory = Directory::new("stale");
        let (path, at) = directory.at("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener leaves its file");
        let _socket = listen_at(&at).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_listener_is_not_pushed_aside_and_other_files_stay() {
        let directory = Directory::new("alive");
        let (path, at) = directory.at("socket");
        let other = UnixListener::bind(&path).unwrap();
        assert_eq!(listen_at(&at).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        other.accept().unwrap(); // the probe has connected here, and
        let _client = UnixStream::connect(&path).unwrap(); // the listener still works
        let (path, at) = directory.at("datagrams");
        let _other = UnixDatagram::bind(&path).unwrap();
        assert_eq!(listen_at(&at).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (path, at) = directory.at("letter");
        fs::write(&path, "dear").unwrap();
        assert!(listen_at(&at).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"dear");
        let (link, at) = directory.at("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(listen_at(&at).unwrap_err().to_string().contains("no socket"));
    }

    #[test]
    fn the_file_goes_with_its_owner_but_never_another_ones() {
        let directory = Directory::new("own");
        let (path, at) = directory.at("socket");
        let _socket = listen_at(&at).unwrap();
        let file = SocketFile::of(&at).unwrap();
        drop(file);
        assert!(!path.exists());
        let _socket = listen_at(&at).unwrap();
        let file = SocketFile::of(&at).unwrap();
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap(); // so the inode is not used again
        let _other = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
        assert!(SocketFile::of(&"127.0.0.1:1".parse().unwrap()).is_none());
        assert!(SocketFile::of(&"unix:@abstract".parse().unwrap()).is_none());
    }

    #[test]
    fn of_many_who_start_at_once_one_listens() {
        let directory = Directory::new("race");
        for round in 0..20 {
            let (path, at) = directory.at(&format!("socket-{round}"));
            drop(UnixListener::bind(&path).unwrap());
            let listening: Vec<_> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| listen_at(&at))).collect();
                starts.into_iter().filter_map(|start| start.join().unwrap().ok()).collect()
            });
            assert_eq!(listening.len(), 1, "round {round}");
            UnixStream::connect(&path).unwrap();
        }
    }
}
