//! What can go wrong on a device. Small and copyable; names of things are the caller's to add.

/// An error of a link or of the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The peer closed the stream between two frames: the end of the work.
    Closed,
    /// Reading or writing failed, or the stream ended inside a frame.
    Stream,
    /// The peer was silent for longer than allowed.
    Deadline,
    /// A frame's header or payload does not match its checksum.
    Checksum,
    /// The peer was compiled from another plan.
    WrongPlan,
    /// The peer is another device than expected.
    WrongPeer,
    /// A frame that should not come now.
    WrongMessage,
    /// A payload of another length than the plan says.
    WrongLength,
    /// There is no link to that device.
    NoLink,
    /// A device ended while an input was under way: nobody can say what became of that one.
    Lost,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Error::Closed => "the peer closed the link",
            Error::Stream => "the link broke",
            Error::Deadline => "the peer was silent for longer than the deadline",
            Error::Checksum => "a frame arrived damaged",
            Error::WrongPlan => "the peer was compiled from another plan",
            Error::WrongPeer => "the peer is another device than expected",
            Error::WrongMessage => "the peer sent a frame that should not come now",
            Error::WrongLength => "the peer sent a tensor of another size than the plan says",
            Error::NoLink => "there is no link to that device",
            Error::Lost => "a device ended while the input was under way",
        })
    }
}

impl core::error::Error for Error {}
