//! A network of our own: namespaces for hosts, joined by a bridge in one more. Needs root and iproute2.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    ask::{Done, run, syncmesh},
    harness::NodeProcess,
};

static LAST_WIRE: AtomicU32 = AtomicU32::new(0);

/// Hosts on one Ethernet. Deleted with the value; processes in them must end first.
#[derive(Debug)]
pub(crate) struct Lan {
    /// Begins the names of all namespaces, so that runs do not meet.
    prefix: String,
    hosts: usize,
}

/// What is lost on the way, while connections stay open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// What is sent to the host.
    ToHost,
    /// What the host sends.
    FromHost,
}

impl Direction {
    fn rule(self) -> &'static str {
        match self {
            Self::ToHost => "INPUT -i eth0 -j DROP",
            Self::FromHost => "OUTPUT -o eth0 -j DROP",
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", said.trim())) }
}

/// Whether it is there; if not, a line says why, unless all tests are required.
fn there_is(what: &str, found: Result<(), String>) -> bool {
    let Err(reason) = found else { return true };
    let are_required = std::env::var("REQUIRE_ALL").is_ok_and(|value| value == "1");
    assert!(!are_required, "{what}: required, and not to be had: {reason}");
    crate::harness::skipped(&format!("needs {what}: {reason}"));
    false
}

impl Lan {
    /// So many hosts, 10.77.0.1 and on; or none with a line that says why, unless all tests are required.
    pub(crate) fn of(name: &str, hosts: usize) -> Option<Self> {
        let lan = Self { prefix: format!("sm{}{name}", std::process::id() % 100_000), hosts };
        there_is("network namespaces", lan.build()).then_some(lan)
    }

    /// Whether packets can be lost one way; if not, a line says why, unless all tests are required.
    pub(crate) fn can_lose(&self) -> bool {
        there_is("iptables", ip(&format!("netns exec {} iptables -L -n", self.host(0))))
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

    /// Loses what goes one way, on the Ethernet only.
    pub(crate) fn lose(&self, nth: usize, direction: Direction) {
        ip(&format!("netns exec {} iptables -A {}", self.host(nth), direction.rule())).unwrap();
    }

    /// Loses it no more.
    pub(crate) fn lose_no_more(&self, nth: usize, direction: Direction) {
        ip(&format!("netns exec {} iptables -D {}", self.host(nth), direction.rule())).unwrap();
    }

    /// A wire of its own from the tests to a host, beside the Ethernet, so that its API can be asked while it is cut off; the
    /// address of the host on it. Nothing is forwarded from one to the other.
    pub(crate) fn wire(&self, nth: usize) -> Ipv4Addr {
        /// Of carrier-grade NAT, which no host routes by itself; /30 each, sixteen at a time in a run of the tests.
        const WIRES: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
        let number = ((std::process::id() & 0xffff) << 4) | (LAST_WIRE.fetch_add(1, Ordering::Relaxed) & 0xf);
        let address = |end: u32| Ipv4Addr::from_bits(WIRES.to_bits() | (number << 2) | end);
        let (space, here) = (self.host(nth), format!("{}w{nth}", self.prefix));
        let build = || {
            ip(&format!("link add {here} type veth peer name wire netns {space}"))?;
            ip(&format!("addr add {}/30 dev {here}", address(1)))?;
            ip(&format!("link set {here} up"))?;
            ip(&format!("-n {space} addr add {}/30 dev wire", address(2)))?;
            ip(&format!("-n {space} link set wire up"))
        };
        build().unwrap();
        address(2)
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
