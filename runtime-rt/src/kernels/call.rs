//! Every kernel with its parameters, as one type.

use super::{
    ArgMax, BatchNormalization, Binary, BitCast, Cast, Compare, Concat, Conv, ConvTranspose, Decide, DepthToSpace,
    Einsum, Expand, Gather, Gemm, GlobalPool, GroupNormalization, Identity, InstanceNormalization, LayerNormalization,
    LogSoftmax, Lrn, MatMul, NonMaxSuppression, PRelu, Pad, Pool, Reduce, ResizeLinear, ResizeNearest, RoiAlign,
    Scatter, Slice, Softmax, SpaceToDepth, Split, Transpose, TreeEnsemble, Unary, Where,
};

/// A kernel and its parameters: what the compiler evaluates and prints. Emitted programs hold the parameters themselves, so
/// that they link the kernels that they call, and no others.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(untagged))]
#[allow(missing_docs, reason = "each variant is the kernel of the same name")]
pub enum Call<'a> {
    Conv(Conv<'a>),
    ConvTranspose(ConvTranspose<'a>),
    Gemm(Gemm<'a>),
    MatMul(MatMul<'a>),
    Einsum(Einsum<'a>),
    BatchNormalization(BatchNormalization),
    InstanceNormalization(InstanceNormalization),
    GroupNormalization(GroupNormalization),
    LayerNormalization(LayerNormalization),
    Lrn(Lrn),
    Unary(Unary),
    Binary(Binary<'a>),
    Compare(Compare<'a>),
    PRelu(PRelu<'a>),
    Where(Where<'a>),
    Cast(Cast),
    BitCast(BitCast),
    Pool(Pool<'a>),
    GlobalPool(GlobalPool),
    Softmax(Softmax),
    LogSoftmax(LogSoftmax),
    Reduce(Reduce<'a>),
    ArgMax(ArgMax),
    Concat(Concat),
    Split(Split),
    Slice(Slice<'a>),
    Identity(Identity),
    Transpose(Transpose<'a>),
    Pad(Pad<'a>),
    Gather(Gather),
    Scatter(Scatter),
    Expand(Expand<'a>),
    ResizeNearest(ResizeNearest<'a>),
    ResizeLinear(ResizeLinear<'a>),
    SpaceToDepth(SpaceToDepth),
    DepthToSpace(DepthToSpace),
    NonMaxSuppression(NonMaxSuppression),
    RoiAlign(RoiAlign),
    TreeEnsemble(TreeEnsemble),
    Decide(Decide),
}
