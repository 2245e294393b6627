//! Fused tiles as DeepThings (Zhao et al., TCAD 2018) cuts them: a grid over the last fused layer, traced back.

use super::chain::{Layer, LayerKind};

/// Rows and columns of a tile: `begin..end` each.
pub type Tile = [(usize, usize); 2];

/// The tiles of a grid over the output of the last layer.
pub fn grid(layers: &[Layer], rows: usize, columns: usize) -> Vec<Tile> {
    let (height, width) = layers.last().map_or((0, 0), Layer::output_extent);
    let cut = |extent: usize, parts: usize, index: usize| {
        // Even steps, rounded up; the last tile takes what is left.
        let step = extent.div_ceil(parts.max(1));
        ((index * step).min(extent), ((index + 1) * step).min(extent))
    };
    (0..rows)
        .flat_map(|row| (0..columns).map(move |column| [cut(height, rows, row), cut(width, columns, column)]))
        .collect()
}

/// The part of a layer's input that a part of its output needs, clipped to the input.
pub fn input_of(layer: &Layer, output: Tile) -> Tile {
    let extents = [layer.extent.0, layer.extent.1];
    let mut needed = output;
    for ((begin, end), extent) in needed.iter_mut().zip(extents) {
        let (first, last) = match layer.kind {
            LayerKind::Convolution => {
                let reach = layer.kernel / 2;
                ((*begin * layer.stride).saturating_sub(reach), (*end - 1) * layer.stride + reach + 1)
            }
            LayerKind::Other => (*begin * layer.stride, *end * layer.stride),
        };
        (*begin, *end) = (first, last.min(extent));
    }
    needed
}

/// Input tiles of every layer for one tile of the last output, first layer first; the tile itself comes last.
pub fn trace(layers: &[Layer], tile: Tile) -> Vec<Tile> {
    let mut tiles = vec![tile];
    let mut current = tile;
    for layer in layers.iter().rev() {
        current = input_of(layer, current);
        tiles.push(current);
    }
    tiles.reverse();
    tiles
}

fn area(tile: Tile) -> u64 {
    tile.iter().map(|(begin, end)| (end - begin) as u64).product()
}

/// Elements of all input tiles, overlaps sent as often as they are needed.
pub fn scattered_elements(layers: &[Layer], rows: usize, columns: usize) -> u64 {
    let channels = layers.first().map_or(0, |layer| layer.channels) as u64;
    grid(layers, rows, columns).into_iter().map(|tile| area(trace(layers, tile)[0]) * channels).sum()
}

/// Elements of the last output.
pub fn gathered_elements(layers: &[Layer]) -> u64 {
    layers.last().map_or(0, |layer| layer.output)
}

/// Elements of input and output of the layer that needs most, for the tile that needs most.
pub fn largest_tile_elements(layers: &[Layer], rows: usize, columns: usize) -> u64 {
    let of_tile = |tile: Tile| {
        let tiles = trace(layers, tile);
        let layer = |index: usize| {
            let layer = &layers[index];
            area(tiles[index]) * layer.channels as u64 + area(tiles[index + 1]) * layer.filters as u64
        };
        (0..layers.len()).map(layer).max().unwrap_or(0)
    };
    grid(layers, rows, columns).into_iter().map(of_tile).max().unwrap_or(0)
}

/// Multiply-adds of all tiles, overlaps computed as often as they are needed.
pub fn tiled_macs(layers: &[Layer], rows: usize, columns: usize) -> u64 {
    let of_tile = |tile: Tile| -> u64 {
        let tiles = trace(layers, tile);
        let macs = |(index, layer): (usize, &Layer)| {
            layer.macs() / layer.output.max(1) * layer.filters as u64 * area(tiles[index + 1])
        };
        layers.iter().enumerate().map(macs).sum()
    };
    grid(layers, rows, columns).into_iter().map(of_tile).sum()
}
