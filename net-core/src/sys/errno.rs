//! The kernel's error numbers as a two-byte value.

use std::{fmt, io};

/// An error number of the kernel, as in errno(3).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

/// The errors that have a name here: `Errno::AGAIN` is `EAGAIN`.
macro_rules! named {
    ($($name:ident = $number:ident,)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($number), "`, as in errno(3).")]
                pub const $name: Self = Self::new(libc::$number);
            )*
        }
    };
}

named! {
    ADDRINUSE = EADDRINUSE,
    ADDRNOTAVAIL = EADDRNOTAVAIL,
    AGAIN = EAGAIN,
    BADF = EBADF,
    CONNABORTED = ECONNABORTED,
    CONNREFUSED = ECONNREFUSED,
    CONNRESET = ECONNRESET,
    FAULT = EFAULT,
    INTR = EINTR,
    INVAL = EINVAL,
    IO = EIO,
    MFILE = EMFILE,
    MSGSIZE = EMSGSIZE,
    NETUNREACH = ENETUNREACH,
    NFILE = ENFILE,
    NOBUFS = ENOBUFS,
    NOMEM = ENOMEM,
    NOSPC = ENOSPC,
    NOSYS = ENOSYS,
    NOTCONN = ENOTCONN,
    NOTSOCK = ENOTSOCK,
    OPNOTSUPP = EOPNOTSUPP,
    PERM = EPERM,
    PIPE = EPIPE,
    SRCH = ESRCH,
    TIMEDOUT = ETIMEDOUT,
    TOOMANYREFS = ETOOMANYREFS,
}

impl Errno {
    /// The errno with this number.
    pub const fn new(raw: i32) -> Self {
        Self(raw as u16)
    }

    /// The error of this thread's last failed system call.
    #[cold]
    pub(crate) fn last() -> Self {
        Self::of(&io::Error::last_os_error())
    }

    /// Repeats a call as long as a signal interrupts it. Returns the call's result, or its error.
    pub(super) fn uninterrupted(mut call: impl FnMut() -> isize) -> Result<usize, Self> {
        loop {
            let n = call();
            if n >= 0 {
                return Ok(n as usize);
            }
            let errno = Self::last();
            if errno != Self::INTR {
                return Err(errno);
            }
        }
    }

    /// The errno inside `error`; `EIO` where it carries none.
    pub fn of(error: &io::Error) -> Self {
        Self::new(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The number, as in errno(3).
    pub const fn raw(self) -> i32 {
        self.0 as i32
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        io::Error::from_raw_os_error(errno.raw())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}
