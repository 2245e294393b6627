//! Chains of layers, and the four networks of DeeperThings as darknet defines them.

/// What a layer is, as far as the models tell layers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A convolution: it can be split by output or input channels.
    Convolution,
    /// Anything else: the hub gathers the whole tensor and computes it.
    Other,
}

/// One layer of a chain. Sizes are elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Kind.
    pub kind: LayerKind,
    /// M: elements of the input.
    pub input: u64,
    /// K: elements of the output.
    pub output: u64,
    /// Q: weights, biases left out.
    pub weights: u64,
    /// Rows and columns of the input.
    pub extent: (usize, usize),
    /// Channels of the input.
    pub channels: usize,
    /// Filters; the channels of the output.
    pub filters: usize,
    /// Edge of the window.
    pub kernel: usize,
    /// Step of the window.
    pub stride: usize,
}

impl Layer {
    /// A layer of a toy network, known by its sizes alone.
    pub fn of_sizes(input: u64, output: u64) -> Layer {
        let (extent, channels, filters, kernel, stride) = ((1, 1), input as usize, output as usize, 1, 1);
        Layer { kind: LayerKind::Convolution, input, output, weights: 0, extent, channels, filters, kernel, stride }
    }

    /// Rows and columns of the output.
    pub fn output_extent(&self) -> (usize, usize) {
        let elements = self.output as usize / self.filters.max(1);
        let rows = (1..=elements).find(|rows| rows * rows >= elements).unwrap_or(1);
        (rows, elements / rows.max(1))
    }

    /// Multiply-adds of the whole layer.
    pub fn macs(&self) -> u64 {
        match self.kind {
            LayerKind::Convolution => self.output * (self.channels * self.kernel * self.kernel) as u64,
            LayerKind::Other => 0,
        }
    }
}

/// A network as DeeperThings runs it.
#[derive(Clone, Debug)]
pub struct PublishedNetwork {
    /// Name in the paper.
    pub name: &'static str,
    /// Layers in order.
    pub layers: Vec<Layer>,
    /// First layer after the fused tiles, as its code has it.
    pub break_point: usize,
}

/// Builds a chain from the input on.
struct Builder {
    layers: Vec<Layer>,
    extent: usize,
    channels: usize,
}

impl Builder {
    fn new(extent: usize, channels: usize) -> Builder {
        Builder { layers: Vec::new(), extent, channels }
    }

    fn push(&mut self, kind: LayerKind, kernel: usize, stride: usize, filters: usize, output_extent: usize) {
        let square = |extent: usize| (extent * extent) as u64;
        let weights = match kind {
            LayerKind::Convolution => (self.channels * filters * kernel * kernel) as u64,
            LayerKind::Other => 0,
        };
        self.layers.push(Layer {
            kind,
            input: square(self.extent) * self.channels as u64,
            output: square(output_extent) * filters as u64,
            weights,
            extent: (self.extent, self.extent),
            channels: self.channels,
            filters,
            kernel,
            stride,
        });
        (self.extent, self.channels) = (output_extent, filters);
    }

    /// Convolutions of step 1 that keep the extent: (kernel, filters) each.
    fn convolutions(&mut self, list: &[(usize, usize)]) {
        for (kernel, filters) in list {
            self.push(LayerKind::Convolution, *kernel, 1, *filters, self.extent);
        }
    }

    /// A pooling of step 2.
    fn pool(&mut self, kernel: usize, output_extent: usize) {
        self.push(LayerKind::Other, kernel, 2, self.channels, output_extent);
    }
}

/// YOLOv2 at 608 x 608 with 425 outputs per cell (darknet `yolov2.cfg`).
pub fn yolov2() -> PublishedNetwork {
    let mut net = Builder::new(608, 3);
    net.convolutions(&[(3, 32)]);
    net.pool(2, 304);
    net.convolutions(&[(3, 64)]);
    net.pool(2, 152);
    net.convolutions(&[(3, 128), (1, 64), (3, 128)]);
    net.pool(2, 76);
    net.convolutions(&[(3, 256), (1, 128), (3, 256)]);
    net.pool(2, 38);
    net.convolutions(&[(3, 512), (1, 256), (3, 512), (1, 256), (3, 512)]);
    net.pool(2, 19);
    net.convolutions(&[(3, 1024), (1, 512), (3, 1024), (1, 512), (3, 1024), (3, 1024), (3, 1024)]);
    // The route back to layer 16, its reorganisation to 19 x 19, and the concatenation with layer 24.
    (net.extent, net.channels) = (38, 512);
    net.push(LayerKind::Other, 1, 1, 512, 38);
    net.convolutions(&[(1, 64)]);
    net.push(LayerKind::Other, 2, 2, 256, 19);
    net.channels = 1280;
    net.push(LayerKind::Other, 1, 1, 1280, 19);
    net.convolutions(&[(3, 1024), (1, 425)]);
    net.push(LayerKind::Other, 1, 1, 425, 19);
    PublishedNetwork { name: "YOLOv2", layers: net.layers, break_point: 12 }
}

/// VGG-16 at 224 x 224; layer 0 crops (darknet `vgg-16.cfg`).
pub fn vgg16() -> PublishedNetwork {
    let mut net = Builder::new(224, 3);
    net.push(LayerKind::Other, 1, 1, 3, 224);
    for (convolutions, filters, pooled) in [(2, 64, 112), (2, 128, 56), (3, 256, 28), (3, 512, 14), (3, 512, 7)] {
        net.convolutions(&vec![(3, filters); convolutions]);
        net.pool(2, pooled);
    }
    PublishedNetwork { name: "VGG-16", layers: net.layers, break_point: 7 }
}

/// Extraction, which the paper calls GoogLeNet, at 224 x 224 (darknet `extraction.cfg`).
pub fn extraction() -> PublishedNetwork {
    let mut net = Builder::new(224, 3);
    net.push(LayerKind::Convolution, 7, 2, 64, 112);
    net.pool(2, 56);
    net.convolutions(&[(3, 192)]);
    net.pool(2, 28);
    net.convolutions(&[(1, 128), (3, 256), (1, 256), (3, 512)]);
    net.pool(2, 14);
    net.convolutions(&[
        (1, 256),
        (3, 512),
        (1, 256),
        (3, 512),
        (1, 256),
        (3, 512),
        (1, 256),
        (3, 512),
        (1, 512),
        (3, 1024),
    ]);
    net.pool(2, 7);
    net.convolutions(&[(1, 512), (3, 1024), (1, 512), (3, 1024), (1, 1000)]);
    PublishedNetwork { name: "Extraction", layers: net.layers, break_point: 4 }
}

/// AlexNet's convolutions at 227 x 227 (darknet `alexnet.cfg`).
pub fn alexnet() -> PublishedNetwork {
    let mut net = Builder::new(227, 3);
    net.push(LayerKind::Convolution, 11, 4, 96, 55);
    net.pool(3, 27);
    net.convolutions(&[(5, 256)]);
    net.pool(3, 13);
    net.convolutions(&[(3, 384), (3, 384), (3, 256)]);
    net.pool(3, 6);
    PublishedNetwork { name: "AlexNet", layers: net.layers, break_point: 2 }
}
