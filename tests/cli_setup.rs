//! What is set up once on a machine: completions, manual pages, the systemd unit. Each is given to the program that it
//! is made for.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

fn syncmesh(arguments: &[&str]) -> Output {
    let command = &mut Command::new(env!("CARGO_BIN_EXE_syncmesh"));
    command.args(arguments).current_dir("/").stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn printed(arguments: &[&str]) -> String {
    let output = syncmesh(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program of the system on a text; `None` with a line that says so where it is not there.
fn given_to(program: &str, arguments: &[&str], text: &str) -> Option<Output> {
    let mut command = Command::new(program);
    let piped = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match piped.spawn() {
        Ok(child) => child,
        Err(error) => {
            skipped(&format!("needs {program}: {error}"));
            return None;
        }
    };
    let (mut stdin, text) = (child.stdin.take().unwrap(), text.to_owned());
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    Some(output)
}

fn skipped(reason: &str) {
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "cannot run here and is required: {reason}");
    println!("skipped: {reason}");
    if let Ok(list) = std::env::var("SYNCMESH_SKIPPED") {
        let mut list = fs::OpenOptions::new().append(true).open(list).unwrap();
        list.write_all(format!("{reason}\n").as_bytes()).unwrap();
    }
}

#[test]
fn bash_takes_the_completions_and_completes_with_them() {
    let script = printed(&["completions", "bash"]);
    let Some(parsed) = given_to("bash", &["-n"], &script) else { return };
    assert!(parsed.status.success() && parsed.stderr.is_empty(), "{parsed:?}");
    let completing = format!(
        "{script}\nCOMP_WORDS=(syncmesh lock rel); COMP_CWORD=2; _syncmesh syncmesh rel lock; echo \"${{COMPREPLY[@]}}\"\n"
    );
    let completed = given_to("bash", &["--norc"], &completing).unwrap();
    assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "release", "{completed:?}");
}

#[test]
fn there_are_completions_for_every_shell_and_no_other() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(printed(&["completions", shell]).contains("peer-info"), "{shell}");
    }
    let refused = syncmesh(&["completions", "tcsh"]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{refused:?}");
}

/// A page as `man` shows it, without its overstrikes.
fn rendered(page: &str) -> Option<String> {
    let output = given_to("groff", &["-Kutf8", "-man", "-Tutf8", "-P-c", "-P-b", "-P-u", "-ww"], page)?;
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_manual_pages_render_without_a_complaint() {
    let Some(top) = rendered(&printed(&["man"])) else { return };
    assert!(
        top.contains("SYNCMESH(1)")
            && top.contains(concat!("syncmesh ", env!("CARGO_PKG_VERSION")))
            && top.contains("Exit codes")
            && top.contains("peer-info"),
        "{top}"
    );
    let page = rendered(&printed(&["man", "lock", "run"])).unwrap();
    assert!(page.contains("syncmesh-lock-run") && page.contains("--kill-after"), "{page}");

    let refused = syncmesh(&["man", "lock", "dance"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("no command 'dance'") && said.contains("release"), "{said}");
}

#[test]
fn all_pages_can_be_written_for_man_to_find() {
    let dir = TempDir::new().unwrap();
    let pages = dir.path().join("man1");
    let said = printed(&["--output", "json", "man", "--dir", pages.to_str().unwrap()]);
    let names: Vec<String> =
        serde_json::from_value(serde_json::from_str::<serde_json::Value>(&said).unwrap()["pages"].clone()).unwrap();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        let page = fs::read_to_string(pages.join(&name)).unwrap();
        if rendered(&page).is_none() {
            return;
        }
    }
}

#[test]
fn systemd_takes_the_unit_and_finds_it_closed() {
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/syncmesh.service")).unwrap();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("syncmesh.service");
    fs::write(&file, unit.replace("/usr/local/bin/syncmesh", env!("CARGO_BIN_EXE_syncmesh"))).unwrap();
    let file = file.to_str().unwrap();
    let Some(verified) = given_to("systemd-analyze", &["verify", "--man=no", file], "") else { return };
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    // The threshold is in tenths of the ten points of exposure.
    let security = ["security", "--no-pager", "--offline=true", "--threshold=20", file];
    let closed = given_to("systemd-analyze", &security, "").unwrap();
    assert!(closed.status.success(), "{}", String::from_utf8_lossy(&closed.stdout));

    let setting = |name: &str| -> &str {
        unit.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("{name} in {unit}"))
    };
    let grace = printed(&["--output", "json", "config", "show"]);
    let grace: serde_json::Value = serde_json::from_str(&grace).unwrap();
    let grace =
        grace["settings"].as_array().unwrap().iter().find(|one| one["name"] == "SHUTDOWN_GRACE").unwrap()["value"]
            .as_u64()
            .unwrap();
    let patience: u64 = setting("TimeoutStopSec").parse().unwrap();
    assert!(patience > grace, "systemd kills after {patience} s a node that drains for {grace} s");
    assert!(setting("RestartPreventExitStatus").split(' ').any(|code| code == "78"));
}
