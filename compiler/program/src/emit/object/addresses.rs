//! Addresses of loads and stores: summed up loop by loop, outermost first, each part where it is first known, with the
//! constant part as the offset; inside a loop they are pointers that move on.

use std::collections::HashMap;

use cranelift_codegen::ir::{InstBuilder, Value, types};

use super::{LoopValue, Translator};
use partita_ir::graph::ElementType;
use partita_kernel::visit::{each_access, each_constant};
use partita_kernel::{Affine, Buffer, LoopVar, Statement};

/// Where accesses of equal terms lie near each other, in bytes: begins of clusters, in rising order.
pub(super) type Anchors = HashMap<Terms, Vec<i64>>;

/// A buffer and what loops add to its address.
pub(super) type Terms = (Buffer, Vec<(LoopVar, i64)>);

/// Bytes that a pair of vector loads reaches from its base, and a single one.
const PAIR_REACH_BYTES: i64 = 1008;
const REACH_BYTES: i64 = 1 << 15;

/// A cluster of fewer accesses does not get an address of its own.
const FEWEST_OF_CLUSTER: usize = 4;

/// Bases for all accesses of a kernel, so that neighbours can be loaded in pairs.
pub(super) fn anchors(body: &[Statement], storages: &[ElementType]) -> Anchors {
    let mut places: Anchors = HashMap::new();
    each_access(body, &mut |buffer, at, _| {
        places
            .entry((buffer, at.terms.clone()))
            .or_default()
            .push(at.constant * storages[buffer.0 as usize].size_bytes() as i64);
    });
    for offsets in places.values_mut() {
        offsets.sort_unstable();
        offsets.dedup();
        let mut begins: Vec<i64> = Vec::new();
        let mut rest = &offsets[..];
        while let Some(first) = rest.first() {
            let cluster = rest.partition_point(|offset| *offset <= first + PAIR_REACH_BYTES);
            let is_near = begins.last().is_some_and(|begin| rest[cluster - 1] - begin < REACH_BYTES);
            if cluster >= FEWEST_OF_CLUSTER || !is_near {
                begins.push(*first);
            }
            rest = &rest[cluster..];
        }
        *offsets = begins;
    }
    places
}

/// A buffer's address, terms of running loops (outermost first) and constant bytes.
pub(super) type Place = (Buffer, Vec<(LoopVar, i64)>, i64);

/// Most addresses that one loop keeps in registers.
const MOST_POINTERS: usize = 6;

/// Most statements of an innermost loop that leave registers for all its constants.
const SHORT_BODY: usize = 40;

