//! A network of our own: namespaces for hosts, joined by a bridge in one more. Needs root and iproute2.

use std::process::{Command, Stdio};

use crate::{
    ask::{Done, run, syncmesh},
    harness::NodeProcess,
};

/// Hosts on one Ethernet. Deleted with the value; processes in them must end first.
#[derive(Debug)]
pub(crate) struct Lan {
    /// Begins the names of all namespaces, so that runs do not meet.
    prefix: String,
    hosts: usize,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", said.trim())) }
}

impl Lan {
    /// So many hosts, 10.77.0.1 and on; or none with a line that says why, unless all tests are required.
    pub(crate) fn of(name: &str, hosts: usize) -> Option<Self> {
        let lan = Self { prefix: format!("sm{}{name}", std::process::id() % 100_000), hosts };
        match lan.build() {
            Ok(()) => Some(lan),
            Err(reason) if std::env::var("REQUIRE_ALL").is_ok_and(|value| value == "1") => {
                panic!("network namespaces are required and cannot be made: {reason}")
            }
            Err(reason) => {
                crate::harness::skipped(&format!("needs network namespaces: {reason}"));
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let prefix = &self.prefix;
        // In a namespace of its own, where no firewall of this machine looks at what is bridged.
        ip(&format!("netns add {prefix}"))?;
        ip(&format!("-n {prefix} link add lan type bridge"))?;
        ip(&format!("-n {prefix} link set lan up"))?;
        for host in 0..self.hosts {
            let space = self.host(host);
            ip(&format!("netns add {space}"))?;
            ip(&format!("-n {space} link add eth0 type veth peer name port{host} netns {prefix}"))?;
            ip(&format!("-n {prefix} link set port{host} master lan"))?;
            ip(&format!("-n {prefix} link set port{host} up"))?;
            ip(&format!("-n {space} addr add {}/24 dev eth0", Self::address(host)))?;
            ip(&format!("-n {space} link set lo up"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
        }
        Ok(())
    }

    fn host(&self, nth: usize) -> String {
        format!("{}h{nth}", self.prefix)
    }

    pub(crate) fn address(nth: usize) -> String {
        format!("10.77.0.{}", nth + 1)
    }

    /// Cuts a host off: what it sends and what is sent to it vanishes, and no connection is closed.
    pub(crate) fn cut_off(&self, nth: usize) {
        self.set_port(nth, "nomaster");
    }

    /// Joins it to the others again.
    pub(crate) fn heal(&self, nth: usize) {
        self.set_port(nth, "master lan");
    }

    fn set_port(&self, nth: usize, to: &str) {
        ip(&format!("-n {} link set port{nth} {to}", self.prefix)).unwrap();
    }

    fn inside(&self, nth: usize, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.host(nth)]).arg(command.get_program()).args(command.get_args());
        inside.env_clear();
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
        inside
    }

    /// Starts a node on a host.
    pub(crate) fn launch(&self, nth: usize, node: &mut NodeProcess) {
        let mut command = self.inside(nth, &node.piped_command());
        node.log_into(&mut command);
        node.launch_as(command);
    }

    /// Runs a command of the program on a host, against the node there.
    pub(crate) async fn cli(&self, nth: usize, arguments: &[&str]) -> Done {
        run(self.inside(nth, &syncmesh(arguments))).await
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // What was not made cannot be deleted.
        (0..self.hosts).for_each(|nth| drop(ip(&format!("netns delete {}", self.host(nth)))));
        drop(ip(&format!("netns delete {}", self.prefix)));
    }
}
