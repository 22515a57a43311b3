//! Reads just enough Rust to know what a file imports: no comments, no literals, no tests.

/// One file, with everything blanked out that is not code of the program. Lines keep their numbers.
pub(crate) struct Source {
    /// Below `src/`, with `/`.
    pub(crate) path: String,
    /// The code.
    pub(crate) code: String,
}

/// A path of the crate that a file names.
#[derive(Debug, PartialEq)]
pub(crate) struct Import {
    /// Without `crate::`.
    pub(crate) path: String,
    /// Counted from 1.
    pub(crate) line: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), code: without_tests(&without_text(text)) }
    }

    /// The module at the top of `src/` to which the file belongs.
    pub(crate) fn module(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many `super`s lead from the file's module to the root of the crate.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }
}

/// Comments and literals become spaces.
fn without_text(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_text(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins here ends; `at` if none begins.
fn end_of_text(chars: &[char], at: usize) -> usize {
    let next = |offset: usize| chars.get(at + offset).copied();
    let follows_name = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next(1) == Some('/') => chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n),
        '/' if next(1) == Some('*') => end_of_block_comment(chars, at),
        '"' => end_of_string(chars, at),
        'r' if !follows_name || chars[at - 1] == 'b' => end_of_raw_string(chars, at),
        '\'' if next(1) == Some('\\') => {
            let quote = chars.iter().skip(at + 3).position(|c| *c == '\'');
            quote.map_or(chars.len(), |n| at + 3 + n + 1)
        }
        '\'' if next(2) == Some('\'') => at + 3,
        _ => at,
    }
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') if depth == 1 => return at + 2,
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return start;
    }
    let mut closing = vec!['"'];
    closing.extend(std::iter::repeat_n('#', hashes));
    let body = start + hashes + 2;
    let found = chars[body..].windows(closing.len()).position(|window| window == closing);
    found.map_or(chars.len(), |n| body + n + closing.len())
}

/// Items under `#[cfg(test)]` become spaces.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        let (before, item) = rest.split_at(start);
        let end = end_of_item(item);
        out.push_str(before);
        out.extend(item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[end..];
    }
    out + rest
}

/// An item ends with its block, or with a semicolon outside of one.
fn end_of_item(item: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in item.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// The paths below `src/`, without `.rs`, of the modules in files of their own that are compiled for tests only.
pub(crate) fn test_modules(path: &str, text: &str) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').map_or(("", path), |(folder, file)| (folder, file));
    let own = file.trim_end_matches(".rs");
    let parts = [folder, if ["mod", "lib", "main"].contains(&own) { "" } else { own }];
    let prefix: String = parts.into_iter().filter(|part| !part.is_empty()).map(|part| format!("{part}/")).collect();
    let code = without_text(text);
    code.split("#[cfg(test)]")
        .skip(1)
        .filter_map(|item| {
            let head = item[..end_of_item(item)].strip_suffix(';')?;
            let name = head.split_whitespace().skip_while(|word| *word != "mod").nth(1)?;
            Some(format!("{prefix}{name}"))
        })
        .collect()
}

/// Every path of the crate that the code names: in `use` lines, in full, or by way of `super`.
pub(crate) fn imports(source: &Source) -> Vec<Import> {
    let code = &source.code;
    let mut found = Vec::new();
    let to_root = "super::".repeat(source.depth());
    for prefix in ["crate::", &to_root] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].trim_end();
            let is_part_of_a_longer_path = code[..at].ends_with(|c: char| c.is_alphanumeric() || "_:$".contains(c));
            // `pub(in crate::net)` opens a view, it imports nothing.
            if !is_part_of_a_longer_path && !before.ends_with("(in") {
                read_tree(code, at + prefix.len(), "", &mut found);
            }
        }
    }
    found
}

/// Reads `a::{b, c::d}` from here on; returns where it ends.
fn read_tree(code: &str, start: usize, prefix: &str, found: &mut Vec<Import>) -> usize {
    let at = start + leading_spaces(&code[start..]);
    if !code[at..].starts_with('{') {
        return read_path(code, at, prefix, found);
    }
    let mut at = at + 1;
    loop {
        at += leading_spaces(&code[at..]);
        match code[at..].chars().next() {
            None => return at,
            Some('}') => return at + 1,
            Some(c) if c.is_alphanumeric() || c == '_' || c == '*' => at = read_path(code, at, prefix, found),
            Some(c) => at += c.len_utf8(),
        }
    }
}

fn read_path(code: &str, start: usize, prefix: &str, found: &mut Vec<Import>) -> usize {
    let length =
        code[start..].find(|c: char| !(c.is_alphanumeric() || "_*:".contains(c))).unwrap_or(code.len() - start);
    let end = start + length;
    let text = &code[start..end];
    if let Some(folder) = text.strip_suffix("::") {
        let is_group = code[end..].trim_start().starts_with('{');
        if is_group {
            return read_tree(code, end, &format!("{prefix}{folder}::"), found);
        }
    }
    let path = format!("{prefix}{}", text.trim_end_matches(':'));
    let path = path.strip_suffix("::self").unwrap_or(&path).to_owned();
    if !path.is_empty() {
        found.push(Import { path, line: code[..start].matches('\n').count() + 1 });
    }
    let renamed = code[end..].trim_start().strip_prefix("as ");
    renamed.map_or(end, |rest| {
        let name = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        code.len() - rest.len() + name
    })
}

fn leading_spaces(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

#[test]
fn use_trees_are_read_to_their_leaves() {
    let text = "use crate::{\n    a::{self, B, c::{D as E, F}},\n    g::*,\n};\nfn f(x: crate::h::I) { crate::j!(); }";
    let found = imports(&Source::new("node/mod.rs", text));
    let paths: Vec<(&str, usize)> = found.iter().map(|import| (import.path.as_str(), import.line)).collect();
    assert_eq!(paths, [("a", 2), ("a::B", 2), ("a::c::D", 2), ("a::c::F", 2), ("g::*", 3), ("h::I", 5), ("j", 5)]);
}

#[test]
fn text_and_tests_are_no_code() {
    let text = r####"a /* crate::x /* y */ */ "crate::\"z" r#"crate::"q"# 'c' '\'' '"' b // crate::w
#[cfg(test)]
pub mod tests { fn f() { { } } }
c"####;
    let code = Source::new("x.rs", text).code;
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(code.lines().count(), 4);
    assert_eq!(test_modules("raft/mod.rs", "#[cfg(test)]\npub(crate) mod suite;\nmod log;"), ["raft/suite"]);
    assert_eq!(test_modules("client.rs", "#[cfg(test)] mod tests; #[cfg(test)] mod more { x; }"), ["client/tests"]);
}
