//! The docker engine: is there one, are the images that a build starts from, and a command of it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::ask::{Done, run};

/// What of the surroundings reaches docker and docker-compose: how they find the engine, and no setting of a project.
const SURROUNDINGS: [&str; 9] = [
    "PATH",
    "HOME",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "DOCKER_BUILDKIT",
    "COMPOSE_DOCKER_CLI_BUILD",
];

/// The folder of the project's files.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// A command in the project's folder.
pub(crate) fn command(words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().expect("a program");
    let mut command = Command::new(program);
    let kept = SURROUNDINGS.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.args(arguments).current_dir(root()).env_clear().envs(kept).stdin(std::process::Stdio::null());
    command
}

/// What a command of docker says.
#[track_caller]
pub(crate) fn docker(words: &[&str]) -> impl Future<Output = String> {
    let caller = std::panic::Location::caller();
    let whole = [&["docker"], words].concat();
    async move {
        let done = run(command(&whole)).await;
        assert_eq!(done.code, 0, "{caller}: {whole:?}: {done:?}");
        done.stdout.trim().to_owned()
    }
}

/// The program that drives a project: `COMPOSE` from the environment, else whichever is there.
pub(crate) fn compose_program() -> Result<Vec<String>, String> {
    let wanted = std::env::var("COMPOSE").ok().filter(|words| !words.is_empty());
    let candidates =
        wanted.map_or_else(|| vec!["docker-compose".to_owned(), "docker compose".to_owned()], |one| vec![one]);
    for candidate in &candidates {
        let words: Vec<&str> = candidate.split(' ').collect();
        if command(&[&words[..], &["version"]].concat()).output().is_ok_and(|output| output.status.success()) {
            return Ok(words.into_iter().map(str::to_owned).collect());
        }
    }
    Err(format!("none of {candidates:?} can be run"))
}

/// Whether an engine answers.
pub(crate) fn answers() -> Result<(), String> {
    let output = command(&["docker", "info", "--format", "{{.ServerVersion}}"]).output();
    let output = output.map_err(|error| format!("docker cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Newer clients exit with 0 where no engine answers.
    let is_there = output.status.success() && !output.stdout.trim_ascii().is_empty();
    if is_there { Ok(()) } else { Err(format!("no docker engine answers: {}", said.trim())) }
}

/// Sees to it that the images are there that the Dockerfile and the compose file name.
pub(crate) async fn base_images() {
    let script = root().join("tests/docker/base-images.sh");
    let mut command = command(&[script.to_str().unwrap()]);
    // The toolchain that an image is made of is that of the tests.
    command.envs(
        ["RUSTUP_HOME", "CARGO_HOME", "RUSTUP_TOOLCHAIN"]
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    let made: Done = run(command).await;
    assert_eq!(made.code, 0, "{made:?}");
}
