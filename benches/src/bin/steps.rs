//! How many instructions does one step of each part take: of the timer wheel, the table, the
//! buffers, a post, a turn? The twin of the bench `micro`, which times the same steps.
//!
//!     cargo run --release -p benches --bin steps

use benches::counted::{self, INSIDE};
use benches::tools::Tool;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == INSIDE) {
        counted::run_inside();
        return ExitCode::SUCCESS;
    }
    match table() {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("steps: {what}");
            ExitCode::FAILURE
        }
    }
}

fn table() -> Result<(), String> {
    if !Tool::Instructions.is_there() {
        return Err(format!("{} is not installed", Tool::Instructions.program()));
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let counts = counted::count(&program).map_err(|error| error.to_string())?;
    println!("| part | step | instructions | at most |\n|---|---|--:|--:|");
    for count in counts {
        let step = count.step;
        let (group, name, at_most) = (step.group, step.name, step.at_most);
        println!("| {group} | {name} | {:.1} | {at_most:.0} |", count.instructions);
    }
    Ok(())
}
