//! The tables beside the grid's: counts, tails, fan-outs, and who was left out.

use super::{ALONE, Counted, FanOut, Samples, Sends, Tail, line, ratio_columns};
use crate::plan::{BASELINE, LeftOut};
use crate::stats::{Ratio, Spread};
use std::fmt::Write as _;

pub(super) fn left_out(servers: &[LeftOut], text: &mut String) {
    if servers.is_empty() {
        return;
    }
    text.push_str("\n### Left out\n\n| server | why |\n|---|---|\n");
    for LeftOut { server, why } in servers {
        line(text, &[server.clone(), why.clone()]);
    }
}

pub(super) fn counts(counted: &[Counted], text: &mut String) {
    if counted.is_empty() {
        return;
    }
    text.push_str(
        "\n### Counted\n\n| server | instructions a message, depth 1 | depth 16 \
         | system calls a message, depth 1 | depth 16 \
         | instructions a connection | system calls a connection \
         | bytes an idle connection |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for counted in counted {
        let [one, sixteen] = counted.instructions;
        let mut row = vec![counted.server.clone(), show(one, 0), show(sixteen, 1)];
        row.extend(counted.syscalls.map(|calls| show(calls, 2)));
        let [instructions, calls] = counted.churned;
        row.extend([show(instructions, 0), show(calls, 1), show(counted.idle_bytes, 0)]);
        line(text, &row);
    }
}

pub(super) fn sends(sends: &[Sends], text: &mut String) {
    if sends.is_empty() {
        return;
    }
    text.push_str(
        "\n### From another thread\n\n\
         A thread that is no loop sends messages of 64 B on one connection by `ServerHandle::send`, in \
         bursts; before each of them the loop sleeps. The request is included.\n\n\
         | messages in a burst | instructions a message | eventfd writes a message \
         | CPU ns a message |\n|--:|--:|--:|--:|\n",
    );
    for Sends { burst, instructions, wakes, cpu_ns } in sends {
        let row = [burst.to_string(), show(*instructions, 0), show(*wakes, 3), show(*cpu_ns, 0)];
        line(text, &row);
    }
}

pub(super) fn tails(tails: &Samples<Tail>, text: &mut String) {
    if tails.0.is_empty() {
        return;
    }
    let _ = write!(
        text,
        "\n### Latency at a fixed rate\n\n\
         An open loop; each latency counts from when the message should have left. Ratios are of \
         the p99 to the same server's, {ALONE}, in the same round: their median, and their \
         geometric mean with its 95% interval.\n\n\
         | server | | thousand a second | p50 µs | p99 µs | min–max | p99.9 µs \
         | p99 to {ALONE}: median | mean | 95% | |\n\
         |---|---|--:|--:|--:|---|--:|--:|--:|---|---|\n"
    );
    for server in tails.servers() {
        for cell in tails.cells() {
            let of = |field: fn(&Tail) -> f64| tails.spread(&cell, &server, field);
            let (rate, p50) = (of(|tail| tail.per_second / 1000.0), of(|tail| tail.p50));
            let (p99, p999) = (of(|tail| tail.p99), of(|tail| tail.p999));
            let (Some(rate), Some(p50), Some(p99), Some(p999)) = (rate, p50, p99, p999) else {
                continue;
            };
            let mut row = vec![
                server.clone(),
                cell.clone(),
                format!("{:.1}", rate.median),
                format!("{:.0}", p50.median),
                format!("{:.0}", p99.median),
                format!("{:.0}–{:.0}", p99.min, p99.max),
                format!("{:.0}", p999.median),
            ];
            let ratios = tails.between(&server, &cell, ALONE, |tail| tail.p99);
            if ratios.is_empty() {
                row.extend(["–".into(), "–".into(), "–".into(), "no pair".into()]);
            } else {
                row.push(format!("{:.2}", Spread::of(ratios.iter().copied()).median));
                row.extend(ratio_columns(Ratio::of(&ratios)));
            }
            line(text, &row);
        }
    }
}

pub(super) fn fan_outs(fan_outs: &Samples<FanOut>, text: &mut String) {
    for cell in fan_outs.cells() {
        let _ = write!(
            text,
            "\n### One payload of 64 B to {cell} connections\n\n\
             | server | ms until the last has it | min–max | CPU ns each | min–max \
             | CPU to {BASELINE} | 95% | |\n|---|--:|---|--:|---|--:|---|---|\n"
        );
        for server in fan_outs.servers() {
            let last = fan_outs.spread(&cell, &server, |found| found.last_ms);
            let cpu = fan_outs.spread(&cell, &server, |found| found.cpu_ns);
            let (Some(last), Some(cpu)) = (last, cpu) else { continue };
            let one = std::slice::from_ref(&cell);
            let ratio = fan_outs.to_baseline(&server, one, |found| found.cpu_ns);
            let mut row = vec![
                server.clone(),
                format!("{:.2}", last.median),
                format!("{:.2}–{:.2}", last.min, last.max),
                format!("{:.0}", cpu.median),
                format!("{:.0}–{:.0}", cpu.min, cpu.max),
            ];
            row.extend(ratio_columns(ratio));
            line(text, &row);
        }
    }
}

fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".into(), |value| format!("{value:.digits$}"))
}
