//! The cluster: devices and the links between them, read from cluster.toml.

use super::settings::Settings;
use super::target::{MemoryMap, Target};
use partita_ir::graph::InputForm;

/// A checked cluster.toml with its targets resolved and counts expanded (`pi` with `count = 5` is `pi-0` .. `pi-4`).
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Name.
    pub name: String,
    /// All devices.
    pub devices: Vec<Device>,
    /// All links, ordered by `between`; at most one per pair of devices.
    pub links: Vec<Link>,
    /// What carries the links.
    pub media: Vec<Medium>,
    /// Index of the device that holds the input.
    pub input: usize,
    /// Index of the device that wants the answer.
    pub output: usize,
    /// What may happen in the field.
    pub conditions: Vec<Condition>,
    /// An answer should not take longer, whatever happens.
    pub max_latency_ms: Option<f64>,
    /// How the input is handed in, where that is not as the model takes it.
    pub input_form: Option<InputForm>,
    /// Whether devices prove to each other who they are.
    pub security: Security,
    /// Whether any one device may be lost, those of input and output apart, and inferences are answered all the same.
    pub survives: bool,
}

/// Bytes of a public key.
pub const KEY_BYTES: usize = 32;

/// Whether devices prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// They do, and nobody else reads or changes what they say (`Noise_KK_25519_ChaChaPoly_BLAKE2s`).
    Noise,
    /// Whoever reaches them is believed, and reads what they say.
    None,
}

impl Security {
    /// As the cluster file says it.
    pub fn word(self) -> &'static str {
        match self {
            Security::Noise => "noise",
            Security::None => "none",
        }
    }
}

/// One machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Unique; `[a-z0-9-]{1,32}`.
    pub name: String,
    /// What kind of machine it is.
    pub target: Target,
    /// How its kernels are made and priced.
    pub settings: Settings,
    /// RAM limit: the target's, or what cluster.toml says if less.
    pub ram_bytes: u64,
    /// Flash limit, likewise.
    pub flash_bytes: u64,
    /// Share of a core that its process may use; already in the target's rates.
    pub cpu: f64,
    /// Whether it holds all weights, whatever its share is, so that it can answer by itself when links are slow or others
    /// are gone.
    pub standalone: bool,
    /// `host:port` on which it listens, if given.
    pub address: Option<String>,
    /// Who logs in there to install it; by default ssh decides.
    pub user: Option<String>,
    /// Where its machine's ssh server listens; by default ssh decides.
    pub ssh_port: Option<u16>,
    /// The public key of which the device has the private one; by default the compiler makes both.
    pub identity: Option<[u8; KEY_BYTES]>,
}

impl Device {
    /// Whether its kernels take and cost the same as another device's.
    pub fn computes_like(&self, other: &Device) -> bool {
        self.target == other.target && self.settings == other.settings
    }

    /// Whether convolutions may be done by Winograd's algorithm.
    pub fn allows_winograd(&self) -> bool {
        self.target.allows_winograd() && self.settings.winograd
    }

    /// Whether kernels multiply activations and weights of 8 bits as they are stored, and activations are kept so for them.
    pub fn multiplies_stored_bytes(&self) -> bool {
        self.settings.byte_products && self.target.multiplies_stored_bytes()
    }

    /// Host and port of its address.
    pub fn place(&self) -> Option<(&str, u16)> {
        let (host, port) = self.address.as_deref()?.rsplit_once(':')?;
        Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
    }

    /// Processor time to send or receive one message.
    pub fn message_microseconds(&self) -> f64 {
        self.settings.message_microseconds.unwrap_or(self.target.rate.message_microseconds)
    }
}

/// Bytes of a tensor in a datagram: with our header and seal (56), UDP's and IP's (28 or 48) it passes tunnels, too, whose
/// packets are of 1400 bytes.
pub const DATAGRAM_PAYLOAD_BYTES: u16 = 1280;

