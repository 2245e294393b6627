//! The handshake against published vectors. `tests/tests/noise.rs` compares it with another implementation.

use std::vec::Vec;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |byte: &u8| (*byte as char).to_digit(16).expect("a digit") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
}

fn key(hex: &str) -> [u8; 32] {
    bytes(hex).try_into().expect("a key has 32 bytes")
}

/// A pair with any prologue.
fn pair(private: &Private, peer: &Public, prologue: &[u8], calls: bool) -> Pair {
    let own = private.public();
    let (caller, other) = if calls { (&own, peer) } else { (peer, &own) };
    let pair = Pair::new(private, peer, (2, 7), (1, 0), calls).expect("a key");
    Pair { begun: begun(prologue, caller, other), ..pair }
}

/// The `Noise_KK_25519_ChaChaPoly_BLAKE2s` vector of cacophony, which other implementations are tested with, too.
#[test]
fn a_published_handshake_is_spoken() {
    let caller = Private::new(key("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"));
    let other = Private::new(key("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"));
    assert_eq!(other.public(), key("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62"));
    assert_eq!(caller.public(), key("6bc3822a2aa7f4e6981d6538692b3cdf3e6df9eea6ed269eb41d93c22757b75a"));
    let prologue = bytes("4a6f686e2047616c74");
    let calls = pair(&caller, &other.public(), &prologue, true);
    let answers = pair(&other, &caller.public(), &prologue, false);

    let mut payload = bytes("4c756477696720766f6e204d69736573");
    let ephemeral = Private::new(key("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"));
    let (call, tag) = calls.call_with(ephemeral, &mut payload).expect("it calls");
    let expected = "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944266a5f53784aa3becb0f7485c2759c328937867a4cbaafef07422b0725e098be";
    assert_eq!([&call.public[..], &payload, &tag].concat(), bytes(expected));

    let ephemeral = Private::new(key("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"));
    let mut second = bytes("4d757272617920526f746862617264");
    let heard = (&mut payload[..], &tag);
    let (state, public, tag) = answers.answer_with(&call.public, heard, ephemeral, &mut second).expect("it answers");
    assert_eq!(payload, bytes("4c756477696720766f6e204d69736573"));
    let expected = "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843008aeea5d76d6abcbab87a18502c8a8352d9933ac11e2a7d228038d721e31e";
    assert_eq!([&public[..], &second, &tag].concat(), bytes(expected));
    assert_eq!(state.hash, key("1362b8627a00907ce11e558aba8ce7cbca88e83f0e84ce7db5159b1c3e25ab59"));

    let finished = call.finish_with(&calls, &public, &mut second, &tag).expect("it is the answer");
    assert_eq!(second, bytes("4d757272617920526f746862617264"));
    assert_eq!((finished.hash, finished.id()), (state.hash, state.id()));
    let (from_caller, from_other) = finished.split();
    for (key, number, said, sealed) in [
        (&from_caller, 0, "462e20412e20486179656b", "5f92113edf78c3e56e6d67201f5f9e0c8f2930c3e1ffb64ede0358"),
        (&from_other, 0, "4361726c204d656e676572", "30ebbd9cdcef7f40d99c8cd11e880dac28f5c9e5032c1059b3b56a"),
        (
            &from_caller,
            1,
            "4a65616e2d426170746973746520536179",
            "b011620dc31f88abd1788db50912952fe45da56e9d0907ab2cbce5f609b58b1cf2",
        ),
    ] {
        let mut text = bytes(said);
        let mut stream = Stream::new(key, number, b"");
        stream.seal(&mut text);
        text.extend(stream.tag());
        assert_eq!(text, bytes(sealed));
    }
}

#[test]
fn nobody_else_is_answered_or_believed() {
    let mut entropy = Entropy::new([1; 32]);
    let [caller, other, third] = [b"a", b"b", b"c"].map(|name| Private::new(entropy.next(name)));
    let make = |own: &Private, peer: &Private, plan: u64, link: (u8, u8), calls: bool| {
        Pair::new(own, &peer.public(), (2, plan), link, calls).expect("a key")
    };
    let answers = make(&other, &caller, 7, (3, 1), false);
    let good = make(&caller, &other, 7, (3, 1), true);
    for (calls, what) in [
        (make(&third, &other, 7, (3, 1), true), "another key"),
        (make(&caller, &other, 8, (3, 1), true), "another plan"),
        (make(&caller, &other, 7, (2, 1), true), "another link"),
        (make(&caller, &other, 7, (3, 1), false), "another role"),
    ] {
        let (_, first) = calls.call(1, &mut entropy).expect("it calls");
        assert!(answers.answer(&first, 2, &mut entropy).is_none(), "{what}");
        let greeting = [0u8; 60];
        let coded = answers.is_coded(&[&greeting], &calls.code(&[&greeting]));
        assert_eq!(coded, ["another plan", "another role"].contains(&what), "{what}");
        assert_eq!(calls.mark() == answers.mark(), what == "another role", "{what}");
    }
    let (call, first) = good.call(1, &mut entropy).expect("it calls");
    let (_, answer, _) = answers.answer(&first, 2, &mut entropy).expect("it answers");
    // An answer to an earlier call, which somebody sends once more.
    let (again, _) = good.call(1, &mut entropy).expect("it calls");
    assert!(again.finish(&good, &answer).is_none());
    for at in 0..MESSAGE_BYTES {
        let mut damaged = answer;
        damaged[at] ^= 0x10;
        assert!(call.finish(&good, &damaged).is_none(), "byte {at}");
    }
    assert!(call.finish(&good, &answer).is_some(), "a damaged answer spoils nothing");
    assert!(Pair::new(&caller, &[0; 32], (2, 7), (3, 1), true).is_none(), "a point that anybody agrees with");
}

#[test]
fn secrets_of_a_source_differ() {
    let mut entropy = Entropy::new([0; 32]);
    let (first, second) = (entropy.next(b"a"), entropy.next(b"a"));
    assert!(first != second && first != Entropy::new([0; 32]).next(b"b"));
}
