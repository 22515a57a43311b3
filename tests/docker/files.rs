//! The container files agree with the program and with each other. Reads files only: no engine and no image is needed.

use std::{collections::BTreeSet, fs, path::Path};

/// How many containers to start: read by docker-compose itself, no setting of a node.
const COUNTS: [&str; 3] = ["LOCK_MANAGERS", "QUEUE_NODES", "CACHE_NODES"];
/// What the image is built with, no setting of a node either.
const BUILD: [&str; 1] = ["REVISION"];

pub(crate) fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The variables on active lines of `.env.example`, but for the counts.
fn tuning_settings() -> BTreeSet<String> {
    let example = text(".env.example");
    let active = example.lines().filter(|line| !line.starts_with('#'));
    let names = active.filter_map(|line| line.split_once('=')).map(|(name, _)| name.to_owned());
    names.filter(|name| !COUNTS.contains(&name.as_str())).collect()
}

/// The section of `.env.example` under a heading that begins so.
fn section(heading: &str) -> String {
    let example = text(".env.example");
    let (_, rest) = example.split_once(&format!("# --- {heading}")).unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n# --- ").next().expect("split gives at least one part").to_owned()
}

/// The lines `NAME=value` of a section, commented or not, with whether they are explained in the line before.
fn assignments(section: &str) -> Vec<(String, String, bool)> {
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let lines: Vec<&str> = section.lines().collect();
    let pairs = lines.iter().enumerate().filter_map(|(at, line)| {
        let (name, value) = line.strip_prefix("# ").unwrap_or(line).split_once('=')?;
        let is_explained = at > 0 && lines[at - 1].starts_with("# ");
        is_name(name).then(|| (name.to_owned(), value.to_owned(), is_explained))
    });
    pairs.collect()
}

/// The variables that the compose file reads (`${NAME:-default}`), with their defaults.
fn read_by_compose() -> BTreeSet<(String, String)> {
    let compose = text("docker-compose.yml");
    let variables = compose.split("${").skip(1).map(|rest| rest.split_once('}').expect("a brace is closed").0);
    let pairs = variables.map(|variable| variable.split_once(":-").expect("a variable has a default"));
    pairs.map(|(name, default)| (name.to_owned(), default.to_owned())).collect()
}

/// The settings of one node in `.env.example`.
fn node_settings() -> BTreeSet<String> {
    assignments(&section("One node's own")).into_iter().map(|(name, _, _)| name).collect()
}

