//! Whether a run proved what it set out to prove.

use super::figures::grouped;
use super::report::Report;

impl Report {
    /// `Ok` if every connection that was asked for came up, was verified, was held, got the
    /// broadcast and was closed in order.
    ///
    /// # Errors
    /// One sentence that names everything that failed.
    pub fn verdict(&self) -> Result<(), String> {
        let asked = self.asked;
        let mut faults = Vec::new();
        let mut unless = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        unless(self.connected >= asked, format!("only {} connected", grouped(self.connected)));
        unless(self.lost == 0, format!("{} lost", grouped(self.lost)));
        unless(self.wrong == 0, format!("{} wrong", grouped(self.wrong)));
        unless(self.missing == 0, format!("{} missing", grouped(self.missing)));
        unless(self.verified >= asked, format!("only {} verified", grouped(self.verified)));
        let held = grouped(self.held_at_once);
        unless(self.held_at_once >= asked, format!("only {held} held at once"));
        unless(self.hold.lost == 0, format!("{} lost in the hold", grouped(self.hold.lost)));
        let delivered = self.broadcast.delivered;
        // The run gives no orders to a server on another machine, so that server announces nothing.
        let announces = self.plan.as_ref().is_none_or(|plan| plan.role.serves());
        unless(
            delivered >= asked || !announces,
            format!("broadcast reached {}", grouped(delivered)),
        );
        unless(self.books_balance, "the books do not balance".to_owned());
        if faults.is_empty() {
            return Ok(());
        }
        Err(format!("of {} connections: {}", grouped(asked), faults.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::flawless;
    use super::*;

    #[test]
    fn flawless_run_passes() {
        assert_eq!(flawless().verdict(), Ok(()));
    }

    #[test]
    fn a_single_fault_fails_and_is_named() {
        type Spoil = fn(&mut Report);
        let faults: [(Spoil, &str); 9] = [
            (|r| r.connected -= 1, "only 999,999 connected"),
            (|r| r.lost = 1, "1 lost"),
            (|r| r.wrong = 1, "1 wrong"),
            (|r| r.missing = 1, "1 missing"),
            (|r| r.verified -= 1, "only 999,999 verified"),
            (|r| r.held_at_once -= 1, "only 999,999 held at once"),
            (|r| r.hold.lost = 1, "1 lost in the hold"),
            (|r| r.broadcast.delivered -= 1, "broadcast reached 999,999"),
            (|r| r.books_balance = false, "the books do not balance"),
        ];
        for (spoil, sentence) in faults {
            let mut report = flawless();
            spoil(&mut report);
            let expected = format!("of 1,000,000 connections: {sentence}");
            assert_eq!(report.verdict(), Err(expected));
        }
    }

    #[test]
    fn several_faults_are_one_sentence() {
        let report = Report { lost: 2, wrong: 3, ..flawless() };
        assert_eq!(report.verdict().unwrap_err(), "of 1,000,000 connections: 2 lost, 3 wrong");
    }
}
