//! How each device is installed: names, folders, command lines, limits, as plain data. From these facts come the files in
//! `deploy/` (systemd units, a supervisor's script, an Ansible playbook, a Compose file, a k3s manifest) and what `--deploy`
//! does, so that all of them agree.

use minijinja::context;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use super::identity;
use crate::config::{Cluster, Device, System, Transport};
use crate::driver::Compiled;
use crate::emit::model::{peers, threads};
use crate::emit::steps::sanitize;
use crate::emit::templates;

/// Folder of all that is installed on a device whose services systemd runs.
pub const FOLDER: &str = "/opt/partita";

/// Longest part of a cluster's name in names of services: with the longest device, a socket's path has to be shorter than
/// 108 bytes.
const MOST_CLUSTER_BYTES: usize = 20;

/// Memory that a process needs beside what the plan counts: code, stacks, buffers of links and clients.
const BESIDE_BYTES: u64 = 64 << 20;

/// Threads of a process beside those of its program: links, records, one for each of 16 clients, the watchdog.
const BESIDE_THREADS: usize = 32;

/// One device's process, as it is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// The device.
    pub device: String,
    /// Its machine's host, as ssh is told it; none if the cluster file gives no address.
    pub host: Option<String>,
    /// Who logs in there.
    pub user: Option<String>,
    /// Where its ssh server listens.
    pub ssh_port: Option<u16>,
    /// Name of the service, of its unit and of the folder of its socket below `/run`.
    pub name: String,
    /// Folder of its versions.
    pub folder: String,
    /// What it says to its program.
    pub arguments: Vec<String>,
    /// The same where every device has its own host, named like it, as containers of one network.
    pub container_arguments: Vec<String>,
    /// Serial lines that it opens.
    pub lines: Vec<String>,
    /// Most memory that the process may have.
    pub memory_max_bytes: u64,
    /// Most threads.
    pub tasks_max: usize,
    /// Whether its program needs no C library.
    pub is_static: bool,
    /// Whether it proves to its peers who it is.
    pub is_secure: bool,
    /// Whether its private key was made by the compiler and is brought to it; else it has made one itself.
    pub brings_key: bool,
}

/// The part of names that is the cluster's: lower-case letters, digits, and one `_` for all that stands between them.
pub fn cluster_word(cluster: &str) -> String {
    let parts = cluster.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    let word = parts.collect::<Vec<_>>().join("_").to_ascii_lowercase();
    let word: String = word.chars().take(MOST_CLUSTER_BYTES).collect();
    let word = word.trim_end_matches('_');
    if word.is_empty() { "cluster".to_string() } else { word.to_string() }
}

/// Name of a device's service. Clusters' words have no `-`, so no two devices share one.
pub fn service_name(cluster: &str, device: &str) -> String {
    format!("partita-{}-{device}", cluster_word(cluster))
}

/// The services of a plan, in the order of its programs.
///
/// Errors: which device has to have an address in the cluster file and has none; which is firmware.
pub fn services(compiled: &Compiled) -> Result<Vec<Service>, String> {
    (0..compiled.routed.placed.programs.len()).map(|position| service(compiled, position)).collect()
}

