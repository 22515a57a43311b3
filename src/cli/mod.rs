//! The terminal edge: commands, their flags, exit codes.
//!
//! One file a group of commands. Each has a `clap` type with `run(self, &Context) -> Result<(), Failure>`;
//! [`output`] alone prints. Commands talk HTTP to a node; only `node` and `dev` start one.

mod bench;
mod cache;
mod cluster;
mod completions;
mod config;
mod debug;
mod dev;
mod events;
mod flags;
mod init;
mod leave;
mod lock;
mod lock_run;
mod node;
pub mod output;
mod peer_info;
mod queue;
mod queue_placement;
mod recover;
mod remote;
mod serve;
mod snapshot;
mod watch;

use std::{collections::BTreeMap, ffi::OsString, future::Future, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use self::flags::{SettingFlags, TuningFlags};
use self::output::{Format, Output};
use crate::{
    config::{ClientTarget, Faults, Secret, Source, Sources, given_secrets},
    error::Error,
};

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is invalid: 78.
    Configuration(Faults),
    /// An operation failed: the exit code of its [`ErrorCode`](crate::error::ErrorCode).
    Operation(Error),
    /// A combination of arguments that clap cannot see is wrong: 2.
    Usage(String),
    /// Ctrl-C: 130.
    Interrupted,
    /// Nobody reads the output any more, which is no error: 0.
    ClosedPipe,
    /// All that was to be said has been said: this code.
    Exit(u8),
    /// Anything else: 1.
    Other(anyhow::Error),
}

