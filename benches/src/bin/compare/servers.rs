//! Which servers run here, and echo as they should.

use crate::flags::Flags;
use benches::exact;
use benches::plan::{BASELINE, LeftOut, Rival, foreign, siblings};
use std::io;

/// All that were asked for and can run, each checked to the byte; and those left out, with why.
pub(crate) fn ready(flags: &Flags) -> io::Result<(Vec<Rival>, Vec<LeftOut>)> {
    let is_wanted = |name: &str| {
        let only = &flags.only;
        only.is_empty() || name.starts_with(BASELINE) || only.iter().any(|part| name.contains(part))
    };
    let mut left_out = Vec::new();
    let mut leave_out = |server: &str, why: io::Error| {
        eprintln!("{server} is left out: {why}");
        left_out.push(LeftOut { server: server.into(), why: why.to_string() });
    };
    let mut rivals = siblings(flags.loops)?;
    rivals.retain(|rival| is_wanted(rival.program.name));
    for (name, prepare) in foreign(flags.loops).into_iter().filter(|(name, _)| is_wanted(name)) {
        match prepare() {
            Ok(rival) => rivals.push(rival),
            Err(why) => leave_out(name, why),
        }
    }
    let mut exact = Vec::new();
    for rival in rivals {
        let check = || exact::check(rival.program.start()?.at());
        match check() {
            Ok(()) => exact.push(rival),
            Err(why) if has_to_run(rival.program.name) => {
                let what = format!("{}: {why}", rival.program.name);
                return Err(io::Error::new(why.kind(), what));
            }
            Err(why) => leave_out(rival.program.name, why),
        }
    }
    Ok((exact, left_out))
}

/// Without our own or the limit there is nothing to compare.
fn has_to_run(name: &str) -> bool {
    name.starts_with("net-core") || name.starts_with(BASELINE)
}
