//! A node and the sockets of its links: what is sent, read, connected, opened again, and welcomed.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSlice, read, write, writev};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use super::places::{Place, Places};
use crate::node::{Greeting, Guest, Link, Medium, Node, Order, Record};
use crate::window::Window;

/// How long a line that could not be opened is left alone.
pub(super) const REOPEN: Duration = Duration::from_millis(100);

/// How often one link is read before others have their turn.
const READS: usize = 32;

/// A link's socket.
#[derive(Clone, Default)]
pub(super) enum Socket {
    #[default]
    None,
    Connecting(Arc<OwnedFd>),
    Open(Arc<OwnedFd>),
    /// A line, or a socket for datagrams: it never ends.
    Lasting(Arc<OwnedFd>, Medium),
}

impl Socket {
    /// Where bytes go and come from.
    fn open(&self) -> Option<(Arc<OwnedFd>, Medium)> {
        match self {
            Socket::Open(socket) => Some((socket.clone(), Medium::Connection)),
            Socket::Lasting(socket, medium) => Some((socket.clone(), *medium)),
            Socket::None | Socket::Connecting(_) => None,
        }
    }
}

/// Opens what stays open.
pub(super) fn lasting(place: &Place) -> std::io::Result<Socket> {
    Ok(match place {
        Place::Connects | Place::At(_) | Place::Line(_) => Socket::None,
        Place::Datagrams { local, remote } => Socket::Lasting(Arc::new(datagrams(local, remote)?), Medium::Datagrams),
    })
}

/// Bytes of datagrams that may wait to be read: two windows of each tensor that a link takes at a time, as the system counts
/// them. It gives as much as it likes.
const WAITING_BYTES: usize = 1 << 20;

/// A socket for the datagrams between two places. Each link of a device has its own, all at one place: the system tells them
/// apart by where datagrams come from.
fn datagrams(local: &SocketAddr, remote: &SocketAddr) -> std::io::Result<OwnedFd> {
    let socket = unconnected(remote, SocketType::DGRAM)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    let _ = sockopt::set_socket_recv_buffer_size(&socket, WAITING_BYTES);
    bind(&socket, local)?;
    connect(&socket, remote)?;
    Ok(socket)
}

