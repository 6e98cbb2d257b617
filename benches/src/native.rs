//! Rivals in C and C++: built from `benches/rivals` against the libraries that the system has.
//!
//! Nothing here is part of `cargo build`, which so needs neither a C compiler nor the libraries.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A rival in C or C++, and what it is built with.
#[derive(Debug)]
pub struct Native {
    /// As it is named in the tables.
    pub name: &'static str,
    source: &'static str,
    header: &'static str,
    libraries: &'static [&'static str],
    /// Debian's package.
    package: &'static str,
}

/// All of them.
pub const NATIVES: [Native; 4] = [
    Native {
        name: "libuv",
        source: "libuv.c",
        header: "uv.h",
        libraries: &["-luv"],
        package: "libuv1-dev",
    },
    Native {
        name: "libev",
        source: "libev.c",
        header: "ev.h",
        libraries: &["-lev"],
        package: "libev-dev",
    },
    Native {
        name: "libevent",
        source: "libevent.c",
        header: "event2/event.h",
        libraries: &["-levent_core"],
        package: "libevent-dev",
    },
    Native {
        name: "asio",
        source: "asio.cpp",
        header: "asio.hpp",
        libraries: &[],
        package: "libasio-dev",
    },
];

impl Native {
    /// Compiles it into the folder of the running program, unless what is there is newer than its
    /// sources. An error if the compiler or the library is missing.
    pub fn build(&self) -> io::Result<PathBuf> {
        let source = sources().join(self.source);
        let folder = std::env::current_exe()?.with_file_name("rivals");
        std::fs::create_dir_all(&folder)?;
        let program = folder.join(self.name);
        if !is_newer(&program, &sources())? {
            self.find_header()?;
            let mut command = self.compiler();
            command.args(["-O2", "-Wall", "-Wextra", "-Wno-unused-function", "-o"]);
            command.arg(&program).arg(&source).args(self.libraries).arg("-lpthread");
            if !command.stdin(Stdio::null()).status()?.success() {
                return Err(io::Error::other(format!("{} did not compile", source.display())));
            }
        }
        Ok(program)
    }

    fn compiler(&self) -> Command {
        let is_c = self.source.ends_with(".c");
        let mut command = Command::new(if is_c { "cc" } else { "c++" });
        command.args(if is_c { ["-x", "c", "-std=gnu11"] } else { ["-x", "c++", "-std=c++17"] });
        command
    }

    fn find_header(&self) -> io::Result<()> {
        let mut command = self.compiler();
        command.args(["-E", "-include", self.header, "/dev/null"]);
        let found = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.map_err(|error| io::Error::new(error.kind(), "no C compiler"))?.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("Debian's {} is not installed", self.package)))
    }
}

/// The folder of the sources and scripts.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("rivals")
}

/// Whether `program` is there and newer than every file of `folder`.
fn is_newer(program: &Path, folder: &Path) -> io::Result<bool> {
    let Ok(built) = program.metadata() else { return Ok(false) };
    for file in folder.read_dir()? {
        if file?.metadata()?.modified()? > built.modified()? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Installs the libraries, by Debian's apt-get.
pub fn install() -> io::Result<()> {
    let packages = NATIVES.map(|native| native.package);
    for arguments in [&["update", "-qq"][..], &[&["install", "-y", "-qq"][..], &packages].concat()]
    {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        if !command.status()?.success() {
            return Err(io::Error::other(format!("{command:?} failed")));
        }
    }
    Ok(())
}
