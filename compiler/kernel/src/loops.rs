//! Loop variables, and what of a result their loops run over.

/// A loop variable of a kernel. Index into [`Kernel::loops`](crate::Kernel::loops).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoopVar(pub u32);

/// A loop variable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoopDeclaration {
    /// Name in emitted code: an identifier.
    pub name: String,
    /// What of the result its loops run over; none if they run over what is summed, or over what stays in scratch
    /// buffers.
    pub role: Option<Role>,
}

/// What of the result a loop runs over. Loops of one role that lie beside each other can be shared among threads
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Samples, or matrices of a batched product.
    Batch,
    /// Groups of channels of a convolution.
    Group,
    /// Vectors of channels, or of a product's columns; or tiles of several such.
    Channels,
    /// Vectors of a tile, or of a row's elements.
    Vector,
    /// Depth of a volume.
    Depth,
    /// Blocks of rows that are transformed together for Winograd's algorithm.
    BlockRow,
    /// Blocks of columns, likewise.
    BlockColumn,
    /// Rows of tiles within such a block.
    TileRow,
    /// Columns of tiles within such a block.
    TileColumn,
    /// Strips of rows that are pooled together.
    Strip,
    /// Rows of an image, a product or a normalisation.
    Row,
    /// Rows of a pool's result within a strip.
    PooledRow,
    /// Columns of an image.
    Column,
    /// Elements of a plane.
    Position,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 14] = [
        Role::Batch,
        Role::Group,
        Role::Channels,
        Role::Vector,
        Role::Depth,
        Role::BlockRow,
        Role::BlockColumn,
        Role::TileRow,
        Role::TileColumn,
        Role::Strip,
        Role::Row,
        Role::PooledRow,
        Role::Column,
        Role::Position,
    ];

    /// The word for it in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Role::Batch => "batch",
            Role::Group => "group",
            Role::Channels => "channels",
            Role::Vector => "vector",
            Role::Depth => "depth",
            Role::BlockRow => "block_row",
            Role::BlockColumn => "block_column",
            Role::TileRow => "tile_row",
            Role::TileColumn => "tile_column",
            Role::Strip => "strip",
            Role::Row => "row",
            Role::PooledRow => "pooled_row",
            Role::Column => "column",
            Role::Position => "position",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}
