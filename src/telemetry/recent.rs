//! The last lines that this process has logged, kept in memory for a bug report.
//!
//! One ring a process, as there is one stderr: [`Tee`] writes to both. Bounded in lines and bytes; the oldest
//! go first, and how many went is told.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// Most lines that are kept.
const MAX_LINES: usize = 5_000;
/// Most bytes of all of them together.
const MAX_BYTES: usize = 1 << 20;
/// Most bytes of one; what is longer is cut.
const MAX_LINE_BYTES: usize = 8 << 10;
/// What stands at the end of a line that was cut.
const CUT: &str = "… (cut)";

/// What a process has logged last.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RecentLogs {
    /// The lines as they went to stderr, without colours, oldest first.
    pub lines: Vec<String>,
    /// How many lines went before them and are not kept any more.
    pub forgotten: u64,
}

impl RecentLogs {
    /// From the lines of a text that another process sent: as many as it would have kept.
    pub fn of_text(text: &str, forgotten: u64) -> Self {
        let mut lines: Vec<String> = text.lines().rev().take(MAX_LINES).map(str::to_owned).collect();
        lines.reverse();
        Self { lines, forgotten }
    }
}

/// The lines, locked for as long as one is added or all are copied.
#[derive(Debug)]
struct Ring {
    lines: VecDeque<Box<str>>,
    bytes: usize,
    forgotten: u64,
}

static RECENT: Mutex<Ring> = Mutex::new(Ring::new());

/// What this process has logged last, of all the nodes that it runs.
pub fn recent_logs() -> RecentLogs {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).copy()
}

/// Writes to stderr, and into the ring.
#[derive(Debug)]
pub(super) struct Tee;

impl Write for Tee {
    /// Takes all of it: `tracing` writes each event with its end of line at once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        RECENT.lock().unwrap_or_else(PoisonError::into_inner).add(&String::from_utf8_lossy(event));
        io::stderr().write_all(event)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl Ring {
    const fn new() -> Self {
        Self { lines: VecDeque::new(), bytes: 0, forgotten: 0 }
    }

    fn add(&mut self, event: &str) {
        let line = bounded(without_colours(event.trim_end_matches('\n')));
        self.bytes += line.len();
        self.lines.push_back(line.into_boxed_str());
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.len();
            self.forgotten += 1;
        }
    }

    fn copy(&self) -> RecentLogs {
        RecentLogs { lines: self.lines.iter().map(|line| line.to_string()).collect(), forgotten: self.forgotten }
    }
}

fn bounded(mut line: String) -> String {
    if line.len() > MAX_LINE_BYTES {
        let end = (0..=MAX_LINE_BYTES).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
        line.truncate(end);
        line.push_str(CUT);
    }
    line
}

/// Without the sequences (`ESC [ … letter`) that colour a terminal.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !matches!(c, '0'..='9' | ';'));
        plain.push_str(
            end.map_or("", |end| part[end..].strip_prefix(|c: char| c.is_ascii_alphabetic()).unwrap_or(&part[end..])),
        );
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(ring: &Ring) -> Vec<String> {
        ring.copy().lines
    }

    #[test]
    fn the_last_lines_are_kept_and_the_others_counted() {
        let mut ring = Ring::new();
        for nth in 0..MAX_LINES + 3 {
            ring.add(&format!("line {nth}\n"));
        }
        let kept = ring.copy();
        assert_eq!((kept.lines.len(), kept.forgotten), (MAX_LINES, 3));
        assert_eq!(kept.lines.first().map(String::as_str), Some("line 3"));
        assert_eq!(kept.lines.last(), Some(&format!("line {}", MAX_LINES + 2)));
    }

    #[test]
    fn no_flood_of_long_lines_takes_more_memory_than_is_allowed() {
        let mut ring = Ring::new();
        (0..1_000).for_each(|_| ring.add(&"ä".repeat(MAX_LINE_BYTES)));
        assert!(ring.bytes <= MAX_BYTES && ring.bytes == lines(&ring).iter().map(String::len).sum::<usize>());
        assert!(ring.forgotten > 0);
        let line = lines(&ring).pop().unwrap();
        assert!(line.len() <= MAX_LINE_BYTES + CUT.len() && line.ends_with(CUT), "{line}");
    }

    #[test]
    fn another_process_can_send_no_more_lines_than_are_kept() {
        let logs = RecentLogs::of_text(&"\n".repeat(MAX_LINES + 7), 2);
        assert_eq!((logs.lines.len(), logs.forgotten), (MAX_LINES, 2));
        assert_eq!(RecentLogs::of_text("a\nb", 0).lines, ["a", "b"]);
    }

    #[test]
    fn colours_are_for_terminals() {
        let mut ring = Ring::new();
        ring.add("\u{1b}[2m2026\u{1b}[0m \u{1b}[1;32m INFO\u{1b}[0m starts\u{1b}[0m\n");
        assert_eq!(lines(&ring), ["2026  INFO starts"]);
    }

    #[test]
    fn what_goes_to_stderr_is_kept() {
        let mark = format!("a line of its own {:x}", rand::random::<u64>());
        Tee.write_all(format!("{mark}\n").as_bytes()).unwrap();
        assert!(recent_logs().lines.contains(&mark));
    }
}
