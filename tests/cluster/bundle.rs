//! `debug bundle` at a cluster that has secrets, and at one that has lost nodes.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use reqwest::Method;
use serde_json::Value;

use crate::{
    ask::Done,
    harness::{Cluster, eventually, holds},
    redis_server::RedisServer,
};

const TOKEN: &str = "token-that-nobody-sees-4711";
const PASSWORD: &str = "password-that-nobody-sees-0815";

/// The files of an archive, by their names without the directory that they all lie in.
fn unpacked(archive: &Path) -> BTreeMap<String, String> {
    let dir = tempfile::TempDir::new().unwrap();
    let unpacked = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(dir.path()).stdin(Stdio::null()).output();
    let unpacked = unpacked.unwrap();
    assert!(unpacked.status.success() && unpacked.stderr.is_empty(), "{unpacked:?}");
    let root = dir.path().join("syncmesh-debug");
    let (mut files, mut folders) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "it unpacks into one directory");
    files
}

fn json(files: &BTreeMap<String, String>, name: &str) -> Value {
    serde_json::from_str(&files[name]).unwrap_or_else(|error| panic!("{name}: {error}"))
}

async fn bundle(cluster: &Cluster, nth: usize, file: &Path, flags: &[&str]) -> Done {
    let arguments = [flags, &["debug", "bundle", file.to_str().unwrap()]].concat();
    cluster.nodes[nth].cli(&arguments).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_has_what_a_report_needs_and_no_secret() {
    let Some(mut redis) = RedisServer::start_with(&[("requirepass", PASSWORD)]) else { return };
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}/0", redis.port());
    let settings = [("API_TOKEN", TOKEN), ("REDIS_URL", url.as_str()), ("RUST_LOG", "debug")];
    let cluster = Cluster::with(3, &settings).await;
    let cli = async |arguments: &[&str]| cluster.nodes[0].cli(&[&["--token", TOKEN], arguments].concat()).await;
    eventually("a message is taken", async || {
        let done = cli(&["queue", "publish", "invoices", "payload-that-nobody-sees"]).await;
        holds(done.code == 0, format!("{done:?}"))
    })
    .await;
    // What goes wrong with Redis is what its address could be logged with.
    redis.kill();
    eventually("the loss of Redis is noticed", async || {
        let done = cli(&["health", "--ready"]).await;
        holds(done.code == 1 && done.stdout.contains("Redis"), format!("{done:?}"))
    })
    .await;
    // Without it the queues cannot be listed.
    redis.launch();
    eventually("the queues are served again", async || {
        let done = cli(&["queue", "list"]).await;
        let ready = cli(&["health", "--ready"]).await;
        holds(done.code == 0 && ready.code == 0, format!("{done:?}, {ready:?}"))
    })
    .await;

    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("report.tar.gz");
    let done = bundle(&cluster, 0, &file, &["--token", TOKEN]).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert!(done.stdout.starts_with(&format!("wrote {} (", file.display())), "{done:?}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let files = unpacked(&file);
    let me = cluster.nodes[0].peer_id();
    assert!(files["ABOUT.txt"].contains(&me) && !files.contains_key("MISSING.txt"), "{:?}", files.keys());
    assert_eq!(json(&files, "node.json")["peer_id"], *me);
    assert_eq!(json(&files, "cluster.json")["members"].as_array().unwrap().len(), 3);
    assert_eq!(json(&files, "queues.json")["queues"][0]["queue"], "invoices");
    assert_eq!(json(&files, "readyz.json")["ready"], true);
    assert!(json(&files, "cache.json")["nodes"].is_array());
    assert!(files["metrics.txt"].contains("syncmesh_http_requests_total"));
    assert!(files["logs.txt"].contains("starts") && files["logs.txt"].contains(&me));
    for node in &cluster.nodes[1..] {
        let peer = node.peer_id();
        assert_eq!(json(&files, &format!("members/{peer}/node.json"))["peer_id"], *peer);
        let logs = &files[&format!("members/{peer}/logs.txt")];
        let first = node.log().lines().next().unwrap().to_owned();
        assert!(logs.lines().any(|line| line == first) || logs.starts_with('('), "'{first}' in {logs}");
    }
    let config = json(&files, "config.json");
    let setting = |name: &str| {
        let settings = config["settings"].as_array().unwrap();
        settings.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name} in {config}")).clone()
    };
    assert_eq!(
        (&setting("API_TOKEN")["value"], &setting("API_TOKEN")["source"]),
        (&"<redacted>".into(), &"environment".into())
    );
    assert!(setting("REDIS_URL")["value"].as_str().unwrap().contains("127.0.0.1"), "{config}");

    // As it was served too: the command takes out what it was given itself, and it was not given the password.
    let mut served = String::new();
    for path in ["/v1/node/logs", "/v1/node/config", "/v1/node", "/v1/cluster"] {
        let request = cluster.nodes[0].api.request(Method::GET, path).bearer_auth(TOKEN);
        let answer = crate::ask::Api::send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        served.push_str(&answer.body.to_string());
    }
    for secret in [TOKEN, PASSWORD, "payload-that-nobody-sees"] {
        let holder = files.iter().find(|(_, text)| text.contains(secret));
        assert!(holder.is_none(), "{secret} is in {:?}", holder.map(|(name, _)| name));
        assert!(!served.contains(secret), "{secret} is served");
    }
    let unasked = cluster.nodes[0].api.get("/v1/node/logs").await;
    assert_eq!((unasked.status, unasked.slug()), (401, "unauthorized"));

    // Whoever has one keeps it, and nobody gets half of one.
    let before = fs::read(&file).unwrap();
    let again = bundle(&cluster, 0, &file, &["--token", TOKEN]).await;
    assert!(again.code == 1 && again.stderr.contains("exists and is left as it is"), "{again:?}");
    assert_eq!(fs::read(&file).unwrap(), before);
    let refused = bundle(&cluster, 0, &dir.path().join("none"), &["--output", "json"]).await;
    assert!(refused.code == 1 && refused.stderr.contains(r#""type":"unauthorized""#), "{refused:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_names_what_is_missing_and_needs_no_quorum() {
    let mut cluster = Cluster::of(3).await;
    let lost: Vec<String> = [1, 2].map(|nth| cluster.nodes[nth].peer_id()).into();
    [1, 2].into_iter().for_each(|nth| cluster.nodes[nth].kill());
    eventually("the survivor has no leader", async || {
        let shown = cluster.nodes[0].api.cluster().await;
        holds(shown["warnings"][0]["code"] == "no-quorum", shown)
    })
    .await;
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("report.tar.gz");
    let done = bundle(&cluster, 0, &file, &[]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let files = unpacked(&file);
    for peer in &lost {
        for what in ["node.json", "logs.txt"] {
            let what = format!("members/{peer}/{what}");
            assert!(done.stderr.contains(&format!("could not collect {what}: unavailable: ")), "{done:?}");
            assert!(files["MISSING.txt"].contains(&what), "{}", files["MISSING.txt"]);
        }
    }
    assert!(done.stdout.contains("could not be collected"), "{done:?}");
    assert_eq!(json(&files, "cluster.json")["warnings"][0]["code"], "no-quorum");

    let written = bundle(&cluster, 0, &dir.path().join("b"), &["--output", "json"]).await;
    let document: Value = serde_json::from_str(&written.stdout).unwrap();
    assert!(document["missing"].as_object().unwrap().len() >= 4 && document["entries"].is_array(), "{document}");

    cluster.nodes[0].kill();
    let nobody = bundle(&cluster, 0, &dir.path().join("c"), &[]).await;
    assert_eq!(nobody.code, 5, "{nobody:?}");
    assert!(!dir.path().join("c").exists());
}