fn service(compiled: &Compiled, position: usize) -> Result<Service, String> {
    let cluster = &compiled.cluster;
    let programs = compiled.device_programs(position);
    let index = compiled.routed.placed.programs[position].device;
    let device = &cluster.devices[index];
    if device.target.system == System::CortexM {
        return Err(format!(
            "`{}` is a microcontroller: nothing is installed on it, its firmware is flashed",
            device.name
        ));
    }
    let peers = peers(&programs, compiled.routed.choices.as_ref(), index);
    let (mut arguments, mut container_arguments, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |option: &str, value: String, in_container: String| {
        arguments.extend([option.to_string(), value]);
        container_arguments.extend([option.to_string(), in_container]);
    };
    let transport = |peer: &usize| cluster.link(index, *peer).map_or(Transport::Tcp, |link| link.transport);
    if peers.iter().any(|peer| transport(peer).listens(index, *peer)) {
        let (host, port) = place(device)?;
        // A name may mean another address to the machine itself (127.0.1.1): it listens everywhere then.
        let listens = match host.parse::<std::net::IpAddr>() {
            Ok(_) => device.address.clone().unwrap_or_default(),
            Err(_) => format!("[::]:{port}"),
        };
        add("--listen", listens, format!("0.0.0.0:{port}"));
    }
    for peer in &peers {
        let other = &cluster.devices[*peer];
        if transport(peer) == Transport::Uart {
            let path = line(cluster, index, *peer);
            if lines.contains(&path) {
                return Err(format!(
                    "two serial lines of `{}` are at {path}; say where they are in the cluster file: port = \"/dev/ttyUSB0\"",
                    device.name
                ));
            }
            add("--uart", format!("{}={path}", other.name), format!("{}={path}", other.name));
            lines.push(path);
        } else if transport(peer).calls(index, *peer) {
            let (_, port) = place(other)?;
            let address = other.address.clone().unwrap_or_default();
            add("--peer", format!("{}={address}", other.name), format!("{}={}:{port}", other.name, other.name));
        }
    }
    let bytes = programs.iter().map(|program| program.arena_bytes + program.weights_bytes).max().unwrap_or(0);
    Ok(Service {
        device: device.name.clone(),
        host: device.place().map(|(host, _)| host.to_string()),
        user: device.user.clone(),
        ssh_port: device.ssh_port,
        name: service_name(&cluster.name, &device.name),
        folder: format!("{FOLDER}/{}/{}", cluster_word(&cluster.name), device.name),
        arguments,
        container_arguments,
        lines,
        memory_max_bytes: (2 * bytes as u64 + BESIDE_BYTES).next_multiple_of(1 << 20),
        tasks_max: threads(&programs) + BESIDE_THREADS,
        is_static: device.target.triple.ends_with("-musl"),
        is_secure: identity::is_needed(compiled),
        brings_key: identity::is_needed(compiled) && device.identity.is_none(),
    })
}

/// Where the serial line to a peer is on a device's machine: as the cluster file says, or where Raspberry Pis have it.
fn line(cluster: &Cluster, device: usize, peer: usize) -> String {
    let link = cluster.link(device, peer);
    let port = link.and_then(|link| link.ports[usize::from(link.between.1 == device)].clone());
    port.unwrap_or_else(|| "/dev/serial0".to_string())
}

fn place(device: &Device) -> Result<(&str, u16), String> {
    device.place().ok_or_else(|| {
        format!(
            "`{}` has no address, which its peers need; give it one in the cluster file: address = \"HOST:PORT\"",
            device.name
        )
    })
}

/// What all templates of `deploy/` are told of the cluster.
fn cluster_context(model: &str, cluster: &Cluster, services: &[Service], plan_hash: u64) -> Value {
    context! {
        model => sanitize(model),
        cluster => sanitize(&cluster.name),
        cluster_word => cluster_word(&cluster.name),
        plan => format!("{plan_hash:016x}"),
        services => services.iter().map(|service| Value::from(Serde(service))).collect::<Vec<_>>(),
    }
}

/// Files for one device, by name: its unit and its supervisor's script.
pub fn device_files(service: &Service, cluster: &str) -> anyhow::Result<[(String, String); 2]> {
    let context = context! { cluster => sanitize(cluster), service => Value::from(Serde(service)) };
    Ok([
        (format!("{}.service", service.name), templates::render("deploy/device.service.j2", context.clone())?),
        (format!("{}.sh", service.name), templates::render("deploy/supervise.sh.j2", context)?),
    ])
}

/// Files of `deploy/`, by name. What cannot be installed yet is said in its README, and gets no others.
pub fn files(compiled: &Compiled, devices: Vec<Value>) -> anyhow::Result<Vec<(String, String)>> {
    let services = services(compiled);
    let known = services.as_deref().unwrap_or_default();
    let cluster = &compiled.cluster;
    let context = cluster_context(&compiled.model_name, cluster, known, compiled.plan_hash);
    let refused = services.as_ref().err().map(String::as_str).unwrap_or_default();
    let is_secure = identity::is_needed(compiled);
    let readme = context! { devices => devices, refused => refused, is_secure => is_secure, ..context.clone() };
    let mut files = vec![("README.md".to_string(), templates::render("deploy/README.md.j2", readme)?)];
    for service in known {
        files.extend(device_files(service, &cluster.name)?);
    }
    let names: &[&str] = if known.is_empty() { &[] } else { &["inventory.ini", "site.yml", "compose.yml", "k3s.yml"] };
    for name in names {
        files.push(((*name).to_string(), templates::render(&format!("deploy/{name}.j2"), context.clone())?));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{cluster_word, service_name};

    #[test]
    fn names_of_services_are_words() {
        assert_eq!(service_name("hall", "pi-0"), "partita-hall-pi-0");
        assert_eq!(cluster_word("Küche; rm -rf / $(x)\n`y`"), "k_che_rm_rf_x_y");
        assert_eq!(cluster_word("..."), "cluster");
        assert_ne!(service_name("a-b", "c"), service_name("a", "b-c"));
    }
}