impl Translator<'_> {
    pub(super) fn element_bytes(&self, buffer: Buffer) -> i64 {
        self.storages[buffer.0 as usize].size_bytes() as i64
    }

    /// What known loop variables contribute, without the constant.
    pub(super) fn known(&self, affine: &Affine) -> i64 {
        affine
            .terms
            .iter()
            .map(|(var, coefficient)| match self.loops[var.0 as usize] {
                Some(LoopValue::Known(value)) => coefficient * value,
                _ => 0,
            })
            .sum()
    }

    /// Base address and offset of an element. The offset holds everything that is constant, as far as it fits.
    pub(super) fn address(&mut self, buffer: Buffer, at: &Affine) -> (Value, i32) {
        let constant = (at.constant + self.known(at)) * self.element_bytes(buffer);
        let anchor = self.anchor(buffer, at, constant);
        let terms = self.running_terms(at);
        (self.base(buffer, &terms, anchor), (constant - anchor) as i32)
    }

    /// Constant bytes that an access shares with its neighbours.
    fn anchor(&self, buffer: Buffer, at: &Affine, constant: i64) -> i64 {
        let anchors = self.anchors.get(&(buffer, at.terms.clone())).map_or(&[][..], Vec::as_slice);
        let before = anchors[..anchors.partition_point(|anchor| *anchor <= constant)].last();
        match before {
            Some(anchor) if constant - anchor < REACH_BYTES => *anchor,
            _ => constant.div_euclid(REACH_BYTES) * REACH_BYTES,
        }
    }

    /// Terms of loops that run here, outermost first.
    pub(super) fn running_terms(&self, at: &Affine) -> Vec<(LoopVar, i64)> {
        let depth = |var: &LoopVar| self.running.iter().position(|other| *other == var.0);
        let mut terms: Vec<(LoopVar, i64)> = at.terms.iter().filter(|(var, _)| depth(var).is_some()).copied().collect();
        terms.sort_by_key(|(var, _)| depth(var));
        terms
    }

    /// A buffer's address plus terms plus bytes, computed at most once where it is valid.
    pub(super) fn base(&mut self, buffer: Buffer, terms: &[(LoopVar, i64)], bytes: i64) -> Value {
        let key = (buffer, terms.to_vec(), bytes);
        if let Some(value) = self.scopes.iter().rev().find_map(|scope| scope.addresses.get(&key)) {
            return *value;
        }
        let value = match terms.split_last() {
            None if bytes == 0 => self.buffers[buffer.0 as usize],
            None => {
                let base = self.base(buffer, &[], 0);
                self.builder.ins().iadd_imm_s(base, bytes)
            }
            Some(((var, coefficient), outer)) => {
                let base = self.base(buffer, outer, bytes);
                let Some(LoopValue::Running(counter)) = self.loops[var.0 as usize] else { return base };
                let value = self.count(*var, counter);
                let bytes_per_turn = coefficient * self.element_bytes(buffer);
                let term = self.builder.ins().imul_imm_s(value, bytes_per_turn);
                self.builder.ins().iadd(base, term)
            }
        };
        if let Some(scope) = self.scopes.last_mut() {
            scope.addresses.insert(key, value);
        }
        value
    }

    /// Computes, before a loop, the parts of addresses inside that it does not change, and constants of a short body.
    pub(super) fn prepare(&mut self, body: &[Statement]) {
        let mut places = Vec::new();
        each_access(body, &mut |buffer, at, _| places.push((buffer, at.clone())));
        for (buffer, at) in places {
            self.address(buffer, &at);
        }
        let is_innermost = body.iter().all(|inner| !matches!(inner, Statement::For { .. }));
        if is_innermost && body.len() <= SHORT_BODY {
            each_constant(body, &mut |number| {
                self.constant(number);
            });
        }
    }

    /// Addresses that a loop over `var` moves on by the same distance each time, as variables that begin where its first
    /// turn finds them: key, variable, coefficient of the loop's variable.
    pub(super) fn pointers(
        &mut self,
        var: usize,
        first: Value,
        body: &[Statement],
    ) -> Vec<(Place, cranelift_frontend::Variable, i64)> {
        let own = LoopVar(var as u32);
        let mut places: Vec<(Place, i64)> = Vec::new();
        each_access(body, &mut |buffer, at, _| {
            let Some((_, coefficient)) = at.terms.iter().find(|(var, _)| *var == own) else { return };
            let constant = (at.constant + self.known(at)) * self.element_bytes(buffer);
            let place = ((buffer, self.running_terms(at), self.anchor(buffer, at, constant)), *coefficient);
            if !places.contains(&place) {
                places.push(place);
            }
        });
        // More of them would take the registers that they are to save.
        places.truncate(MOST_POINTERS);
        let pointer = |((buffer, mut terms, bytes), coefficient): (Place, i64)| {
            let base = self.base(buffer, &terms, bytes);
            let bytes_per_turn = coefficient * self.element_bytes(buffer);
            let offset = self.builder.ins().imul_imm_s(first, bytes_per_turn);
            let begin = self.builder.ins().iadd(base, offset);
            let pointer = self.builder.declare_var(types::I64);
            self.builder.def_var(pointer, begin);
            terms.push((own, coefficient));
            ((buffer, terms, bytes), pointer, coefficient)
        };
        places.into_iter().map(pointer).collect()
    }
}
