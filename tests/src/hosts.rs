//! Hosts in network namespaces, and links between them that can be cut: what is sent over a link that is cut vanishes, and neither
//! end is told.
//!
//! A machine that does not permit it says what is missing.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A host's end of its link.
const DEVICE: &str = "line";

/// Whether this process may make hosts.
///
/// # Errors
///
/// What to do if it may not.
pub fn permitted() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        let what = "network namespaces need root; run it with sudo";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok(())
}

/// One host: a namespace with an address. It is removed when dropped.
#[derive(Debug)]
pub struct Host {
    namespace: String,
    address: Ipv4Addr,
}

impl Host {
    /// Adds the host `name` of `world`.
    ///
    /// # Errors
    ///
    /// What `ip` says, and what to install or to permit.
    pub fn add(world: &str, name: &str, address: Ipv4Addr) -> io::Result<Self> {
        let namespace = format!("{world}{}-{name}", std::process::id());
        let what = "network namespaces (a container needs CAP_SYS_ADMIN and CAP_NET_ADMIN)";
        ip(&["netns", "add", &namespace]).map_err(|error| not_permitted(what, error))?;
        let host = Self { namespace, address };
        ip(&["-n", &host.namespace, "link", "set", "lo", "up"])?;
        Ok(host)
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Moves the calling thread here: its sockets, and the programs that it starts, are this host's from now on.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn enter(&self) -> io::Result<()> {
        let namespace = File::open(Path::new("/run/netns").join(&self.namespace))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// A program on this host, as a command line.
    pub fn command(&self, program: &str) -> Vec<String> {
        let command = ["ip", "netns", "exec", &self.namespace, program];
        command.map(str::to_owned).to_vec()
    }

    /// Links this host with `hub`, which gets an address beside this host's.
    ///
    /// # Errors
    ///
    /// What `ip` says.
    pub fn link_with(&self, hub: &Self) -> io::Result<()> {
        let (here, there) = (&*self.namespace, &*hub.namespace);
        let [a, b, c, d] = self.address.octets();
        let name = format!("to-{c}");
        let beside = Ipv4Addr::new(a, b, c, d.wrapping_add(1));
        let hardware = format!("02:00:00:00:{c:02x}:{d:02x}");
        let add = ["-n", there, "link", "add", &name, "type", "veth", "peer"];
        let peer = ["name", DEVICE, "address", &hardware, "netns", here];
        let what = "pairs of virtual devices (the kernel's veth)";
        ip(&[&add[..], &peer[..]].concat()).map_err(|error| not_permitted(what, error))?;
        for (namespace, device, address) in [(there, &*name, beside), (here, DEVICE, self.address)]
        {
            let address = format!("{address}/24");
            ip(&["-n", namespace, "addr", "add", &address, "dev", device])?;
            ip(&["-n", namespace, "link", "set", device, "up"])?;
        }
        // It need not be asked for, so nobody learns that it does not answer.
        let address = self.address.to_string();
        let known = ["nud", "permanent", "dev", &name];
        let neighbour = ["-n", there, "neigh", "add", &address, "lladdr", &hardware];
        ip(&[&neighbour[..], &known[..]].concat())
    }

    /// Cuts the link, or mends it.
    ///
    /// # Errors
    ///
    /// What `ip` says.
    pub fn set_linked(&self, linked: bool) -> io::Result<()> {
        let state = if linked { "up" } else { "down" };
        ip(&["-n", &self.namespace, "link", "set", DEVICE, state])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.namespace]) {
            eprintln!("{}: {error}", self.namespace);
        }
    }
}

/// Where a program is.
#[derive(Clone, Debug)]
pub struct Site {
    /// What it is started by: its own name, or that behind what brings it to its host.
    pub command: Vec<String>,
    pub address: IpAddr,
}

impl Site {
    /// In this namespace.
    pub fn here(program: &str) -> Self {
        Self {
            command: vec![program.to_owned()],
            address: Ipv4Addr::new(127, 0, 0, 5).into(),
        }
    }

    pub fn on(host: &Host, program: &str) -> Self {
        Self {
            command: host.command(program),
            address: host.address().into(),
        }
    }
}

/// Why `what` could not be made, unless there is no `ip` at all.
fn not_permitted(what: &str, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => error,
        kind => io::Error::new(
            kind,
            format!("this machine does not permit {what}: {error}"),
        ),
    }
}

/// Runs `ip`.
fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| {
            let what = "ip could not be started; install it: apt-get install iproute2";
            io::Error::new(error.kind(), format!("{what} ({error})"))
        })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "ip {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}
