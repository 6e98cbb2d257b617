//! `FileRange`: a range of an open file, to be sent without a copy into memory.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// A range of an open file.
///
/// The file is reference-counted, so one open file serves any number of connections on any threads. The file
/// position is neither used nor moved.
///
/// The bytes are read when they are sent. A change of the file before then changes what is sent. If the file
/// ends before the range does, the connection is ended.
#[derive(Clone)]
pub struct FileRange {
    file: Arc<File>,
    from: u64,
    len: usize,
}

impl FileRange {
    /// Makes a range of `len` bytes that starts at offset `from` of the file.
    ///
    /// The caller must know that the file has these bytes. A range that no file can have
    /// ([`end`](Self::end)) is refused when it is to be sent.
    pub fn new(file: impl Into<Arc<File>>, from: u64, len: usize) -> Self {
        Self { file: file.into(), from, len }
    }

    /// Makes a range of all bytes that the file has now.
    ///
    /// Fails if the system does not tell the length. Fails also if it is not a regular file, because the
    /// length of other files means nothing.
    pub fn whole(file: impl Into<Arc<File>>) -> io::Result<Self> {
        let file = file.into();
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let len = usize::try_from(about.len()).map_err(io::Error::other)?;
        Ok(Self::new(file, 0, len))
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The offset in the file at which the range begins.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The offset after the last byte of the range. `None`: the offset is above 2⁶³ - 1, the largest that the
    /// kernel knows (`off_t`, lseek(2)), so no file has this range.
    pub fn end(&self) -> Option<u64> {
        let end = self.from.checked_add(self.len as u64)?;
        (end <= i64::MAX as u64).then_some(end)
    }

    /// How many bytes the range has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps only the first `len` bytes. The range must have more.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = len;
    }

    /// Removes the first `n` bytes. The range must have more.
    pub(crate) fn discard_front(&mut self, n: usize) {
        self.from += n as u64;
        self.len -= n;
    }
}

impl fmt::Debug for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file: _, from, len } = self;
        f.debug_struct("FileRange").field("from", from).field("len", len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_ends_where_a_file_can() {
        let file = Arc::new(File::open("/dev/null").unwrap());
        let end = |from, len| FileRange::new(Arc::clone(&file), from, len).end();
        let most = i64::MAX as u64;
        assert_eq!((end(0, 0), end(7, 3)), (Some(0), Some(10)));
        for (from, len) in [(most, 0), (most - 1, 1), (0, most as usize)] {
            assert_eq!(end(from, len), Some(most));
        }
        for (from, len) in [(most, 1), (1, most as usize), (u64::MAX, 0), (0, usize::MAX)] {
            assert_eq!(end(from, len), None, "{from} and {len}");
        }
        assert_eq!(end(u64::MAX, usize::MAX), None);
    }

    #[test]
    fn only_a_regular_file_has_a_whole() {
        let folder = FileRange::whole(File::open("/").unwrap());
        assert_eq!(folder.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let device = FileRange::whole(File::open("/dev/null").unwrap());
        assert_eq!(device.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let own = std::env::current_exe().unwrap();
        let whole = FileRange::whole(File::open(&own).unwrap()).unwrap();
        assert_eq!(whole.len() as u64, own.metadata().unwrap().len());
    }
}