/// How a link carries frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A connection, which the device with the higher number makes.
    Tcp,
    /// Datagrams between two addresses that both know; what is lost is sent again, and nothing waits for what was lost.
    Udp,
    /// A serial line.
    Uart,
}

impl Transport {
    /// As the cluster file says it.
    pub fn word(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Uart => "uart",
        }
    }

    /// Whether a device has to be told where it is itself, for its link to a peer: connections come there, and datagrams.
    pub fn listens(self, device: usize, peer: usize) -> bool {
        match self {
            Transport::Tcp => device < peer,
            Transport::Udp => true,
            Transport::Uart => false,
        }
    }

    /// Whether it has to be told where the peer is: it connects there, and sends datagrams there.
    pub fn calls(self, device: usize, peer: usize) -> bool {
        match self {
            Transport::Tcp => device > peer,
            Transport::Udp => true,
            Transport::Uart => false,
        }
    }

    /// Share of the wire's rate that is left for payload.
    pub fn payload_share(self) -> f64 {
        match self {
            // 1448 bytes of payload in a frame that takes 1538 on Ethernet, with preamble, gap and time stamps.
            Transport::Tcp => 1448.0 / 1538.0,
            // Beside the payload 56 bytes of ours, 28 of UDP and IP, and 38 of Ethernet.
            Transport::Udp => f64::from(DATAGRAM_PAYLOAD_BYTES) / f64::from(DATAGRAM_PAYLOAD_BYTES + 122),
            // A start and a stop bit around each byte.
            Transport::Uart => 0.8,
        }
    }
}

/// Where a serial line is on the machines of its two devices, in the order of the link; none where the file does not say.
pub type Ports = [Option<String>; 2];

/// A connection between two devices, both directions at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Indices of the two devices, ascending.
    pub between: (usize, usize),
    /// How frames travel.
    pub transport: Transport,
    /// Rate of payload in each direction, without what the transport adds; of a medium that devices share, the rate of their ports or of the bus.
    pub bytes_per_second: f64,
    /// Rate of the wire as the cluster file says it, in bits per second: what a serial line is set to.
    pub wire_bits_per_second: f64,
    /// Where a serial line is on its devices' machines, as the cluster file says.
    pub ports: Ports,
    /// Time from the first byte sent to the first received.
    pub latency_ms: f64,
    /// Index of the medium that carries it: the `[[link]]` table it came from.
    pub medium: usize,
}

/// What the links of one `[[link]]` table have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Who shares the rate.
    pub topology: Topology,
    /// Whether the rate is shared by both directions.
    pub half_duplex: bool,
}

/// Who shares the rate of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Every device has one port of that rate (Ethernet switch, or a star around a hub).
    Switch,
    /// All devices together have that rate (Wi-Fi, a bus).
    Bus,
    /// Every pair has a wire of its own.
    PointToPoint,
}

/// A situation to be prepared for.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Condition {
    /// As the file says it, for readers.
    pub name: String,
    /// Links whose rate differs: (index of link, bytes per second).
    pub bandwidth: Vec<(usize, f64)>,
    /// Devices that are gone.
    pub missing: Vec<usize>,
}

impl Cluster {
    /// Bits per second at which both ends of a serial line run: what the cluster file says, or what the slower UART of the
    /// two does at most. 0 if the link is none.
    pub fn baud(&self, link: &Link) -> u32 {
        if link.transport != Transport::Uart {
            return 0;
        }
        let ends = [link.between.0, link.between.1].into_iter();
        let maps = ends.filter_map(|device| self.devices[device].target.memory_map.as_ref());
        let baud = maps.map(MemoryMap::most_baud).fold(link.wire_bits_per_second, f64::min);
        baud.round().clamp(1.0, f64::from(u32::MAX)) as u32
    }

    /// The link between two devices, in either order.
    pub fn link(&self, a: usize, b: usize) -> Option<&Link> {
        let between = (a.min(b), a.max(b));
        let found = self.links.binary_search_by_key(&between, |link| link.between).ok()?;
        self.links.get(found)
    }
}
