//! The few shapes of JSON that the pages need. Pure.

use std::fmt::{Display, Write};

/// An object to which members are added.
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Self {
        Self("{".to_owned())
    }

    /// Adds a member that is a number, `true`, `false`, or already JSON.
    pub(super) fn plain(mut self, name: &str, value: impl Display) -> Self {
        let comma = if self.0.len() > 1 { "," } else { "" };
        let _ = write!(self.0, "{comma}{}:{value}", string(name)); // a String takes everything
        self
    }

    /// Adds a member that is a text.
    pub(super) fn text(self, name: &str, value: &str) -> Self {
        self.plain(name, string(value))
    }

    /// Adds a member that may be missing. If it is, its value is `null`.
    pub(super) fn maybe(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.plain(name, value),
            None => self.plain(name, "null"),
        }
    }

    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// An array of values that are already JSON.
pub(super) fn array(items: impl Iterator<Item = impl Display>) -> String {
    let mut text = "[".to_owned();
    for (n, item) in items.enumerate() {
        let _ = write!(text, "{}{item}", if n > 0 { "," } else { "" });
    }
    text.push(']');
    text
}

/// The text in quotes. Characters that JSON forbids in a string are escaped (RFC 8259, 7).
pub(super) fn string(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if u32::from(c) < 0x20 => _ = write!(quoted, "\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_items_are_parted_and_quotes_escaped() {
        let inner = Object::new().text("say \"hi\"", "a\\b\n\u{1}é").end();
        assert_eq!(inner, r#"{"say \"hi\"":"a\\b\u000a\u0001é"}"#);
        let outer = Object::new().plain("n", 1).maybe("x", None::<u8>).maybe("y", Some(2));
        let outer = outer.plain("all", array([inner.as_str(), "3"].into_iter())).end();
        assert_eq!(outer, format!(r#"{{"n":1,"x":null,"y":2,"all":[{inner},3]}}"#));
        assert_eq!((Object::new().end(), array([0; 0].iter())), ("{}".into(), "[]".into()));
    }
}