impl Failure {
    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 78,
            Self::Operation(error) => error.code.exit_code(),
            Self::Usage(_) => 2,
            Self::Interrupted => 130,
            Self::ClosedPipe => 0,
            Self::Exit(code) => *code,
            Self::Other(_) => 1,
        }
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Self::Configuration(faults)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Operation(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Peer-to-peer nodes that give applications distributed locks, queues and a coherent cache.
///
/// Begin with `syncmesh dev`: a whole cluster on this machine. When something is wrong, ask `syncmesh
/// status` at any node what the cluster knows, `syncmesh peer-info` what one node sees, and `syncmesh
/// health --ready` why it is not ready.
#[derive(Debug, Parser)]
#[command(name = "syncmesh", version, arg_required_else_help = true, propagate_version = true)]
#[command(after_long_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What scripts go by.
const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong usage
  3    not found, nothing to receive, a key that is absent
  4    session expired, not the holder, not granted in time, deadlock, a receipt that is too late, another
       version
  5    queue full, not durable now, no quorum, no node, no answer
  78   invalid configuration
  130  Ctrl-C (0 for what goes on until then: node, dev, events, lock watch, queue consume, --watch)
`health` knows 0 and 1 only, `lock run` has its own: `syncmesh lock run --help`";

/// The heading of the flags below in every command's help.
const GLOBAL: &str = "Flags of every command";

/// Flags that every command takes.
#[derive(Debug, Args)]
struct Global {
    /// text: tables for people; json: one line, errors too (as problem documents on stderr).
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT", help_heading = GLOBAL)]
    #[arg(hide_possible_values = true)]
    output: Format,
    /// The node to talk to, as http://host:port or host:port [env: SYNCMESH_URL; default: from API_ADDR].
    #[arg(long, global = true, value_name = "URL", help_heading = GLOBAL)]
    url: Option<String>,
    /// The bearer token of that node [env: API_TOKEN].
    #[arg(long, global = true, value_name = "TOKEN", help_heading = GLOBAL)]
    token: Option<String>,
    /// Read this file in place of .env in the working directory.
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    env_file: Option<PathBuf>,
}

/// The commands, one file a group.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node.
    ///
    /// It looks for its cluster at --bootstrap and, with MDNS on, on the local network, and waits where it
    /// finds none: exactly one node of a new cluster is given --bootstrap-expect and founds it. It serves
    /// HTTP on API_ADDR, keeps its identity and its log in DATA_DIR, and logs to stderr. SIGTERM drains and
    /// ends it with 0, a second signal ends it at once.
    Node(node::RunNode),
    /// Run a whole cluster on this machine, in one process, over real sockets.
    Dev(dev::Dev),
    /// Show or check the configuration, or print an example with every setting.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Make the bootstrap bundle: a cluster key and an empty list of peers.
    Init(init::Init),
    /// Acquire, release, watch and break locks, or hold one while a command runs.
    #[command(subcommand)]
    Lock(lock::LockCommand),
    /// Publish, receive and acknowledge messages; look after queues.
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Read, store and invalidate values that all cache nodes agree on; look where they are.
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// The cluster at a glance, with what an operator ought to look at.
    ///
    /// The verdict comes first, warnings with their next steps last. Where no leader answers, it shows what
    /// the node at --url knows by itself. Exit code 0 whenever the node answers, 5 if it does not; `syncmesh
    /// health --ready` is the one to script.
    Status(cluster::Status),
    /// List, remove and admit members, leave, hand leadership over.
    Members(cluster::Members),
    /// Back locks and sessions up, and put a backup back.
    ///
    /// A backup holds sessions, the locks that they hold, delays, and the counter of the fencing tokens. Messages are
    /// in the journals of the queues, and members belong to their cluster: neither is in it.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// What a node says of itself: whom it sees, where it listens, how far its log is.
    ///
    /// Without an address, the node at --url is asked over HTTP. With one, that peer is dialled over libp2p
    /// with a throw-away identity and the cluster's key, as another node would: no node is needed here. Exit
    /// code 5 if there is no contact or the key is another one.
    PeerInfo(peer_info::PeerInfo),
    /// The cluster's events as they come, until Ctrl-C: members that come and go, new leaders, partitions of the network.
    ///
    /// A stream that breaks off is resumed after its last event, for up to a minute: a node may be restarted meanwhile.
    /// `reset` says that events were missed.
    Events(events::Events),
    /// Whether the node lives, or with --ready can serve its roles: exit code 0 or 1.
    ///
    /// For the health checks of containers and supervisors. Without --ready it asks only whether the process
    /// answers: restart it if not. With --ready it says a line a check, and why one fails: a node that is not
    /// ready is waiting for others more often than it is broken, so do not restart it for that.
    Health(cluster::Health),
    /// Load against a running cluster: throughput and latency.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Collect what a bug report needs.
    #[command(subcommand)]
    Debug(debug::DebugCommand),
    /// Print the completions for a shell.
    ///
    /// bash: `syncmesh completions bash > /etc/bash_completion.d/syncmesh`, or `source <(syncmesh completions bash)`
    /// for this shell; zsh: into a file `_syncmesh` in $fpath; fish: into ~/.config/fish/completions/syncmesh.fish.
    Completions(completions::Completions),
    /// Print the manual page of the program or of one command, or write them all with --dir.
    ///
    /// `syncmesh man lock run | man -l -` shows one; `syncmesh man --dir /usr/local/share/man/man1` installs them, and
    /// `man syncmesh-lock-run` finds it.
    Man(completions::Man),
}

impl Command {
    fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Node(command) => command.run(context),
            Self::Dev(command) => command.run(context),
            Self::Config(command) => command.run(context),
            Self::Init(command) => command.run(context),
            Self::Lock(command) => command.run(context),
            Self::Queue(command) => command.run(context),
            Self::Cache(command) => command.run(context),
            Self::Status(command) => command.run(context),
            Self::Members(command) => command.run(context),
            Self::Snapshot(command) => command.run(context),
            Self::PeerInfo(command) => command.run(context),
            Self::Events(command) => command.run(context),
            Self::Health(command) => command.run(context),
            Self::Bench(command) => command.run(context),
            Self::Debug(command) => command.run(context),
            Self::Completions(command) => command.run(context),
            Self::Man(command) => command.run(context),
        }
    }
}

