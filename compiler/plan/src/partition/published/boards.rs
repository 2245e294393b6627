//! What others have measured on Raspberry Pis, and what the target files predict for the same networks.
//!
//! Measured by ncnn's own benchmark (`benchmark/README.md` of its repository: loop of the big cores, 1 and 4 threads), f32 on
//! Raspberry Pi 3B+ (1.4 GHz) and 4 (1.8 GHz). On a Raspberry Pi 5 it computes in f16; f32, with half as many numbers in a
//! register and in a byte of memory, is taken to last 1.8 times as long. Its ResNet-50 is the first version, whose strides
//! are in pointwise convolutions. Emitted kernels execute as many instructions as ncnn's, within 3 % where that was counted
//! (`tests/results/instructions.md`), so this is what they should take.

use crate::partition::cost::node_seconds;
use partita_config::{Cluster, Device, cluster_file};
use partita_ir::graph::op::{Conv, Gemm, Pool, PoolKind, Window};
use partita_ir::graph::{Activation, Graph, Op, TensorType, Value};

/// f32 over f16, on a core that computes in both.
const F32_OVER_F16: f64 = 1.8;

/// Network, milliseconds with one thread, and how many times as fast four are.
type Measured = (&'static str, f64, f64);

const RASPBERRY_PI_3B_PLUS: [Measured; 5] = [
    ("SqueezeNet 1.1", 125.3, 1.48),
    ("MobileNetV2", 158.7, 1.43),
    ("ResNet-18", 379.2, 1.40),
    ("ResNet-50", 977.5, 1.68),
    ("AlexNet", 270.1, 1.71),
];

const RASPBERRY_PI_4: [Measured; 6] = [
    ("SqueezeNet 1.1", 73.4, 1.58),
    ("MobileNetV2", 93.0, 1.51),
    ("ResNet-18", 190.8, 1.56),
    ("ResNet-50", 533.2, 2.04),
    ("AlexNet", 139.3, 1.84),
    ("VGG16", 1066.6, 1.97),
];

const RASPBERRY_PI_5: [Measured; 6] = [
    ("SqueezeNet 1.1", 11.8 * F32_OVER_F16, 1.75),
    ("MobileNetV2", 16.2 * F32_OVER_F16, 1.55),
    ("ResNet-18", 29.5 * F32_OVER_F16, 1.49),
    ("ResNet-50", 89.0 * F32_OVER_F16, 1.94),
    ("AlexNet", 35.2 * F32_OVER_F16, 1.66),
    ("VGG16", 188.8 * F32_OVER_F16, 1.48),
];

/// A network layer by layer, each a graph of its own on a picture of `[channels, extent, extent]`.
struct Layers<'a> {
    devices: &'a [Device],
    channels: usize,
    extent: usize,
    /// By device.
    seconds: Vec<f64>,
}

