//! Reads the kernel's small text files under a root, which is `/` except in tests.
//!
//! There are three outcomes. The file is read. Or the file is missing (`None`), for example on an older
//! kernel, in a container, or with a module that is not loaded. Or the file cannot be read or understood,
//! which is an error that names the file.

use crate::sys::Errno;
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// Why a file of the kernel could not be used. Always names the file.
#[derive(Debug)]
pub enum ProbeError {
    /// The file exists, or must exist, and cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        error: io::Error,
    },
    /// The file was read, and does not have the expected content.
    Strange {
        /// The file.
        path: PathBuf,
        /// What was looked for in the file.
        wanted: &'static str,
    },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => write!(out, "read {}: {error}", path.display()),
            Self::Strange { path, wanted } => {
                write!(out, "read {}: found no {wanted} in it", path.display())
            }
        }
    }
}

impl std::error::Error for ProbeError {}

/// The directory that contains `/proc` and `/sys`.
#[derive(Clone, Copy, Debug)]
pub struct Root<'a>(&'a Path);

impl<'a> Root<'a> {
    /// `path` is `/` in production and a made-up tree in tests.
    pub fn new(path: &'a Path) -> Self {
        Self(path)
    }

    /// The real path of `file`, which is written with or without a leading `/`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file.trim_start_matches('/'))
    }

    /// The file's text, or `None` if there is no such file.
    ///
    /// # Errors
    /// Returns an error if the file exists and cannot be read.
    pub fn text(&self, file: &str) -> Result<Option<String>, ProbeError> {
        let path = self.path(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(ProbeError::Unreadable { path, error }),
        }
    }

    /// The file's text. A missing file is an error too.
    ///
    /// # Errors
    /// Returns an error if the file is missing or cannot be read.
    pub fn required_text(&self, file: &str) -> Result<String, ProbeError> {
        let path = self.path(file);
        std::fs::read_to_string(&path).map_err(|error| ProbeError::Unreadable { path, error })
    }

    /// The first `N` whole numbers of a file. The rest of the file is not read. `None` if there is no
    /// such file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or does not begin with `N` whole numbers.
    pub fn numbers<const N: usize>(&self, file: &str) -> Result<Option<[u64; N]>, ProbeError> {
        let Some(text) = self.text(file)? else {
            return Ok(None);
        };
        let mut words = text.split_whitespace();
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| self.strange(file, "whole numbers"))?;
        }
        Ok(Some(numbers))
    }

    /// The whole number with which a file begins. `None` if there is no such file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or does not begin with a whole number.
    pub fn number(&self, file: &str) -> Result<Option<u64>, ProbeError> {
        Ok(self.numbers::<1>(file)?.map(|[number]| number))
    }

    /// The error for a file without the expected content.
    pub fn strange(&self, file: &str, wanted: &'static str) -> ProbeError {
        ProbeError::Strange { path: self.path(file), wanted }
    }
}

/// Whether the error means that the kernel has no such file. `ESRCH` comes if the process of a file in
/// `/proc` ends between open and read.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw())
}

/// The number on the line `key: number kB`, in bytes. Both `meminfo` and `smaps_rollup` have such lines.
/// The kernel's kB are 1,024 bytes.
pub fn kib_line(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// A made-up `/proc` and `/sys` for the tests of this and other files.
#[cfg(test)]
pub(crate) mod fake {
    use super::Root;
    use std::path::Path;

    /// A new directory, which is removed when this is dropped.
    pub(crate) struct FakeRoot(tempfile::TempDir);

    impl FakeRoot {
        pub(crate) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(crate) fn path(&self) -> &Path {
            self.0.path()
        }

        pub(crate) fn root(&self) -> Root<'_> {
            Root::new(self.path())
        }

        pub(crate) fn write(&self, file: &str, text: &str) -> &Self {
            let path = self.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeRoot;
    use super::*;

    #[test]
    fn missing_file_is_none_and_not_an_error() {
        let fake = FakeRoot::new();
        assert_eq!(fake.root().number("/proc/sys/fs/nr_open").unwrap(), None);
    }

    #[test]
    fn unreadable_file_is_named_in_the_error() {
        let fake = FakeRoot::new();
        // A directory in the place of a file cannot be read, even by root.
        fake.write("proc/sys/fs/nr_open/oops", "");
        let error = fake.root().number("/proc/sys/fs/nr_open").unwrap_err().to_string();
        assert!(error.contains("proc/sys/fs/nr_open"), "{error}");
    }

    #[test]
    fn words_where_numbers_should_be_name_the_file() {
        let fake = FakeRoot::new();
        fake.write("proc/sys/net/ipv4/tcp_mem", "1 2 many\n");
        let error = fake.root().numbers::<3>("/proc/sys/net/ipv4/tcp_mem").unwrap_err();
        assert!(error.to_string().contains("tcp_mem: found no whole numbers"), "{error}");
    }

    #[test]
    fn kib_lines_match_whole_keys_only() {
        let text = "MemAvailable:   10 kB\nSlab:  3 kB\n";
        assert_eq!(kib_line(text, "Slab"), Some(3 * 1024));
        assert_eq!(kib_line(text, "Mem"), None);
    }
}
