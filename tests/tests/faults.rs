//! What the fault table does a hundred times, a few times: processes are killed, stopped and cut off, over datagrams and serial
//! lines as over connections, and every input has one right answer or one record that says why not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use partita_rt::node::random::Random;
use partita_tests::faults::cluster::{Bundle, Carrier, Cluster, Shape};
use partita_tests::faults::stream::{Account, Stream};
use partita_tests::faults::trial::{Fault, trial};

const SECOND: Duration = Duration::from_secs(1);

/// Does each of some faults to a cluster, and to the same cluster the next.
fn survive(shape: Shape, carrier: Carrier, faults: &[(Fault, usize)]) {
    let bundle = Arc::new(Bundle::build(shape, carrier));
    let mut random = Random::new(1);
    let mut cluster = Cluster::start(&bundle, 1);
    let stream = Stream::start(&cluster, Duration::from_millis(10), SECOND);
    for (fault, at) in faults {
        let found = trial(&mut cluster, &stream, *fault, *at, &mut random);
        let what = format!("{} over {}, {} {at}: {found:?}", shape.word(), carrier.word(), fault.words());
        println!("{what}");
        let Account { offered, full, exit, variant, late, failed, cut_off, untold, lost, twice, wrong, .. } =
            found.account;
        assert!(found.is_well && full > 0, "{what}");
        assert_eq!((lost, twice, wrong), (0, 0, 0), "{what}");
        assert_eq!(offered, full + exit + variant + late + failed + cut_off, "{what}");
        // Only who has died takes what it knew along.
        let dies = matches!(fault, Fault::Kill | Fault::Power(_));
        assert!(dies && *at == 0 || cut_off == 0, "{what}");
        assert!(dies && *at == shape.output() || untold == 0, "{what}");
    }
    stream.stop();
}

#[test]
fn datagrams() {
    let faults = [
        (Fault::Kill, 1),
        (Fault::Power(Duration::from_millis(50)), 2),
        (Fault::Cable(SECOND), 0),
        (Fault::Damage(SECOND, 100), 1),
        (Fault::Stop(SECOND), 1),
        (Fault::Kill, 0),
    ];
    survive(Shape::Pipeline, Carrier::Udp, &faults);
}

#[test]
fn serial_lines() {
    let faults = [
        (Fault::Kill, 1),
        (Fault::Power(Duration::from_millis(50)), 0),
        (Fault::Cable(SECOND), 1),
        (Fault::Damage(SECOND, 100), 0),
        (Fault::Stop(Duration::from_millis(100)), 2),
    ];
    survive(Shape::Pipeline, Carrier::Uart, &faults);
}

#[test]
fn datagrams_that_are_lost_cost_time_only() {
    let bundle = Arc::new(Bundle::build(Shape::Survives, Carrier::Udp));
    let cluster = Cluster::start(&bundle, 1);
    for cable in &cluster.cables {
        cable.faults.lost.store(100_000, Ordering::SeqCst);
    }
    let stream = Stream::start(&cluster, Duration::from_millis(2), 5 * SECOND);
    assert!(stream.is_well(Instant::now(), 100, 20 * SECOND), "{:?}", stream.settle());
    let account = stream.settle();
    assert_eq!(
        (account.lost, account.twice, account.wrong, account.late, account.failed),
        (0, 0, 0, 0, 0),
        "{account:?}"
    );
    assert!(
        cluster.cables.iter().all(|cable| cable.faults.gone.load(Ordering::SeqCst) > 0),
        "every cable lost something"
    );
    stream.stop();
}
