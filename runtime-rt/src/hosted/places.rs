//! Where a node's peers are, and by what they are known.

use std::boxed::Box;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::vec::Vec;

use crate::noise::{Private, Public};

/// Opens a line that does not block; asked again, now and then, when it cannot or when the line has ended.
pub type Opener = dyn Fn() -> std::io::Result<OwnedFd> + Send + Sync;

/// Where a peer is.
pub enum Place {
    /// It connects to this device.
    Connects,
    /// It listens there.
    At(SocketAddr),
    /// Datagrams go from here to there.
    Datagrams {
        /// Here.
        local: SocketAddr,
        /// There.
        remote: SocketAddr,
    },
    /// At the other end of a line.
    Line(Box<Opener>),
}

/// By what devices know each other.
pub struct Keys {
    /// This device's.
    pub private: Private,
    /// Its peers', in the order of the plan.
    pub peers: Vec<Public>,
    /// Of the system's random source.
    pub secret: [u8; 32],
}

/// Where everybody is.
#[derive(Default)]
pub struct Places {
    /// By what they are known there; without, anybody is believed.
    pub keys: Option<Keys>,
    /// Where connections are accepted, if any peer makes one.
    pub listen: Option<SocketAddr>,
    /// Each of the plan's peers.
    pub peers: Vec<Place>,
}
