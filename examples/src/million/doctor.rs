//! The look at the machine, as text: its limits, the walls they make, and the plan that results.

use super::asked::Asked;
use super::figures::bytes;
use super::machine_text::machine_text;
use super::pace::Pace;
use super::plan::Plan;
use super::sizing::{bytes_per_connection, predict_ten_million};
use super::walls::Walls;
use net_core::process::Machine;

/// Everything `million doctor` prints, with a newline at the end.
pub fn examination(machine: &Machine, asked: &Asked) -> String {
    let walls = Walls::of(machine, asked);
    let plan = match Plan::make(machine, asked) {
        Ok(plan) => plan.to_string(),
        Err(refusal) => format!("refused: {refusal}"),
    };
    let ten_million = predict_ten_million(256);
    format!(
        "machine\n{}\n\
         connections each limit allows, and the way to twice as many\n{walls}\n\
         memory for each connection: {}; ten million over loopback: {}\n\
         pace: {}\n\n{plan}\n",
        machine_text(machine),
        bytes(bytes_per_connection(asked.role)),
        bytes(ten_million.total_bytes()),
        Pace::of(machine),
    )
}

#[cfg(test)]
mod tests {
    use super::super::asked::Count;
    use super::*;

    #[test]
    fn examination_shows_the_walls_even_when_the_plan_is_refused() {
        let machine = Machine { cores: 2, nofile_hard: 20_000, ..Machine::default() };
        let asked = Asked { connections: Count::Exactly(10), ..Asked::default() };
        let text = examination(&machine, &asked);
        assert!(text.contains("descriptors of the server"), "{text}");
        assert!(text.contains("refused: memory: 10 × "), "{text}");
    }
}
