//! Golden numbers of the papers.

use super::chain::{Layer, LayerKind, PublishedNetwork, alexnet, extraction, vgg16, yolov2};
use super::placement::{PlacedLayer, expected_seconds, hub_seconds};
use super::{memory, tiles, traffic};

const MEGABYTE: f64 = 1e6;
const MEBIBYTE: f64 = (1 << 20) as f64;

fn networks() -> [PublishedNetwork; 4] {
    [yolov2(), vgg16(), extraction(), alexnet()]
}

/// The convolutions behind the break point.
fn tail(network: &PublishedNetwork) -> &[Layer] {
    &network.layers[network.break_point..]
}

/// Equal to a printed figure: to half a unit of its last digit, and a hair.
fn printed(found: f64, figure: &str, what: &str) {
    let decimals = figure.split_once('.').map_or(0, |(_, decimals)| decimals.len() as i32);
    let expected: f64 = figure.parse().expect("a number");
    let tolerance = 0.51 * 10f64.powi(-decimals);
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, published {figure}");
}

#[test]
fn the_toy_network_of_the_paper() {
    let sizes = [4, 8, 16, 4, 4];
    let layers: Vec<Layer> = sizes.windows(2).map(|pair| Layer::of_sizes(pair[0], pair[1])).collect();
    assert_eq!(traffic::output_splitting(&layers, 2), 34.0);
    assert_eq!(traffic::input_splitting(&layers, 2), 48.0);
    assert_eq!(traffic::least_by_dynamic_program(&layers, 2), 22.0);
    let splits = traffic::least_by_ilp(&layers, 2).expect("the program is solvable");
    assert_eq!(traffic::elements(&layers, &splits, 2), Some(22.0));
}

#[test]
fn least_traffic_of_the_four_networks() {
    let golden: [(&str, [&str; 3], [&str; 3]); 4] = [
        ("YOLOv2", ["27.477", "78.367", "128.354"], ["19.836", "55.073", "89.323"]),
        ("VGG-16", ["15.856", "43.653", "70.581"], ["13.246", "39.739", "66.232"]),
        ("Extraction", ["7.925", "21.823", "35.287"], ["7.120", "18.952", "30.082"]),
        ("AlexNet", ["1.432", "3.606", "5.627"], ["1.259", "3.217", "5.050"]),
    ];
    for (network, (name, output_splitting, least)) in networks().iter().zip(golden) {
        assert_eq!(network.name, name);
        for ((devices, output_splitting), least) in [2, 4, 6].into_iter().zip(output_splitting).zip(least) {
            let layers = tail(network);
            let what = format!("{name} on {devices} devices");
            printed(4.0 * traffic::output_splitting(layers, devices) / MEGABYTE, output_splitting, &what);
            let splits = traffic::least_by_ilp(layers, devices).expect("the program is solvable");
            let found = traffic::elements(layers, &splits, devices).expect("the splits fit the layers");
            printed(4.0 * found / MEGABYTE, least, &what);
        }
    }
}

#[test]
fn the_dynamic_program_agrees_with_the_integer_program() {
    let agree = |layers: &[Layer], devices: u64, what: &str| {
        let splits = traffic::least_by_ilp(layers, devices).expect("the program is solvable");
        let found = traffic::elements(layers, &splits, devices).expect("the splits fit the layers");
        let least = traffic::least_by_dynamic_program(layers, devices);
        assert!((found - least).abs() <= 1e-9 * least.max(1.0), "{what} on {devices}: {found} and {least}");
    };
    for network in &networks() {
        (2..=8).for_each(|devices| agree(tail(network), devices, network.name));
    }
    let mut state = 1u64;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    for chain in 0..60 {
        let count = 1 + next(9);
        let mut input = 1 + next(40);
        let layers: Vec<Layer> = (0..count)
            .map(|_| {
                let output = 1 + next(40);
                let kind = if next(5) == 0 { LayerKind::Other } else { LayerKind::Convolution };
                Layer { kind, ..Layer::of_sizes(std::mem::replace(&mut input, output), output) }
            })
            .collect();
        agree(&layers, 2 + next(6), &format!("random chain {chain}"));
    }
}

#[test]
fn the_headline_of_28_8_percent() {
    let network = yolov2();
    let front = &network.layers[..network.break_point];
    let scattered = 4.0 * tiles::scattered_elements(front, 2, 3) as f64;
    let gathered = 4.0 * tiles::gathered_elements(front) as f64;
    printed(scattered / MEGABYTE, "5.688", "scatter of 2 x 3 tiles");
    printed(gathered / MEGABYTE, "1.479", "gather");
    let layers = tail(&network);
    let output_splitting = 4.0 * traffic::output_splitting(layers, 6);
    let least = 4.0 * traffic::least_by_dynamic_program(layers, 6);
    printed((output_splitting - least) / (output_splitting + scattered + gathered) * 100.0, "28.80", "saving");
}

