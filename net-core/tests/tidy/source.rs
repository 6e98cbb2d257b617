//! A source file, its code and its comments apart.

/// One file: as it is, and the same lines with only the code, or only the comments, left.
pub(crate) struct Source {
    /// From the workspace's root: `net-core/src/life.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Comments, and what stands inside of quotes, are blank.
    pub(crate) code: String,
    /// All but comments is blank.
    pub(crate) comments: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Quoted,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let kinds = kinds(&text.chars().collect::<Vec<_>>());
        let only = |wanted: Kind| -> String {
            let keep =
                |(c, kind): (char, &Kind)| if c == '\n' || *kind == wanted { c } else { ' ' };
            text.chars().zip(&kinds).map(keep).collect()
        };
        let (code, comments) = (only(Kind::Code), only(Kind::Comment));
        Self { path: path.replace('\\', "/"), text: text.to_owned(), code, comments }
    }

    /// The code without its inline test modules.
    pub(crate) fn shipped_code(&self) -> String {
        let mut code = self.code.clone();
        while let Some(start) = code.find("#[cfg(test)]\nmod ") {
            let rest = &code[start..];
            let open = rest.find('{').unwrap_or(rest.len());
            let end = match rest.find(';') {
                Some(end) if end < open => end + 1,
                _ => block_end(rest, open),
            };
            let lines = "\n".repeat(rest[..end].matches('\n').count());
            code.replace_range(start..start + end, &lines);
        }
        code
    }

    /// Where `word` stands by itself in `text`, one of this file's three: line numbers from 1.
    pub(crate) fn lines_with(text: &str, word: &str) -> Vec<usize> {
        let found = text.match_indices(word).filter(|(at, _)| is_word(text, *at, word.len()));
        found.map(|(at, _)| text[..at].matches('\n').count() + 1).collect()
    }
}

pub(crate) fn is_word(text: &str, at: usize, len: usize) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let before = text[..at].chars().next_back();
    let after = text[at + len..].chars().next();
    !before.is_some_and(is_part) && !after.is_some_and(is_part)
}

/// Behind the brace that closes the one at `open`.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// What each character belongs to. Knows Rust's comments and literals, and nothing else of Rust.
fn kinds(text: &[char]) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(text.len());
    while kinds.len() < text.len() {
        let at = kinds.len();
        let (kind, len) = match text[at] {
            '/' if text.get(at + 1) == Some(&'/') => (Kind::Comment, line_len(&text[at..])),
            '/' if text.get(at + 1) == Some(&'*') => (Kind::Comment, nested_len(&text[at..])),
            '"' => (Kind::Quoted, quoted_len(&text[at..], '"')),
            '\'' if is_char(&text[at..]) => (Kind::Quoted, quoted_len(&text[at..], '\'')),
            'r' if begins_word(text, at) => match raw_len(&text[at..]) {
                Some(len) => (Kind::Quoted, len),
                None => (Kind::Code, 1),
            },
            _ => (Kind::Code, 1),
        };
        kinds.extend(std::iter::repeat_n(kind, len.min(text.len() - at)));
    }
    kinds
}

fn line_len(text: &[char]) -> usize {
    text.iter().position(|c| *c == '\n').unwrap_or(text.len())
}

fn nested_len(text: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < text.len() {
        match (text[at], text[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted_len(text: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// A character literal, and not a lifetime.
fn is_char(text: &[char]) -> bool {
    text.get(1) == Some(&'\\') || text.get(2) == Some(&'\'')
}

/// `r` as in `r"…"`, `br"…"`, `cr"…"`, and not at the end of a longer word.
fn begins_word(text: &[char], at: usize) -> bool {
    let is_part = |c: &char| c.is_alphanumeric() || *c == '_';
    let start = match at.checked_sub(1).map(|before| text[before]) {
        Some('b' | 'c') => at - 1,
        _ => at,
    };
    start == 0 || !is_part(&text[start - 1])
}

fn raw_len(text: &[char]) -> Option<usize> {
    let hashes = text[1..].iter().take_while(|c| **c == '#').count();
    if text.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = &text[2 + hashes..];
    let inside = body.windows(end.len()).position(|here| here == end).unwrap_or(body.len());
    Some(2 + hashes + inside + end.len())
}

#[test]
fn code_comments_and_quotes_are_told_apart() {
    let text =
        "a // b \"c\"\nd /* e /* f */ g */ h \"i // \\\" j\" k 'l' 'm '\"' n r#\"o \" p\"# q\n";
    let source = Source::new("x.rs", text);
    let letters = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(letters(&source.code), "adhk'mnq");
    assert_eq!(letters(&source.comments), "//b\"c\"/*e/*f*/g*/");
    assert_eq!(source.code.lines().count(), text.lines().count());
}

#[test]
fn test_modules_are_not_shipped() {
    let text = [
        "use a;\n#[cfg(test)]\nmod tests;\nuse b;\n",
        "#[cfg(test)]\nmod tests {\n use c; mod d { }\n}\nuse e;\n",
    ];
    let text = &text.concat();
    let shipped = Source::new("x.rs", text).shipped_code();
    assert_eq!(shipped.split_whitespace().collect::<Vec<_>>().join(" "), "use a; use b; use e;");
    assert_eq!(shipped.lines().count(), text.lines().count());
}