impl Layers<'_> {
    fn on(devices: &[Device], extent: usize) -> Layers<'_> {
        Layers { devices, channels: 3, extent, seconds: vec![0.0; devices.len()] }
    }

    fn add(&mut self, op: Op, input: &[usize], weights: &[&[usize]], output: &[usize]) {
        let mut graph = Graph::new("layer");
        let mut inputs = vec![graph.add_input("x", TensorType::f32(input))];
        for (index, shape) in weights.iter().enumerate() {
            // Not whole numbers: those are convolved directly.
            let value = Value::f32(*shape, vec![0.5; shape.iter().product()]);
            inputs.push(graph.add_constant(format!("w{index}"), value));
        }
        let y = graph.add_tensor("y", TensorType::f32(output));
        let node = graph.add_node("layer", op, inputs, vec![y]);
        graph.outputs.push(y);
        for (seconds, device) in self.seconds.iter_mut().zip(self.devices) {
            *seconds += node_seconds(&graph, node, device);
        }
    }

    fn window(kernel: usize, stride: usize, padding: usize) -> Window {
        Window {
            kernel: vec![kernel; 2],
            stride: vec![stride; 2],
            dilation: vec![1; 2],
            pad_begin: vec![padding; 2],
            pad_end: vec![padding; 2],
        }
    }

    fn picture(&self) -> [usize; 4] {
        [1, self.channels, self.extent, self.extent]
    }

    /// A convolution beside the others: what follows still reads what this one read.
    fn branch(&mut self, filters: usize, kernel: usize, stride: usize) {
        let (channels, extent) = (self.channels, self.extent);
        self.conv(filters, kernel, stride, kernel / 2, 1);
        (self.channels, self.extent) = (channels, extent);
    }

    fn conv(&mut self, filters: usize, kernel: usize, stride: usize, padding: usize, groups: usize) {
        let input = self.picture();
        self.extent = (self.extent + 2 * padding - kernel) / stride + 1;
        let weights = [filters, self.channels / groups, kernel, kernel];
        self.channels = filters;
        let window = Self::window(kernel, stride, padding);
        let conv = Conv { window, groups, residual: false, activation: Activation::Relu };
        self.add(Op::Conv(conv), &input, &[&weights, &[filters]], &self.picture());
    }

    fn same(&mut self, filters: usize, kernel: usize, stride: usize) {
        self.conv(filters, kernel, stride, kernel / 2, 1);
    }

    fn pool(&mut self, kernel: usize, stride: usize, padding: usize) {
        let input = self.picture();
        self.extent = (self.extent + 2 * padding - kernel) / stride + 1;
        let window = Self::window(kernel, stride, padding);
        let pool =
            Pool { kind: PoolKind::Max, declared_pad_end: window.pad_end.clone(), window, count_include_pad: false };
        self.add(Op::Pool(pool), &input, &[], &self.picture());
    }

    fn gemm(&mut self, outputs: usize) {
        let flat = self.channels * self.extent * self.extent;
        (self.channels, self.extent) = (outputs, 1);
        let gemm = Gemm { transpose_a: false, transpose_b: true, alpha: 1.0, beta: 1.0, activation: Activation::Relu };
        self.add(Op::Gemm(gemm), &[1, flat], &[&[outputs, flat], &[outputs]], &[1, outputs]);
    }
}

/// Adds the layers of a network.
type Network = fn(&mut Layers<'_>);

fn squeezenet(net: &mut Layers<'_>) {
    net.conv(64, 3, 2, 0, 1);
    net.pool(3, 2, 0);
    for (index, (squeeze, expand)) in
        [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)].into_iter().enumerate()
    {
        net.same(squeeze, 1, 1);
        net.branch(expand, 1, 1);
        net.same(expand, 3, 1);
        net.channels = 2 * expand;
        if index == 1 || index == 3 {
            net.pool(3, 2, 0);
        }
    }
    net.same(1000, 1, 1);
}

fn mobilenet(net: &mut Layers<'_>) {
    net.same(32, 3, 2);
    let blocks =
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
    for (wider, filters, count, stride) in blocks {
        for index in 0..count {
            if wider > 1 {
                net.same(net.channels * wider, 1, 1);
            }
            net.conv(net.channels, 3, if index == 0 { stride } else { 1 }, 1, net.channels);
            net.same(filters, 1, 1);
        }
    }
    net.same(1280, 1, 1);
    (net.channels, net.extent) = (1280, 1);
    net.gemm(1000);
}

/// Stages of (width, blocks); `block` adds one of a width and stride.
fn resnet(net: &mut Layers<'_>, stages: [(usize, usize); 4], mut block: impl FnMut(&mut Layers<'_>, usize, usize)) {
    net.same(64, 7, 2);
    net.pool(3, 2, 1);
    for (stage, (width, blocks)) in stages.into_iter().enumerate() {
        (0..blocks).for_each(|index| block(net, width, if stage > 0 && index == 0 { 2 } else { 1 }));
    }
    net.extent = 1;
    net.gemm(1000);
}

fn resnet18(net: &mut Layers<'_>) {
    resnet(net, [(64, 2), (128, 2), (256, 2), (512, 2)], |net, width, stride| {
        if net.channels != width {
            net.branch(width, 1, stride);
        }
        net.same(width, 3, stride);
        net.same(width, 3, 1);
    });
}

