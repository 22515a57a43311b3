//! `completions` and `man`: what shells and `man` are to know of the commands, made from the commands themselves.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man as Page;

use super::{Cli, Context, Failure};

/// The name under which the program is called.
const PROGRAM: &str = "syncmesh";

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), PROGRAM, &mut script);
        context.output.raw(&script)
    }
}

/// The arguments of `man`.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The command that the page is about, such as lock run; without it, the program.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write the pages of all commands into this directory, such as /usr/local/share/man/man1.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let root = built();
        if let Some(dir) = self.dir {
            let names = write_all(&root, &dir)?;
            return context.output.result(&serde_json::json!({"dir": dir, "pages": names}), || {
                format!("wrote {} pages into {}\n", names.len(), dir.display())
            });
        }
        let mut command = &root;
        for name in &self.command {
            command = command.find_subcommand(name).ok_or_else(|| {
                let known = command.get_subcommands().filter(|known| !known.is_hide_set());
                let known: Vec<&str> = known.map(Command::get_name).collect();
                let there = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Failure::Usage(format!("there is no command '{name}' here; there is {there}"))
            })?;
        }
        context.output.raw(&page(command)?)
    }
}

/// The commands with the names that they have on their pages: `syncmesh-lock-run`.
fn built() -> Command {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    root
}

fn page(command: &Command) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    // No date: the page is the same whenever it is made, and the version says how old it is. An empty one would be left out
    // of the line, and what follows it taken for the date.
    Page::new(command.clone())
        .title(file_stem(command).to_uppercase())
        .date(" ")
        .source(format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION")))
        .manual("Syncmesh Manual")
        .render(&mut text)
        .context("the page cannot be made")?;
    Ok(text)
}

fn file_stem(command: &Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

/// Writes the page of every command, and returns the names of the files.
fn write_all(root: &Command, dir: &Path) -> Result<Vec<String>, Failure> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut names = Vec::new();
    let mut left = vec![root];
    while let Some(command) = left.pop() {
        let name = format!("{}.1", file_stem(command));
        let path = dir.join(&name);
        fs::write(&path, page(command)?).with_context(|| format!("cannot write {}", path.display()))?;
        names.push(name);
        left.extend(command.get_subcommands().filter(|command| !command.is_hide_set()));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_names_it_and_shows_its_flags() {
        let dir = tempfile::TempDir::new().unwrap();
        let names = write_all(&built(), dir.path()).unwrap();
        for name in ["syncmesh.1", "syncmesh-lock-run.1", "syncmesh-debug-bundle.1", "syncmesh-man.1"] {
            assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
        }
        let heading = |file: &str, title: &str| {
            let page = fs::read_to_string(dir.path().join(file)).unwrap();
            let heading = format!(".TH {title} 1 \" \" \"syncmesh {}\" \"Syncmesh Manual\"", env!("CARGO_PKG_VERSION"));
            let found: Vec<&str> = page.lines().filter(|line| line.starts_with(".TH")).collect();
            assert!(found.len() == 1 && found[0].trim_end() == heading, "{found:?}");
        };
        heading("syncmesh.1", "SYNCMESH");
        heading("syncmesh-lock-run.1", "SYNCMESH-LOCK-RUN");
        let run = fs::read_to_string(dir.path().join("syncmesh-lock-run.1")).unwrap();
        assert!(run.contains("syncmesh\\-lock\\-run") && run.contains("kill\\-after"), "{run}");
    }
}
