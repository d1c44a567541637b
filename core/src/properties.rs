//! Java's properties syntax, as far as `zoo.cfg` files use it.
//!
//! Owns the text form of `key=value` pairs.
//! Never interprets a key.
//! Correct because every text is a list of pairs. The only syntax error is a bad `\u` escape, which is
//! reported with its line.

#![forbid(unsafe_code)]

/// One `key=value` pair of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Property {
    /// Line where the pair begins, from 1.
    pub line: u32,
    /// Unescaped.
    pub key: String,
    /// Unescaped, and without trailing white space, as in ZooKeeper.
    pub value: String,
}

/// A `\u` that is not followed by four hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: \\u must be followed by four hexadecimal digits")]
pub struct BadEscape {
    /// Counted from 1.
    pub line: u32,
}

/// Reads a whole file. A repeated key is returned each time; the last one counts.
pub fn parse(text: &str) -> Result<Vec<Property>, BadEscape> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        let line = index as u32 + 1;
        let first = first.trim_start();
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = first.to_owned();
        while continues(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, more)) => logical.push_str(more.trim_start()),
                None => break,
            }
        }
        let (key, value) = split(&logical);
        found.push(Property {
            line,
            key: unescape(key, line)?,
            value: unescape(value, line)?.trim_end().to_owned(),
        });
    }
    Ok(found)
}

/// An odd number of backslashes at the end continues the line.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Splits at the first unescaped `=`, `:` or white space.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let here = !escaped && (c == '=' || c == ':' || c.is_whitespace());
        escaped = !escaped && c == '\\';
        here
    });
    let Some(end) = end else { return (line, "") };
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim_start())
}

fn unescape(text: &str, line: u32) -> Result<String, BadEscape> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let unit = (digits.len() == 4).then(|| u32::from_str_radix(&digits, 16).ok()).flatten();
                out.push(char::from_u32(unit.ok_or(BadEscape { line })?).unwrap_or('\u{fffd}'));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|p| (p.key, p.value)).collect()
    }

    #[test]
    fn separators_comments_and_blank_lines() {
        let text = "# c\n! c\n\n a=1 \nb : 2\nc 3\nd\ne==x\n";
        let want = [("a", "1"), ("b", "2"), ("c", "3"), ("d", ""), ("e", "=x")];
        assert_eq!(pairs(text), want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn continued_lines_and_escapes() {
        let text = "list=a,\\\n   b\npath=C\\:\\\\x\nk\\ 1=\\u0041\\t|\nend\\\\=1\n";
        let want = [("list", "a,b"), ("path", "C:\\x"), ("k 1", "A\t|"), ("end\\", "1")];
        assert_eq!(pairs(text), want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_bad_escape_names_its_line() {
        assert_eq!(parse("a=1\nb=\\u12"), Err(BadEscape { line: 2 }));
    }

    #[test]
    fn the_line_number_is_that_of_the_beginning() {
        let found = parse("a=1,\\\n2\n\nb=3\n").unwrap();
        assert_eq!(found.iter().map(|p| p.line).collect::<Vec<_>>(), [1, 4]);
    }
}