/// The lines `NAME: value` of a compose file whose name is written like a variable.
fn environment(compose: &str) -> Vec<(String, String)> {
    let pairs = compose.lines().filter_map(|line| line.trim().split_once(": "));
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    pairs
        .filter(|(name, _)| is_name(name) && !BUILD.contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn compose_hands_every_tuning_setting_on_and_decides_the_others_itself() {
    let environment = environment(&text("docker-compose.yml"));
    let handed_on: BTreeSet<String> = environment
        .iter()
        .filter(|(name, value)| *value == format!("${{{name}:-}}"))
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(handed_on, tuning_settings(), "docker-compose.yml and .env.example name different tuning settings");
    let node = node_settings();
    assert!(!node.is_empty());
    for (name, value) in environment.iter().filter(|(name, _)| !handed_on.contains(name)) {
        assert!(node.contains(name), "docker-compose.yml sets {name}={value}, which is no setting of one node");
    }
}

#[test]
fn each_variable_that_compose_reads_is_explained_in_the_example() {
    let of_compose = assignments(&section("For docker-compose only"));
    let mut explained: BTreeSet<(String, String)> =
        of_compose.iter().map(|(name, default, _)| (name.clone(), default.clone())).collect();
    // What is empty keeps the default of the node.
    let of_nodes = tuning_settings().into_iter().chain(["BOOTSTRAP_EXPECT".to_owned()]);
    explained.extend(of_nodes.map(|name| (name, String::new())));
    assert_eq!(
        read_by_compose(),
        explained,
        "docker-compose.yml and .env.example name different variables or defaults"
    );
    for (name, _, is_explained) in of_compose {
        assert!(is_explained, "nothing says what {name} is");
    }
}

#[test]
fn the_founder_waits_for_as_many_lock_managers_as_are_started() {
    let compose = text("docker-compose.yml");
    assert!(compose.contains("BOOTSTRAP_EXPECT: ${LOCK_MANAGERS:-3}"));
    for count in COUNTS {
        assert!(compose.contains(&format!("scale: ${{{count}:-3}}")), "{count} is not read");
        assert!(text(".env.example").lines().any(|line| line == format!("{count}=3")));
    }
}

#[test]
fn the_api_is_published_on_loopback_only_and_nothing_else_is() {
    let compose = text("docker-compose.yml");
    let published: Vec<&str> = compose
        .lines()
        .skip_while(|line| line.trim() != "ports:")
        .skip(1)
        .take_while(|line| line.contains("- "))
        .collect();
    assert_eq!(published.len(), 1, "{published:?}");
    assert!(published[0].trim().starts_with("- 127.0.0.1:"), "{published:?}");
    assert_eq!(compose.matches("ports:").count(), 1);
}

#[test]
fn the_image_needs_no_frontend_and_no_package_and_no_root() {
    let dockerfile = text("Dockerfile");
    assert!(!dockerfile.contains("syntax="), "a frontend is an image of its own to pull");
    assert!(!dockerfile.contains("apt-get"));
    let last = dockerfile.rsplit("\nFROM ").next().expect("rsplit gives at least one part");
    let user = last.lines().find_map(|line| line.strip_prefix("USER ")).expect("the last stage names a user");
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "USER {user}");
}

#[test]
fn the_image_says_what_it_is() {
    let dockerfile = text("Dockerfile");
    let version = concat!("ARG VERSION=", env!("CARGO_PKG_VERSION"));
    assert!(dockerfile.lines().any(|line| line == version), "the Dockerfile does not say '{version}'");
    for label in ["version=\"$VERSION\"", "revision=\"$REVISION\""] {
        assert!(dockerfile.contains(&format!("org.opencontainers.image.{label}")), "{label}");
    }
}

#[test]
fn each_service_of_nodes_has_a_volume_and_a_health_check_and_no_right_it_does_not_need() {
    let compose = text("docker-compose.yml");
    let (_, services) = compose.split_once("\nservices:\n").expect("services");
    let (services, volumes) = services.split_once("\nvolumes:\n").expect("volumes");
    for service in ["bootstrap", "lock-manager", "queue-node", "cache-node"] {
        let (_, rest) = services
            .split_once(&format!("\n  {service}:\n"))
            .or_else(|| services.split_once(&format!("  {service}:\n")))
            .expect(service);
        let of_it =
            rest.lines().take_while(|line| line.starts_with("    ") || line.is_empty() || line.starts_with("  #"));
        let of_it: Vec<&str> = of_it.map(str::trim).collect();
        let volume = format!("{service}-data");
        assert!(of_it.contains(&format!("- {volume}:/var/lib/syncmesh").as_str()), "{service}: {of_it:?}");
        assert!(volumes.lines().any(|line| line.trim() == format!("{volume}:")), "{volume}");
        assert!(of_it.contains(&"<<: *node"), "{service}: {of_it:?}");
        assert!(of_it.contains(&"test: [\"CMD\", \"syncmesh\", \"health\", \"--ready\"]"), "{service}: {of_it:?}");
    }
    for right in
        ["read_only: true", "no-new-privileges:true", "- ALL", "restart: unless-stopped", "stop_grace_period: 60s"]
    {
        assert!(compose.matches(right).count() >= 2, "nodes and redis have '{right}'");
    }
}

#[test]
fn the_build_uses_the_toolchain_that_the_images_script_expects() {
    let dockerfile = text("Dockerfile");
    let images: Vec<&str> = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    assert_eq!(images.len(), 2, "{images:?}");
    assert!(images[0].starts_with("rust:") && images[0].contains("-slim-bookworm"), "{images:?}");
    assert_eq!(images[1], "debian:bookworm-slim", "the libc of the last image is the one that the build linked with");
}

#[test]
fn only_what_the_dockerfile_copies_is_sent_to_the_builder() {
    let ignore = text(".dockerignore");
    let allowed: BTreeSet<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*"));
    let dockerfile = text("Dockerfile");
    let copies =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    for line in copies {
        let words: Vec<&str> = line.split_whitespace().collect();
        for source in &words[..words.len() - 1] {
            assert!(allowed.contains(source), "COPY {source}: .dockerignore leaves it out");
        }
    }
}

#[test]
fn prometheus_is_told_of_every_service_of_nodes_and_of_one_way_at_a_time() {
    let scrape = text("docs/prometheus.yml");
    let names = scrape.lines().find_map(|line| line.split_once("names: [")).expect("the services are named").1;
    let names: BTreeSet<&str> = names.trim_end_matches(']').split(", ").collect();
    let compose = text("docker-compose.yml");
    let (_, services) = compose.split_once("\nservices:\n").expect("services");
    let mut service = "";
    let mut of_nodes = BTreeSet::new();
    for line in services.lines() {
        match line.strip_prefix("  ").and_then(|line| line.strip_suffix(':')) {
            Some(name) if !name.starts_with(' ') => service = name,
            _ if line.trim() == "<<: *node" => _ = of_nodes.insert(service),
            _ => {}
        }
    }
    assert_eq!(names, of_nodes);
    assert_eq!(scrape.lines().filter(|line| line.trim() == "- job_name: syncmesh").count(), 1, "one job is in force");
}
