//! How numbers are written for readers: 1,000,000 and 8.3 KB, the same everywhere.
//!
//! KB, MB and GB are decimal (1,000 bytes to the KB), as memory per connection is quoted.

/// The number in groups of three digits: `1,000,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves at least 1: `64 B`, `8.3 KB`, `11.1 GB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    if number < 1_000 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1e3;
    let mut unit = 0;
    // 999.95 would be written as 1000.0, so it belongs to the next unit.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A count with its noun, which gets an `s` unless the count is 1: `1 loop`, `52 loops`.
pub fn counted(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", grouped(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_000_000, "1,000,000")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn bytes_change_unit_where_rounding_would_need_four_digits() {
        let expected = [
            (999, "999 B"),
            (1_000, "1.0 KB"),
            (8_334, "8.3 KB"),
            (999_949, "999.9 KB"),
            (999_950, "1.0 MB"),
            (11_100_000_000, "11.1 GB"),
        ];
        for (number, text) in expected {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn one_of_a_thing_is_singular() {
        assert_eq!(counted(1, "loop"), "1 loop");
        assert_eq!(counted(1_000, "loop"), "1,000 loops");
    }
}