fn resnet50(net: &mut Layers<'_>) {
    resnet(net, [(64, 3), (128, 4), (256, 6), (512, 3)], |net, width, stride| {
        if net.channels != 4 * width {
            net.branch(4 * width, 1, stride);
        }
        net.same(width, 1, stride);
        net.same(width, 3, 1);
        net.same(4 * width, 1, 1);
    });
}

fn alexnet(net: &mut Layers<'_>) {
    net.conv(64, 11, 4, 2, 1);
    net.pool(3, 2, 0);
    net.same(192, 5, 1);
    net.pool(3, 2, 0);
    [384, 256, 256].into_iter().for_each(|filters| net.same(filters, 3, 1));
    net.pool(3, 2, 0);
    [4096, 4096, 1000].into_iter().for_each(|outputs| net.gemm(outputs));
}

fn vgg16(net: &mut Layers<'_>) {
    for (filters, count) in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)] {
        (0..count).for_each(|_| net.same(filters, 3, 1));
        net.pool(2, 2, 0);
    }
    [4096, 4096, 1000].into_iter().for_each(|outputs| net.gemm(outputs));
}

/// A board of each kind, with one thread and with four.
fn boards() -> Cluster {
    let device = |target: &str, threads: usize| {
        format!("[[device]]\nname = \"{target}-{threads}\"\ntarget = \"{target}\"\nthreads = {threads}\n")
    };
    let targets = ["raspberry-pi-3b-plus", "raspberry-pi-4", "raspberry-pi-5"];
    let devices: String = targets.iter().map(|target| device(target, 1) + &device(target, 4)).collect();
    let text = format!(
        "[cluster]\nname = \"boards\"\ninput = \"{0}-1\"\noutput = \"{0}-1\"\n{devices}[[link]]\nbetween = [{1}]\n\
         transport = \"tcp\"\nbandwidth = \"1 Gbit/s\"\n",
        targets[0],
        targets.map(|target| format!("\"{target}-1\", \"{target}-4\"")).join(", ")
    );
    cluster_file::parse(&text, "cluster.toml", std::path::Path::new(".")).expect("the cluster is sound")
}

#[test]
fn boards_take_as_long_as_others_have_measured() {
    let cluster = boards();
    let networks: [(&str, Network); 6] = [
        ("SqueezeNet 1.1", squeezenet),
        ("MobileNetV2", mobilenet),
        ("ResNet-18", resnet18),
        ("ResNet-50", resnet50),
        ("AlexNet", alexnet),
        ("VGG16", vgg16),
    ];
    let mut wrong = Vec::new();
    println!("{:>20} {:>15} {:>9} {:>9} {:>6}", "board", "network", "measured", "predicted", "ratio");
    for (name, network) in networks {
        let mut layers = Layers::on(&cluster.devices, 224);
        network(&mut layers);
        let boards: [&[Measured]; 3] = [&RASPBERRY_PI_3B_PLUS, &RASPBERRY_PI_4, &RASPBERRY_PI_5];
        for (board, measured) in boards.into_iter().enumerate() {
            let Some((_, one_ms, gain)) = measured.iter().find(|(measured, ..)| *measured == name) else { continue };
            // Gains differ by 1.4 between networks of the same kind, which no sum of rates tells apart.
            for (threads, measured_ms, most) in [(0, *one_ms, 1.15), (1, one_ms / gain, 1.20)] {
                let predicted_ms = layers.seconds[2 * board + threads] * 1e3;
                let ratio = predicted_ms / measured_ms;
                let device = &cluster.devices[2 * board + threads].name;
                let line = format!("{device:>20} {name:>15} {measured_ms:9.1} {predicted_ms:9.1} {ratio:6.3}");
                println!("{line}");
                wrong.extend((ratio > most || ratio < 1.0 / most).then_some(line));
            }
        }
    }
    assert!(wrong.is_empty(), "more than 15 % off with one thread, or 20 % with four:\n{}", wrong.join("\n"));
}
