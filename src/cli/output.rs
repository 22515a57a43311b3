//! The only place that prints. Results go to stdout, everything else to stderr.
//!
//! Tables have no borders and no colours; JSON is one line. A reader that has gone away is no error.

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    thread,
    time::Duration,
};

use clap::{ValueEnum, error::ErrorKind};
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Failure;
use crate::error::{Details, Error, ErrorCode, Outcome};

/// How often a bar is drawn anew.
const BAR_TICK: Duration = Duration::from_millis(200);

/// Clears a terminal and goes to its upper left corner.
const CLEAR: &[u8] = b"\x1b[2J\x1b[H";

/// How results and errors look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Tables for people.
    Text,
    /// JSON on one line.
    Json,
}

impl Format {
    /// What arguments ask for that clap could not make sense of as a whole.
    pub(super) fn of_arguments(arguments: &[OsString]) -> Self {
        let before_the_child = || arguments.iter().take_while(|argument| *argument != "--");
        let in_two =
            before_the_child().zip(before_the_child().skip(1)).any(|pair| pair.0 == "--output" && pair.1 == "json");
        if in_two || before_the_child().any(|argument| argument == "--output=json") { Self::Json } else { Self::Text }
    }
}

/// Where a command's results go. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
}

impl Output {
    /// Prints in this format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// The format that was asked for.
    pub fn format(self) -> Format {
        self.format
    }

    /// Prints a result: the document as JSON on one line, or the text.
    pub fn result(self, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.text(&text()),
            Format::Json => {
                let mut line = serde_json::to_vec(document).map_err(anyhow::Error::new)?;
                line.push(b'\n');
                self.raw(&line)
            }
        }
    }

    /// Prints a text for people, with nothing in it that a terminal would obey.
    pub fn text(self, text: &str) -> Result<(), Failure> {
        self.raw(visible(text).as_bytes())
    }

    /// Prints bytes as they are.
    pub fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Other(anyhow::Error::new(error).context("stdout cannot be written")),
        })
    }

    /// Starts on a clear screen where people watch a terminal.
    pub fn new_screen(self) -> Result<(), Failure> {
        if self.format == Format::Text && to_a_terminal() { self.raw(CLEAR) } else { Ok(()) }
    }

    /// A bar that people see on a terminal, on stderr, and nobody else.
    pub fn bar(self, length: u64, template: &str) -> ProgressBar {
        if self.format != Format::Text || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(template).expect("the templates of the program are valid");
        let bar = ProgressBar::new(length).with_style(style);
        // It moves where nothing else does.
        bar.enable_steady_tick(BAR_TICK);
        bar
    }

    /// Says something beside the result, for people only.
    pub fn note(self, text: &str) {
        if self.format == Format::Text {
            to_stderr(text);
        }
    }

    /// Reports why a command failed.
    pub fn report(self, failure: &Failure) {
        match self.format {
            Format::Text => {
                if let Some(text) = text_of(failure) {
                    to_stderr(&text);
                }
            }
            Format::Json => {
                if let Some(problem) = problem_of(failure) {
                    to_stderr(&problem.to_string());
                }
            }
        }
    }
}

/// Prints clap's refusal, or the help or version that was asked for.
pub(super) fn usage(refusal: &clap::Error, format: Format) -> ExitCode {
    let asked_for = matches!(refusal.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if format == Format::Json && !asked_for {
        let detail = refusal.render().to_string();
        to_stderr(&problem(&Error::new(ErrorCode::BadRequest, detail.trim_end())).to_string());
    } else {
        // Whether anybody reads it makes no difference to the exit code.
        let _ = refusal.print();
    }
    ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2))
}