#[test]
fn memory_per_device_at_the_break_points() {
    let golden: [[&str; 6]; 4] = [
        ["255.5", "129.4", "87.3", "66.3", "53.7", "45.3"],
        ["84.5", "42.8", "28.9", "21.9", "19.0", "17.1"],
        ["97.5", "49.5", "34.0", "26.2", "21.5", "18.4"],
        ["16.8", "8.6", "6.1", "4.9", "4.1", "3.6"],
    ];
    for (network, golden) in networks().iter().zip(golden) {
        for (devices, golden) in (1..).zip(golden) {
            let found = 4.0 * memory::elements(&network.layers, network.break_point, devices) / MEGABYTE;
            // To one unit of the last digit: 45.245 is printed as 45.3.
            let golden: f64 = golden.parse().expect("a number");
            assert!((found - golden).abs() < 0.1, "{} on {devices} devices: {found}, golden {golden}", network.name);
        }
    }
    let network = yolov2();
    let best = memory::least_by_ilp(&network.layers, 6).expect("the program is solvable");
    printed(4.0 * memory::elements(&network.layers, best, 6) / MEGABYTE, "43.4", "least memory of YOLOv2");
    for network in &networks() {
        for devices in 2..=8 {
            let best = memory::least_by_ilp(&network.layers, devices).expect("the program is solvable");
            let found = memory::elements(&network.layers, best, devices);
            let least = (0..=network.layers.len())
                .map(|break_point| memory::elements(&network.layers, break_point, devices))
                .fold(f64::INFINITY, f64::min);
            assert!(found <= least * (1.0 + 1e-9), "{} on {devices}: {found}, best {least}", network.name);
        }
    }
}

#[test]
fn fused_tiles_of_deepthings() {
    let network = yolov2();
    let front = &network.layers[..16];
    let frame = (608 * 608 * 3) as f64;
    for (edge, golden) in [(3, "13.79"), (4, "16.23"), (5, "18.99")] {
        let sent = frame + (tiles::scattered_elements(front, edge, edge) + tiles::gathered_elements(front)) as f64;
        printed(4.0 * sent / MEBIBYTE, golden, &format!("{edge} x {edge} tiles"));
    }
    let weights: u64 = front.iter().map(|layer| layer.weights).sum();
    let whole = front.iter().map(|layer| layer.input + layer.output).max().unwrap_or(0);
    let saved = |largest: f64| (1.0 - (weights as f64 + largest) / (weights + whole) as f64) * 100.0;
    let tile = |edge: usize| tiles::largest_tile_elements(front, edge, edge) as f64;
    for (largest, megabytes, percent) in
        [(whole as f64 / 4.0, "14.79", "61"), (tile(3), "16.80", "58"), (tile(5), "9.53", "68")]
    {
        printed(4.0 * largest / MEGABYTE, megabytes, "largest share of the activations");
        printed(saved(largest), percent, "saving of memory");
    }
    let coarse = weights as f64 + tile(3);
    printed((1.0 - (weights as f64 + tile(5)) / coarse) * 100.0, "23.9", "from 3 x 3 to 5 x 5");
    let macs: u64 = front.iter().map(Layer::macs).sum();
    for (edge, golden) in [(3, "1.53"), (4, "1.85"), (5, "2.20")] {
        printed(tiles::tiled_macs(front, edge, edge) as f64 / macs as f64, golden, &format!("{edge} x {edge} tiles"));
    }
}

#[test]
fn the_early_exit_alexnet_of_disabato() {
    let multiplications = [105.73e6, 224.34e6, 5.55e6, 149.52e6, 112.14e6, 74.84e6, 37.75e6, 16.78e6];
    let output_kibibytes = [279.94, 173.06, 173.06, 259.58, 259.58, 36.86, 16.38, 4.0];
    let layers: Vec<PlacedLayer> = (0..8)
        .map(|index| PlacedLayer {
            multiplications: multiplications[index],
            output_bytes: output_kibibytes[index] * 1024.0,
            probability: if index < 3 { 0.772 } else { 0.228 },
            rate: 560e6,
            hops: 1.0,
        })
        .collect();
    // 72.2 Mbit/s are 9241.6 KiB/s in the authors' program.
    let seconds = expected_seconds(&layers, (227 * 227 * 3 * 4) as f64, 9241.6 * 1024.0, 1.0);
    printed(seconds, "0.729", "expected latency");
    printed(seconds, "0.72899", "expected latency");
}

#[test]
fn the_shape_of_samos_table_1() {
    let layers = tail(&yolov2()).to_vec();
    let lop = 4.0 * traffic::output_splitting(&layers[4..], 6);
    // What the authors' hand-made fusion sends; the optimum of the later paper sends less.
    let fuse = 68.44 * MEBIBYTE;
    assert!(4.0 * traffic::least_by_dynamic_program(&layers[4..], 6) < fuse);
    printed(lop / MEBIBYTE, "80.10", "output splitting from layer 16 on");
    for (rate, published_lop, published_fuse) in [(10e6, 74.2, 64.2), (100e6, 11.6, 10.1), (1e9, 5.92, 5.59)] {
        let found_lop = hub_seconds(4.97, lop, 0.0, rate);
        let found_fuse = hub_seconds(4.59, fuse, 0.0, rate);
        let close = |found: f64, published: f64| (found / published - 1.0).abs() < 0.08;
        assert!(close(found_lop, published_lop), "output splitting at {rate}: {found_lop}, published {published_lop}");
        assert!(found_fuse < found_lop, "fusion is faster at every rate");
        assert!(close(found_fuse, published_fuse), "fusion at {rate}: {found_fuse}, published {published_fuse}");
    }
}
