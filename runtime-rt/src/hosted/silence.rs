//! Who is to blame where nothing moves.
//!
//! A device that hangs keeps others waiting, who keep others waiting in turn; all of them run out of patience at about the
//! same time. So before a device takes another for lost, it tells everybody to give the inference up, and whoever is alive
//! answers by giving it up, too.

use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::exchange::{HostedLinks, Peeked};
use super::lanes::Stuck;
use crate::FamilyLinks;
use crate::frame::Kind;

/// Least time that a device has for its answer; it may be in the middle of a long layer.
const ANSWER: Duration = Duration::from_secs(5);

impl<const N: usize> HostedLinks<N> {
    /// Gives the inference up, and loses those among `asked` who do not do the same. They have as long as this device would
    /// have waited for them anyway.
    pub(super) fn lose_silent(&mut self, mut asked: Vec<usize>, stuck: &Stuck) {
        self.abandon();
        let deadline = self.deadline();
        let until = Instant::now() + deadline.saturating_sub(stuck.quiet).max(ANSWER.min(deadline));
        loop {
            asked.retain(|peer| !self.is_heard(*peer));
            let left = until.saturating_duration_since(Instant::now());
            if asked.is_empty() || left.is_zero() {
                break;
            }
            let sockets = asked.iter().filter_map(|peer| self.socket(*peer));
            let mut waiting: Vec<PollFd<'_>> = sockets.map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) as _ };
            // A signal, or a socket that cannot be polled: looking again tells.
            let _ = poll(&mut waiting, Some(&timeout));
        }
        asked.into_iter().for_each(|peer| self.lose(peer));
    }

    /// Reads what has come from a device; whether there was anything, or will never be.
    fn is_heard(&mut self, peer: usize) -> bool {
        let turn = self.turn();
        let mut heard = false;
        loop {
            let header = match self.peek(peer) {
                Peeked::Nothing => return heard,
                Peeked::End => {
                    self.lose(peer);
                    return true;
                }
                Peeked::Frame(header) => header,
            };
            let is_of_now = header.inference == turn.inference;
            let taken = match header.kind {
                Kind::Status => self.take_link_event(peer),
                Kind::Tensor if is_of_now || turn.is_past(header.inference) => self.skip_frame(peer),
                Kind::Abandon if turn.is_past(header.inference) => self.skip_frame(peer),
                // What it has to say of this inference or the next is read in its turn.
                _ => return true,
            };
            if taken.is_err() {
                return true;
            }
            heard |= header.kind == Kind::Status || is_of_now;
        }
    }
}

// Miri has no sockets.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::hosted::Duplex;
    use crate::{
        Error, FramedStream, Identity, Incoming, InferenceLinks, LinkEvent, Links, PeerLinks, Seen, StdStream, Turn,
    };
    use std::boxed::Box;
    use std::net::{TcpListener, TcpStream};
    use std::vec;

    type Line = HostedLinks<2>;

    fn wire() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let one = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        (one, listener.accept().expect("it connects").0)
    }

    /// A device with links to two others.
    fn device(own: u8, deadline_ms: u64, sockets: [(usize, TcpStream); 2]) -> Line {
        let streams = std::array::from_fn(|at| {
            let (peer, socket) = &sockets[at];
            let stream: Box<dyn Duplex> = Box::new(socket.try_clone().expect("a socket can be cloned"));
            (*peer, FramedStream::new(StdStream(stream), Identity { plan_hash: 1, device: own }))
        });
        let mut links = HostedLinks::new(PeerLinks::new(streams), sockets.into(), Duration::from_millis(deadline_ms));
        links.expect_routes();
        links.begin(Turn { inference: 7, route: 0 });
        links
    }

    fn lost(links: &mut Line) -> Vec<(u8, u8)> {
        let events = std::iter::from_fn(|| links.link_event());
        events.filter(|event: &LinkEvent| event.what == Seen::Lost).map(|event| event.between).collect()
    }

    fn wait_for(links: &mut Line, peer: usize) -> Error {
        let mut payload = [0u8; 4];
        let waited = links.exchange(&[], &mut [Incoming { peer, message: 0, payload: &mut payload }]);
        links.abandon();
        waited.expect_err("nobody sends anything")
    }

    #[test]
    fn only_who_does_not_answer_is_lost() {
        // 0 waits for 1, 1 for 2, and 2 hangs; whoever of 0 and 1 runs out of patience first.
        for (first_ms, second_ms) in [(300, 300), (300, 900), (900, 300)] {
            let ((a, b), (e, _hangs)) = (wire(), wire());
            let (f, _hangs_too) = wire();
            let mut zero = device(0, first_ms, [(1, a), (2, f)]);
            let mut one = device(1, second_ms, [(0, b), (2, e)]);
            let other = std::thread::spawn(move || {
                wait_for(&mut one, 2);
                lost(&mut one)
            });
            wait_for(&mut zero, 1);
            assert_eq!(lost(&mut zero), vec![], "with {first_ms} and {second_ms} ms");
            assert_eq!(other.join().expect("no panic"), vec![(1, 2)], "with {first_ms} and {second_ms} ms");
        }
    }

    #[test]
    fn what_comes_late_is_a_sign_of_life() {
        let ((a, b), (c, _two), (d, _two_too)) = (wire(), wire(), wire());
        let mut zero = device(0, 300, [(1, a), (2, c)]);
        let mut one = device(1, 300, [(0, b), (2, d)]);
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(450));
            one.send(0, 0, b"late").expect("the link works");
            one
        });
        assert_eq!(wait_for(&mut zero, 1), Error::Deadline);
        assert_eq!(lost(&mut zero), vec![]);
        drop(other.join().expect("no panic"));
        // Who has ended its work is lost at once, and not waited for again.
        zero.begin(Turn { inference: 8, route: 0 });
        assert_eq!(wait_for(&mut zero, 1), Error::Closed);
        assert_eq!(lost(&mut zero), vec![(0, 1)]);
        assert_eq!(wait_for(&mut zero, 1), Error::Closed);
        assert_eq!(lost(&mut zero), vec![]);
    }

    #[test]
    fn link_events_are_heard_behind_what_was_given_up() {
        let ((a, b), (c, _two), (d, _two_too)) = (wire(), wire(), wire());
        let mut zero = device(0, 300, [(1, a), (2, c)]);
        let mut one = device(1, 300, [(0, b), (2, d)]);
        one.send(0, 0, b"some").expect("the link works");
        one.abandon();
        one.tell(0, &LinkEvent { between: (1, 2), what: Seen::Lost }).expect("the link works");
        zero.abandon();
        assert_eq!(lost(&mut zero), vec![(1, 2)]);
    }
}
