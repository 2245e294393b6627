//! The machine that kernels are made for.

use std::sync::Arc;

use crate::Bytes;
use partita_config::tuned::Tuning;
use partita_config::{InstructionSet, Settings, Target, WeightStorage};
use partita_ir::graph::{ElementType, Stored};

/// What a kernel may assume of the machine it is made for.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// How it will be spelled; gives the number of lanes.
    pub instruction_set: InstructionSet,
    /// Vector registers.
    pub registers: u32,
    /// First-level data cache, 0 if none.
    pub l1_bytes: u64,
    /// Second-level cache, 0 if none.
    pub l2_bytes: u64,
    /// Convolutions may be done by Winograd's algorithm, which needs more memory and rounds more.
    pub winograd: bool,
    /// Threads that share each kernel.
    pub threads: usize,
    /// Instructions are executed in the order in which they stand.
    pub in_order: bool,
    /// It multiplies bytes by fours.
    pub dot_product: bool,
    /// Bytes are multiplied where they can be.
    pub byte_products: bool,
    /// How far ahead kernels fetch weights that come from memory; 0 if they do not.
    pub prefetch_bytes: u64,
    /// How weights of matrix products are stored where they are exact in it.
    pub weight_storage: WeightStorage,
    /// Memory is scarce: whole numbers are kept in as few bytes as hold them, which kernels widen and narrow.
    pub stores_narrow: bool,
    /// What measurements say of its kernels.
    pub tuning: Arc<Tuning>,
}

impl Machine {
    /// A machine of which no more is known than how its kernels are spelled.
    pub fn spelled(instruction_set: InstructionSet, registers: u32) -> Machine {
        Machine {
            instruction_set,
            registers,
            l1_bytes: 0,
            l2_bytes: 0,
            winograd: false,
            threads: 1,
            in_order: false,
            dot_product: false,
            byte_products: true,
            prefetch_bytes: 0,
            weight_storage: WeightStorage::F32,
            stores_narrow: false,
            tuning: Arc::default(),
        }
    }

    /// The machine of a target, and what is wanted of its kernels.
    pub fn of(target: &Target, settings: &Settings) -> Machine {
        Machine {
            instruction_set: target.instruction_set,
            registers: target.vector_registers,
            l1_bytes: target.l1_bytes,
            l2_bytes: target.l2_bytes,
            threads: target.threads,
            in_order: target.in_order,
            dot_product: target.dot_product,
            byte_products: settings.byte_products,
            prefetch_bytes: target.prefetch_bytes,
            weight_storage: settings.weight_storage,
            stores_narrow: target.stores_narrow(),
            tuning: settings.tuning.clone(),
            winograd: target.allows_winograd() && settings.winograd,
        }
    }

    /// How it multiplies bytes, if it does.
    pub fn byte_products(&self) -> Option<Bytes> {
        match self.instruction_set {
            InstructionSet::Neon => Some(Bytes::Signed),
            InstructionSet::Avx512 | InstructionSet::Avx2 => Some(Bytes::Unsigned).filter(|_| self.dot_product),
            InstructionSet::Sse2 | InstructionSet::Neon32 | InstructionSet::Scalar => None,
        }
        .filter(|_| self.byte_products)
    }

    /// Whether it multiplies bytes by halves of vectors, for want of an instruction for
    /// [`Expression::DotBytes`](crate::Expression::DotBytes): [`super::halves`].
    pub(super) fn multiplies_halves(&self) -> bool {
        self.byte_products() == Some(Bytes::Signed) && !self.dot_product
    }

    /// How it keeps activations that can be stored in one way.
    pub fn kept(&self, stored: Stored) -> Stored {
        match (self.byte_products(), stored.element) {
            _ if stored.is_for_links() => Stored::plain(ElementType::F32),
            (Some(Bytes::Unsigned), ElementType::I8) => Stored::shifted(ElementType::U8, stored.offset - 128),
            (Some(Bytes::Signed), ElementType::U8) => Stored::shifted(ElementType::I8, stored.offset + 128),
            (Some(_), _) => stored,
            _ if self.stores_narrow => stored,
            _ => Stored::plain(ElementType::F32),
        }
    }

    /// Registers for weights where a tile is multiplied by lane: one pair in use, and one on its way if instructions
    /// are executed in order.
    pub(super) fn pair_registers(&self) -> usize {
        if self.in_order { 4 } else { 2 }
    }
}