/// A socket towards a place, which does not block.
fn unconnected(place: &SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if place.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// A connection of nobody yet.
pub(super) struct Stranger {
    pub(super) socket: Arc<OwnedFd>,
    pub(super) guest: Guest,
    pub(super) since: Instant,
}

/// What the threads of a node share.
pub(super) struct State {
    pub(super) node: Node<'static, Vec<Link>>,
    pub(super) window: Window,
    pub(super) sockets: Vec<Socket>,
    /// Where tensors are sealed for each link; empty without keys.
    pub(super) rooms: Vec<Vec<u8>>,
    /// When lines that are not open are tried again.
    pub(super) reopen: Vec<Instant>,
    /// Whether a socket takes no more at the moment.
    pub(super) full: Vec<bool>,
    /// The same when the thread for sockets began to wait.
    pub(super) waits_full: Vec<bool>,
    pub(super) inputs: Vec<Vec<u8>>,
    /// Whether states begin anew with the input of a place, and with the next one.
    pub(super) begins: Vec<bool>,
    pub(super) begins_next: bool,
    pub(super) records: VecDeque<Record>,
    pub(super) next_tag: u64,
    /// Until when the thread for sockets sleeps.
    pub(super) sleeps_until_us: u64,
    /// How often the thread for sockets has looked around.
    pub(super) turns: u64,
    /// Since when the program's thread has been at what it does now, if it does anything.
    pub(super) busy_since: Option<Instant>,
    /// Of whom it was said that they are of another plan.
    pub(super) told: Vec<bool>,
    pub(super) stopping: bool,
}

impl State {
    /// What to wait for.
    pub(super) fn waits(&self) -> Vec<(Arc<OwnedFd>, PollFlags)> {
        let sockets = self.sockets.iter().zip(&self.full);
        let wait = |(socket, full): (&Socket, &bool)| match socket {
            Socket::Connecting(socket) => Some((socket.clone(), PollFlags::OUT)),
            _ => {
                let flags = if *full { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
                socket.open().map(|(socket, _)| (socket, flags))
            }
        };
        sockets.filter_map(wait).collect()
    }

    /// Says once of whom nothing is to be hoped for.
    pub(super) fn tell(&mut self) {
        for (at, told) in self.told.iter_mut().enumerate() {
            let differs = self.node.is_of_another_plan(at);
            if differs && !core::mem::replace(told, differs) {
                std::eprintln!("peer number {at} was compiled from another plan; --status names it");
            }
            *told = differs;
        }
    }

    /// Sends what a link has and its socket takes.
    pub(super) fn send(&mut self, at: usize) {
        let Some((socket, medium)) = self.sockets.get(at).and_then(Socket::open) else { return };
        let room = self.rooms.get_mut(at).map_or(&mut [][..], Vec::as_mut_slice);
        while let Some(pieces) = self.node.poll_send(at, &self.window, room) {
            let whole = pieces.iter().map(|piece| piece.len()).sum();
            match writev(&socket, &pieces.map(IoSlice::new)) {
                Ok(count) => self.node.on_sent(at, count),
                Err(Errno::INTR) => {}
                // A datagram that is refused is lost, and nobody may be there yet.
                Err(error) if medium == Medium::Datagrams && error != Errno::AGAIN => self.node.on_sent(at, whole),
                Err(Errno::AGAIN) => {
                    self.full.get_mut(at).into_iter().for_each(|full| *full = true);
                    return;
                }
                Err(_) => {
                    self.drop_socket(at);
                    if medium == Medium::Connection {
                        self.node.on_closed(at);
                    }
                    return;
                }
            }
        }
        self.full.get_mut(at).into_iter().for_each(|full| *full = false);
    }

    fn drop_socket(&mut self, at: usize) {
        self.sockets.get_mut(at).into_iter().for_each(|socket| *socket = Socket::None);
        self.full.get_mut(at).into_iter().for_each(|full| *full = false);
    }

    /// Does what is to be done about a link's connection, and reads what has come.
    pub(super) fn serve(&mut self, at: usize, places: &Places, buffer: &mut [u8]) {
        match self.node.poll_order(at) {
            Some(Order::Close) => self.drop_socket(at),
            Some(Order::Connect) => match places.peers.get(at).map(begin_connecting) {
                Some(Ok(socket)) => {
                    self.sockets.get_mut(at).into_iter().for_each(|slot| *slot = Socket::Connecting(socket.clone()));
                }
                Some(Err(_)) | None => {
                    self.drop_socket(at);
                    self.node.on_closed(at);
                }
            },
            None => {}
        }
        if let Some(Socket::Connecting(socket)) = self.sockets.get(at).cloned() {
            match is_connected(&socket) {
                None => return,
                Some(true) => {
                    self.sockets.get_mut(at).into_iter().for_each(|slot| *slot = Socket::Open(socket.clone()));
                    self.node.on_connected(at);
                }
                Some(false) => {
                    self.drop_socket(at);
                    self.node.on_closed(at);
                }
            }
        }
        self.open_line(at, places);
        let Some((socket, medium)) = self.sockets.get(at).and_then(Socket::open) else { return };
        // A peer that never stops does not keep the others waiting.
        for _ in 0..READS {
            match read(&socket, &mut *buffer) {
                Ok(0) if medium != Medium::Datagrams => {}
                Ok(count) => {
                    self.node.on_bytes(at, buffer.get_mut(..count).unwrap_or_default(), &mut self.window);
                    if count < buffer.len() && medium != Medium::Datagrams {
                        return;
                    }
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(_) if medium == Medium::Datagrams => return,
                Err(_) => {}
            }
            self.drop_socket(at);
            if medium == Medium::Connection {
                self.node.on_closed(at);
            }
            return;
        }
    }

    /// Opens a line that is not open, if it is time to.
    fn open_line(&mut self, at: usize, places: &Places) {
        let (Some(Place::Line(open)), Some(Socket::None)) = (places.peers.get(at), self.sockets.get(at)) else {
            return;
        };
        let Some(reopen) = self.reopen.get_mut(at).filter(|reopen| Instant::now() >= **reopen) else { return };
        *reopen = Instant::now() + REOPEN;
        if let (Ok(line), Some(slot)) = (open(), self.sockets.get_mut(at)) {
            *slot = Socket::Lasting(Arc::new(line), Medium::Line);
        }
    }

    pub(super) fn has_closed_line(&self, places: &Places) -> bool {
        let lines = self.sockets.iter().zip(&places.peers);
        lines.into_iter().any(|(socket, place)| matches!((socket, place), (Socket::None, Place::Line(_))))
    }

    /// Reads what a stranger says; whether it is still one.
    pub(super) fn greet(&mut self, stranger: &mut Stranger) -> bool {
        let mut bytes = [0u8; 256];
        let count = match read(&stranger.socket, &mut bytes) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        let mut rest = bytes.get_mut(..count).unwrap_or_default();
        loop {
            match self.node.greet(&mut stranger.guest, &mut rest) {
                Greeting::Unknown => return true,
                Greeting::Refused => return false,
                Greeting::Answer => {
                    // A socket that takes not even this is nobody's.
                    let answer = stranger.guest.answer();
                    if write(&stranger.socket, answer) != Ok(answer.len()) {
                        return false;
                    }
                }
                Greeting::Peer(at) => {
                    let socket = Socket::Open(stranger.socket.clone());
                    self.sockets.get_mut(at).into_iter().for_each(|slot| *slot = socket.clone());
                    self.full.get_mut(at).into_iter().for_each(|full| *full = false);
                    self.node.welcome(core::mem::take(&mut stranger.guest));
                    self.node.on_bytes(at, rest, &mut self.window);
                    return false;
                }
            }
        }
    }
}

/// Begins to connect without waiting.
fn begin_connecting(place: &Place) -> Result<Arc<OwnedFd>, Errno> {
    let Place::At(place) = place else { return Err(Errno::DESTADDRREQ) };
    let socket = unconnected(place, SocketType::STREAM)?;
    match connect(&socket, place) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(Arc::new(socket)),
        Err(error) => Err(error),
    }
}

/// Whether a connection is there; none while it is being made.
fn is_connected(socket: &Arc<OwnedFd>) -> Option<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&now)) == Ok(0) {
        return None;
    }
    let sound = matches!(sockopt::socket_error(socket.as_fd()), Ok(Ok(())));
    Some(sound && TcpStream::from(socket.try_clone().ok()?).set_nodelay(true).is_ok())
}
