//! Instructions of each step, by callgrind: the same number on every machine that runs the same
//! program.
//!
//! The program runs itself under callgrind, which forgets what it has counted when `count_from_here`
//! is entered, and writes a file when `count_up_to_here` is. So each file is of one step, in their
//! order, and nothing of the preparations.

use crate::folder::Folder;
use crate::steps::{self, Step};
use crate::tools::Tool;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the program is started with to be the one that is counted.
pub const INSIDE: &str = "--inside";

/// The names by which callgrind knows where counting begins and ends.
const BEGIN: &str = "*count_from_here*";
const END: &str = "*count_up_to_here*";

/// A step, and the instructions that one unit of it takes.
pub struct Count {
    /// The step.
    pub step: Step,
    /// Instructions of a unit.
    pub instructions: f64,
}

/// Counts every step, in a process of its own: `program` with [`INSIDE`] calls [`run_inside`].
pub fn count(program: &Path) -> io::Result<Vec<Count>> {
    let folder = Folder::new("steps")?;
    let mut command = Command::new(Tool::Instructions.program());
    command
        .args(["--tool=callgrind", &format!("--zero-before={BEGIN}")])
        .arg(format!("--dump-before={END}"))
        .arg(format!("--callgrind-out-file={}", folder.file("out").display()))
        .arg(program)
        .arg(INSIDE)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = command.status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{command:?}: {status}")));
    }
    steps::all().into_iter().enumerate().map(|(n, step)| read(&folder, n, step)).collect()
}

fn read(folder: &Folder, n: usize, step: Step) -> io::Result<Count> {
    let text = fs::read_to_string(folder.file(&format!("out.{}", n + 1)))?;
    let total = Tool::Instructions.total(&text);
    let total = total.ok_or_else(|| io::Error::other(format!("no total in {text:?}")))?;
    let units = step.counted * step.units;
    Ok(Count { instructions: total as f64 / units as f64, step })
}

/// What the counted program does: every step, each after a few rounds that are not counted.
pub fn run_inside() {
    for step in steps::all() {
        let mut rounds = (step.prepare)();
        rounds(step.counted.div_ceil(100));
        count_from_here();
        rounds(step.counted);
        count_up_to_here();
    }
}

#[inline(never)]
fn count_from_here() {
    black_box("one");
}

#[inline(never)]
fn count_up_to_here() {
    black_box("other"); // not the same, or the compiler would make one function of both
}
