//! Layers of an early-exit network placed on nodes: the expected latency of Disabato, Roveri and Alippi (IEEE TC 2021),
//! and the latency shape of SAMOS 2019, Table 1.

/// A layer of an early-exit network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlacedLayer {
    /// Multiplications.
    pub multiplications: f64,
    /// Size of its result.
    pub output_bytes: f64,
    /// Probability that it is executed.
    pub probability: f64,
    /// Multiplications per second of the node that holds it.
    pub rate: f64,
    /// Hops from the node of the layer before, or from the source.
    pub hops: f64,
}

/// Expected seconds from image to answer:
/// `sum p[j+1] K[j] d / rho + sum p[j] c[j] / e + p[1] K_s d / rho + sum g[j] K_M d / rho`, where the last goes to the
/// sink over `hops_to_sink` whatever the exit (the probabilities `g` of the exits add up to 1).
pub fn expected_seconds(layers: &[PlacedLayer], source_bytes: f64, bytes_per_second: f64, hops_to_sink: f64) -> f64 {
    let mut bytes_before = source_bytes;
    let mut total = 0.0;
    for layer in layers {
        total +=
            layer.probability * (bytes_before * layer.hops / bytes_per_second + layer.multiplications / layer.rate);
        bytes_before = layer.output_bytes;
    }
    total + bytes_before * hops_to_sink / bytes_per_second
}

/// Seconds of one inference in the setting of SAMOS 2019, Table 1 (hub, fixed computation): computation, and traffic
/// with what is lost around it, `T = compute + 8 (traffic + lost) / rate`. Both constants are fitted to the table; its
/// shape over the link rates comes from the bytes.
pub fn hub_seconds(compute_seconds: f64, traffic_bytes: f64, lost_bytes: f64, bits_per_second: f64) -> f64 {
    compute_seconds + 8.0 * (traffic_bytes + lost_bytes) / bits_per_second
}
