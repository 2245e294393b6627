//! The handshake of links and what is said under its keys, byte for byte as `snow` speaks it.

use partita_rt::noise::{Entropy, MESSAGE_BYTES, Pair, Private, Public, Stream, TAG_BYTES, Transport, prologue};
use snow::Builder;

/// Each role speaks with snow's other one; snow sees no difference to itself.
#[test]
fn snow_speaks_the_same() {
    for seed in 0..20u8 {
        let mut entropy = Entropy::new([seed; 32]);
        let secrets = [entropy.next(b"a"), entropy.next(b"b")];
        let [caller, other] = secrets.map(Private::new);
        let plan = 0x1234_5678_9abc_def0 + u64::from(seed);
        let snow = |own: &[u8; 32], peer: &Public, calls: bool| {
            let params = "Noise_KK_25519_ChaChaPoly_BLAKE2s".parse().expect("snow knows it");
            let prologue = prologue(2, plan, 3, 1);
            let builder = Builder::new(params).local_private_key(own).expect("a key");
            let builder = builder.remote_public_key(peer).expect("a key").prologue(&prologue).expect("a prologue");
            if calls { builder.build_initiator() } else { builder.build_responder() }.expect("it begins")
        };
        let calls = Pair::new(&caller, &other.public(), (2, plan), (3, 1), true).expect("a key");
        let answers = Pair::new(&other, &caller.public(), (2, plan), (3, 1), false).expect("a key");

        let mut theirs = snow(&secrets[1], &caller.public(), false);
        let (call, first) = calls.call(77, &mut entropy).expect("it calls");
        let (mut said, mut answer) = ([0; 4], [0; MESSAGE_BYTES]);
        assert_eq!(theirs.read_message(&first, &mut said), Ok(4));
        assert_eq!(u32::from_le_bytes(said), 77);
        assert_eq!(theirs.write_message(&88u32.to_le_bytes(), &mut answer), Ok(MESSAGE_BYTES));
        let (life, transport) = call.finish(&calls, &answer).expect("it is the answer");
        assert_eq!((life, transport.id), (88, id(theirs.get_handshake_hash())));
        let mut theirs = theirs.into_stateless_transport_mode().expect("it is over");
        say(&transport, &mut theirs);

        let mut theirs = snow(&secrets[0], &other.public(), true);
        let mut first = [0; MESSAGE_BYTES];
        assert_eq!(theirs.write_message(&5u32.to_le_bytes(), &mut first), Ok(MESSAGE_BYTES));
        let (life, answer, transport) = answers.answer(&first, 6, &mut entropy).expect("it answers");
        assert_eq!(theirs.read_message(&answer, &mut said), Ok(4));
        assert_eq!((life, u32::from_le_bytes(said)), (5, 6));
        assert_eq!(transport.id, id(theirs.get_handshake_hash()));
        let mut theirs = theirs.into_stateless_transport_mode().expect("it is over");
        say(&transport, &mut theirs);
    }
}

fn id(hash: &[u8]) -> u32 {
    u32::from_le_bytes(hash[..4].try_into().expect("four bytes")) | 1
}

/// A message each way.
fn say(ours: &Transport, theirs: &mut snow::StatelessTransportState) {
    let mut text = *b"some rows of a tensor";
    let mut stream = Stream::new(&ours.send, 9, b"");
    stream.seal(&mut text);
    let sealed = [&text[..], &stream.tag()].concat();
    let mut opened = [0; 21];
    assert_eq!(theirs.read_message(9, &sealed, &mut opened), Ok(21));
    assert_eq!(&opened, b"some rows of a tensor");
    let mut sealed = [0; 64];
    let length = theirs.write_message(3, b"an answer", &mut sealed).expect("it fits");
    let (text, tag) = sealed[..length].split_at_mut(length - TAG_BYTES);
    let mut stream = Stream::new(&ours.receive, 3, b"");
    stream.open(text);
    assert_eq!(text, b"an answer");
    assert!(stream.checks((&*tag).try_into().expect("a tag")));
}