/// What Ctrl-C means to a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnInterrupt {
    /// It was not done: 130.
    Fail,
    /// It would have gone on for ever, and is done: 0.
    Succeed,
}

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    /// Where results go.
    pub output: Output,
    flags: BTreeMap<&'static str, String>,
    env_file: Option<PathBuf>,
}

impl Context {
    fn new(global: Global) -> Self {
        let flags = [("SYNCMESH_URL", global.url), ("API_TOKEN", global.token)];
        Self {
            output: Output::new(global.output),
            flags: flags.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            env_file: global.env_file,
        }
    }

    /// These flags and the global ones over the environment over the `.env` file.
    pub fn sources(&self, settings: &SettingFlags) -> Sources {
        let sources = Sources::of_process(&self.flags, self.env_file.as_deref());
        settings.given().iter().fold(sources, |sources, (name, value)| sources.with(Source::Flag, name, value))
    }

    /// The node that this command talks to.
    pub fn target(&self) -> Result<ClientTarget, Failure> {
        Ok(ClientTarget::from_sources(&self.sources(&SettingFlags::default()))?)
    }

    /// What must not leave this process, of what it was given.
    pub fn secrets(&self) -> Vec<Secret> {
        given_secrets(&self.sources(&SettingFlags::default()))
    }

    /// Runs a command that waits for the network, until it is done or the user has enough.
    pub fn block_on<T: Default>(
        &self,
        on_interrupt: OnInterrupt,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.block_on_to_the_end(async {
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => match on_interrupt {
                    OnInterrupt::Fail => Err(Failure::Interrupted),
                    OnInterrupt::Succeed => Ok(T::default()),
                },
                done = work => done,
            }
        })
    }

    /// Runs a command that sees to Ctrl-C by itself.
    fn block_on_to_the_end<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| anyhow::Error::new(error).context("the asynchronous runtime cannot be started"))?;
        runtime.block_on(work)
    }
}

/// Runs the command that the arguments ask for, reports what went wrong on stderr, and says with which
/// code the process is to end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(refusal) => {
            let code = output::usage(&refusal, Format::of_arguments(&arguments));
            return if refusal.use_stderr() && is_health_check(&arguments) { ExitCode::FAILURE } else { code };
        }
    };
    let context = Context::new(cli.global);
    match cli.command.run(&context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            context.output.report(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Whether a health check was asked for, however wrongly: its callers know 0 and 1 only, and docker
/// reserves 2.
fn is_health_check(arguments: &[OsString]) -> bool {
    let lenient = Cli::command().ignore_errors(true).try_get_matches_from(arguments);
    lenient.is_ok_and(|matches| matches.subcommand_name() == Some("health"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::SETTINGS;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal() {
        fn all(command: &mut clap::Command, found: &mut Vec<String>) {
            found.push(command.render_long_help().to_string());
            command.get_subcommands_mut().for_each(|command| all(command, found));
        }
        let mut command = Cli::command();
        command.build();
        let mut helps = Vec::new();
        all(&mut command, &mut helps);
        for help in helps {
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        }
    }

    #[test]
    fn every_setting_has_a_flag_that_explains_itself() {
        let mut command = Cli::command();
        let show = command.find_subcommand_mut("config").unwrap().find_subcommand_mut("show").unwrap();
        let help = show.render_long_help().to_string();
        for setting in SETTINGS {
            assert!(help.contains(&format!("--{} ", setting.flag())), "{}", setting.name);
        }
    }

    #[test]
    fn faults_of_configuration_exit_with_78_and_a_closed_pipe_is_no_error() {
        assert_eq!(Failure::Configuration(Faults(Vec::new())).exit_code(), 78);
        assert_eq!(Failure::ClosedPipe.exit_code(), 0);
        assert_eq!(Failure::Operation(Error::no_quorum("no leader")).exit_code(), 5);
    }
}