/// The text with its control characters escaped: names come from whoever takes a lock, and a terminal
/// obeys what is written to it.
fn visible(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' => c.to_string(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// The same without an end of line: names may hold one, and would forge a line.
pub(super) fn one_line(text: &str) -> String {
    visible(text).replace('\n', "\\n")
}

/// A borderless table, one line a row.
pub fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| one_line(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// The problem document of an error (RFC 9457) with the members that its slug has.
pub fn problem(error: &Error) -> Value {
    let mut document = json!({
        "type": error.code.as_str(),
        "title": error.code.title(),
        "status": error.code.http_status(),
        "detail": error.detail,
    });
    if let (Some(document), Ok(Value::Object(details))) =
        (document.as_object_mut(), serde_json::to_value(&error.details))
    {
        document.extend(details);
        if error.code == ErrorCode::VersionMismatch {
            document.entry("version").or_insert(Value::Null);
        }
    }
    document
}

fn text_of(failure: &Failure) -> Option<String> {
    Some(match failure {
        Failure::Configuration(faults) => faults.to_string(),
        Failure::Operation(error) => format!("{}: {}{}", error.code, error.detail, told_beside(&error.details)),
        Failure::Usage(text) => format!("error: {text}"),
        Failure::Other(error) => format!("error: {}", with_causes(error)),
        Failure::Interrupted | Failure::ClosedPipe | Failure::Exit(_) => return None,
    })
}

fn problem_of(failure: &Failure) -> Option<Value> {
    Some(match failure {
        Failure::Configuration(faults) => {
            let mut document = problem(&Error::new(ErrorCode::BadRequest, faults.to_string()));
            document["faults"] = serde_json::to_value(&faults.0).unwrap_or_default();
            document
        }
        Failure::Operation(error) => problem(error),
        Failure::Usage(text) => problem(&Error::new(ErrorCode::BadRequest, text)),
        Failure::Other(error) => problem(&Error::new(ErrorCode::Internal, with_causes(error))),
        Failure::Interrupted | Failure::ClosedPipe | Failure::Exit(_) => return None,
    })
}

/// What a problem says beside its detail, for people.
fn told_beside(details: &Details) -> String {
    let holders = details.holders.iter().flatten().map(|session| format!("\n  held by session {session}"));
    let cycle = details.cycle.iter().flatten();
    let cycle = cycle.map(|edge| format!("\n  session {} waits for '{}'", edge.session, one_line(edge.lock.as_str())));
    let id = details.id.iter().filter(|_| details.outcome == Some(Outcome::Unknown)).map(|id| {
        format!(
            "\n  it may have been taken: publish it again with --id {}, and it is taken once",
            one_line(id.as_str())
        )
    });
    let version = details.version.iter().map(|version| format!("\n  it has version {}", one_line(version)));
    holders.chain(cycle).chain(id).chain(version).collect()
}

/// An error and its causes, but for those that it has told itself.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        said if said.contains(&cause) => told,
        said => format!("{said}: {cause}"),
    })
}

/// Whether a person reads stdout.
pub(super) fn to_a_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Resolves when the other end of stdout is closed. Whoever writes rarely would hear of it late.
pub(super) async fn reader_gone() {
    let (gone, is_gone) = oneshot::channel();
    // A thread and not the runtime's poll: that takes no files, and ends with nothing less than an event.
    thread::spawn(move || {
        let stdout = io::stdout();
        // Without flags it is told of errors and hang-ups only: there is no other way to an end.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        while poll(&mut watched, None) == Err(Errno::INTR) {}
        // Whoever listened may have ended meanwhile.
        let _ = gone.send(watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP));
    });
    if is_gone.await != Ok(true) {
        std::future::pending::<()>().await;
    }
}

/// Nothing can be said about a stderr that is gone.
fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", visible(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_borders_and_no_trailing_spaces() {
        let rows = [["a", "1"], ["long name", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["NAME", "COUNT"], rows), "NAME       COUNT\na          1\nlong name\n");
    }

    #[test]
    fn a_problem_carries_the_members_of_its_slug() {
        let document = problem(&Error::bad_request("ttl_ms", "too short"));
        assert_eq!(
            document,
            json!({
                "type": "bad-request", "status": 400, "detail": "too short", "field": "ttl_ms",
                "title": "The request is malformed or out of range",
            })
        );
    }

    #[test]
    fn names_cannot_give_a_terminal_orders_nor_forge_a_row() {
        let hostile = [["a\u{1b}[2J\n", "b\u{9b}31m"].map(str::to_owned)];
        assert_eq!(table(["LOCK", "OWNER"], hostile), "LOCK          OWNER\na\\u{1b}[2J\\n  b\\u{9b}31m\n");
        assert_eq!(visible("two\nlines\t"), "two\nlines\\t");
    }

    #[test]
    fn who_is_refused_a_lock_is_told_who_holds_it() {
        let mut error = Error::new(ErrorCode::LockTimeout, "it is held");
        error.details.holders = Some(vec![crate::ids::SessionId::new("s1").unwrap()]);
        assert_eq!(text_of(&error.into()).unwrap(), "lock-timeout: it is held\n  held by session s1");
    }

    #[test]
    fn who_expected_another_version_is_told_which_there_is() {
        let text = |version: Option<&str>| {
            text_of(&Error::version_mismatch(version.map(str::to_owned), "it is another one").into()).unwrap()
        };
        assert_eq!(text(Some("0102")), "version-mismatch: it is another one\n  it has version 0102");
        assert_eq!(text(None), "version-mismatch: it is another one");
        let document = problem(&Error::version_mismatch(None, "absent"));
        assert_eq!(document.get("version"), Some(&Value::Null), "{document}");
    }

    #[test]
    fn a_cause_is_told_once() {
        let refused = || io::Error::other("permission denied");
        let silent = anyhow::Error::new(refused()).context("cannot make /data");
        assert_eq!(with_causes(&silent), "cannot make /data: permission denied");
        let talkative = anyhow::Error::new(refused()).context("cannot make /data: permission denied");
        assert_eq!(with_causes(&talkative), "cannot make /data: permission denied");
    }

    #[test]
    fn the_format_is_known_even_where_the_arguments_are_wrong() {
        let format =
            |arguments: &[&str]| Format::of_arguments(&arguments.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(format(&["syncmesh", "--output", "json", "nonsense"]), Format::Json);
        assert_eq!(format(&["syncmesh", "nonsense", "--output=json"]), Format::Json);
        assert_eq!(format(&["syncmesh", "lock", "run", "x", "--", "--output=json"]), Format::Text);
    }
}
