//! A folder of one's own for what other programs write.

use std::fs;
use std::io;
use std::path::PathBuf;

/// A new folder among the temporary files, removed with all that is in it when dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one. The name is to tell it from others of this process.
    pub fn new(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("benches-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // temporary, wherever it stays
    }
}
