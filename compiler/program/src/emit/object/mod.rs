//! Kernel IR as AArch64 machine code, through Cranelift; the only module that knows Cranelift.
//!
//! Each kernel becomes one exported function of pointers. Loop variables are integers, vector variables `f32x4`.
//! `addresses` computes where loads and stores go, `expressions` spells arithmetic, which stays in the order of the kernel,
//! `substitutes` has the instructions that Cranelift lacks.

mod addresses;
mod expressions;
mod narrow;
mod substitutes;

use std::collections::HashMap;

use anyhow::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, Endianness, FuncRef, InstBuilder, MemFlagsData, UserFuncName, Value, types};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{FuncId, Linkage, Module, ModuleReloc};
use cranelift_object::{ObjectBuilder, ObjectModule};
use minijinja::context;

use addresses::{Anchors, Place, anchors};
use substitutes::Substitute;

use super::{load_pairs, rust_source, steps, templates};
use partita_config::{InstructionSet, Target};
use partita_ir::graph::ElementType;
use partita_kernel::split::Split;
use partita_kernel::unroll::unroll;
use partita_kernel::visit::each_expression;
use partita_kernel::{Affine, Bound, Expression, Function, Kernel, LoopVar, Statement, turns};

/// An ELF object with one exported function per kernel, named `symbol_prefix` + the kernel's name, taking the kernel's
/// buffers as pointers.
pub fn compile_kernels(kernels: &[Kernel], target: &Target, symbol_prefix: &str) -> anyhow::Result<Vec<u8>> {
    let mut module = module(target)?;
    let mut frontend = FunctionBuilderContext::new();
    for kernel in kernels {
        let (id, mut context) = function(kernel, &mut module, &mut frontend, symbol_prefix)?;
        define(&mut module, id, &mut context).with_context(|| format!("compiling kernel `{}`", kernel.name))?;
    }
    Ok(module.finish().emit()?)
}

/// What a kernel is for Cranelift, in its text form; for people and tests.
pub fn text(kernel: &Kernel, target: &Target) -> anyhow::Result<String> {
    let (_, context) = function(kernel, &mut module(target)?, &mut FunctionBuilderContext::new(), "")?;
    Ok(context.func.display().to_string())
}

fn module(target: &Target) -> anyhow::Result<ObjectModule> {
    anyhow::ensure!(
        target.instruction_set == InstructionSet::Neon,
        "target `{}` is not AArch64: its kernels are Rust source",
        target.name
    );
    let mut flags = settings::builder();
    // Its optimiser would compute one accumulator after the other, with all operands of a tile in registers at once.
    flags.set("opt_level", "none")?;
    flags.set("is_pic", "true")?;
    flags.set("enable_verifier", "true")?;
    let isa = cranelift_codegen::isa::lookup_by_name("aarch64-unknown-linux")
        .with_context(|| format!("Cranelift has no code for target `{}`", target.name))?
        .finish(settings::Flags::new(flags))?;
    let builder = ObjectBuilder::new(isa, "partita_kernels", cranelift_module::default_libcall_names())?;
    Ok(ObjectModule::new(builder))
}

/// The function of a kernel, declared and not yet compiled.
fn function(
    kernel: &Kernel,
    module: &mut ObjectModule,
    frontend: &mut FunctionBuilderContext,
    symbol_prefix: &str,
) -> anyhow::Result<(FuncId, cranelift_codegen::Context)> {
    anyhow::ensure!(kernel.lanes == 4, "kernel `{}` has {} lanes, expected 4", kernel.name, kernel.lanes);
    let pointer = module.target_config().pointer_type();
    let mut context = module.make_context();
    for _ in &kernel.buffers {
        context.func.signature.params.push(AbiParam::new(pointer));
    }
    if kernel.split.is_some() {
        context.func.signature.params.push(AbiParam::new(types::I64));
    }
    let name = format!("{symbol_prefix}{}", kernel.name);
    let id = module.declare_function(&name, Linkage::Export, &context.func.signature)?;
    context.func.name = UserFuncName::user(0, id.as_u32());
    let barrier = match kernel.split {
        Some(_) => {
            let function = barrier(module)?;
            Some(module.declare_func_in_func(function, &mut context.func))
        }
        None => None,
    };
    let builder = FunctionBuilder::new(&mut context.func, frontend);
    translate(&unroll(kernel), builder, barrier, module.target_config());
    Ok((id, context))
}

/// Compiles a function, and puts neighbouring loads and stores together.
fn define(module: &mut ObjectModule, id: FuncId, context: &mut cranelift_codegen::Context) -> anyhow::Result<()> {
    context
        .compile(module.isa(), &mut ControlPlane::default())
        .map_err(|error| anyhow::anyhow!("{:?}", error.inner))?;
    let compiled = context.compiled_code().context("Cranelift made no code")?;
    let mut relocations: Vec<ModuleReloc> = compiled
        .buffer
        .relocs()
        .iter()
        .map(|relocation| ModuleReloc::from_mach_reloc(relocation, &context.func, id))
        .collect();
    let mut code = compiled.code_buffer().to_vec();
    for place in compiled.buffer.get_srclocs_sorted() {
        if let Some(substitute) = Substitute::marked(place.loc)
            && let Some(range) = code.get_mut(place.start as usize..place.end as usize)
        {
            substitutes::rewrite(range, substitute);
        }
    }
    let joined = load_pairs::join(&code);
    if let Some((_, places)) = &joined {
        for relocation in &mut relocations {
            relocation.offset = (places[relocation.offset as usize / 4] * 4) as u32;
        }
    }
    let code = joined.as_ref().map_or(&code, |(code, _)| code);
    Ok(module.define_function_bytes(id, u64::from(compiled.buffer.alignment), code, &relocations)?)
}

/// Rust declarations of the functions that [`compile_kernels`] makes.
pub fn declarations(kernels: &[Kernel], symbol_prefix: &str) -> anyhow::Result<String> {
    let declaration = |kernel: &Kernel| {
        context! {
            name => format!("{symbol_prefix}{}", kernel.name),
            summary => steps::sanitize(&kernel.summary),
            parameters => rust_source::parameters(kernel),
        }
    };
    let kernels: Vec<_> = kernels.iter().map(declaration).collect();
    templates::render("kernels/declarations.rs.j2", context! { kernels })
}

/// The run time's function in which threads wait for each other.
fn barrier(module: &mut ObjectModule) -> anyhow::Result<FuncId> {
    let signature = module.make_signature();
    Ok(module.declare_function("partita_team_barrier", Linkage::Import, &signature)?)
}

fn translate(
    kernel: &Kernel,
    mut builder: FunctionBuilder<'_>,
    barrier: Option<FuncRef>,
    config: TargetFrontendConfig,
) {
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let mut buffers = builder.block_params(entry).to_vec();
    let part = kernel.split.as_ref().and_then(|_| buffers.pop());
    let shared = kernel.split.clone().zip(part);
    let mut loops = vec![None; kernel.loops.len()];
    if let Some((split, part)) = &shared
        && let Some(var) = split.part
    {
        let counter = builder.declare_var(types::I64);
        builder.def_var(counter, *part);
        loops[var.0 as usize] = Some(LoopValue::Running(counter));
    }
    let vectors = kernel.variable_names.iter().map(|_| builder.declare_var(types::F32X4)).collect();
    let running = loops.iter().enumerate().filter(|(_, value)| value.is_some()).map(|(var, _)| var as u32).collect();
    let scopes = vec![Scope::default()];
    let storages: Vec<ElementType> = kernel.buffers.iter().map(|buffer| buffer.storage).collect();
    let anchors = anchors(&kernel.body, &storages);
    let counted = vec![false; kernel.loops.len()];
    let transposition = transposition(kernel, &mut builder);
    let mut translator = Translator {
        builder,
        buffers,
        barrier,
        shared,
        vectors,
        loops,
        running,
        scopes,
        anchors,
        storages,
        counted,
        transposition,
    };
    translator.block(&kernel.body);
    translator.builder.ins().return_(&[]);
    translator.builder.seal_all_blocks();
    translator.builder.finalize(config);
}

/// The order of bytes by which `tbl` transposes four bytes of four lanes, in a register for all of a kernel that does so.
fn transposition(kernel: &Kernel, builder: &mut FunctionBuilder<'_>) -> Option<Value> {
    let mut is_needed = false;
    let transposes = |part: &Expression| matches!(part, Expression::Unary(Function::TransposeBytes, _));
    each_expression(&kernel.body, &mut |part| is_needed |= transposes(part));
    is_needed.then(|| {
        let [low, high] =
            [0x0d09_0501_0c08_0400, 0x0f0b_0703_0e0a_0602].map(|half| builder.ins().iconst(types::I64, half));
        let order = builder.ins().scalar_to_vector(types::I64X2, low);
        let order = builder.ins().insertlane(order, high, 1);
        let little = MemFlagsData::new().with_endianness(Endianness::Little);
        builder.ins().bitcast(types::I8X16, little, order)
    })
}

/// What a loop variable is at some place.
#[derive(Clone, Copy)]
enum LoopValue {
    /// The loop runs once.
    Known(i64),
    /// A variable of the function.
    Running(cranelift_frontend::Variable),
}

/// Values that are known to have been computed, in one block and what it leads to.
#[derive(Default)]
struct Scope {
    /// Sums.
    addresses: HashMap<Place, Value>,
    /// Vectors of one number, by its bits.
    constants: HashMap<u32, Value>,
}

struct Translator<'a> {
    builder: FunctionBuilder<'a>,
    buffers: Vec<Value>,
    /// Where threads wait for each other.
    barrier: Option<FuncRef>,
    /// How threads share the kernel, and which this is.
    shared: Option<(Split, Value)>,
    vectors: Vec<cranelift_frontend::Variable>,
    loops: Vec<Option<LoopValue>>,
    /// Variables of running loops, outermost first.
    running: Vec<u32>,
    /// One per running loop, and one around all.
    scopes: Vec<Scope>,
    anchors: Anchors,
    /// Of each buffer.
    storages: Vec<ElementType>,
    /// Loop variables whose value some instruction needs.
    counted: Vec<bool>,
    /// Where bytes are transposed, in which order `tbl` takes them.
    transposition: Option<Value>,
}

impl Translator<'_> {
    fn block<'b>(&mut self, statements: &'b [Statement]) {
        let mut statements = statements;
        while let Some(statement) = statements.first() {
            let count = narrow::together(statements);
            let (these, rest) = statements.split_at(count);
            statements = rest;
            match statement {
                Statement::For { var, low, high, step, unroll, body } => {
                    let is_shared = self.is_shared(var.0 as usize);
                    if let (Bound::Constant(low), Bound::Constant(high)) = (low, high)
                        && !is_shared
                        && (*unroll || high - low <= *step)
                    {
                        let mut value = *low;
                        while value < *high {
                            self.loops[var.0 as usize] = Some(LoopValue::Known(value));
                            self.block(body);
                            value += step;
                        }
                        continue;
                    }
                    self.for_loop(var.0 as usize, low, high, *step, body);
                }
                Statement::Assign(variable, value) => {
                    let value = self.expression(value);
                    self.builder.def_var(self.vectors[variable.0 as usize], value);
                }
                Statement::Store(buffer, at, _) => {
                    let value = |statement: &'b Statement| match statement {
                        Statement::Store(_, _, value) => Some(value),
                        _ => None,
                    };
                    self.store_together(*buffer, at, &these.iter().filter_map(value).collect::<Vec<&Expression>>());
                }
                Statement::StorePartial(buffer, at, count, value) => {
                    let value = self.expression(value);
                    self.store_partial(*buffer, at, *count, value);
                }
                Statement::Prefetch(buffer, at) => {
                    let (address, offset) = self.address(*buffer, at);
                    // A load that may trap is kept, though nobody uses its value.
                    self.marked(Substitute::Prefetch, |this| {
                        this.builder.ins().load(types::I64, MemFlagsData::new(), address, offset);
                    });
                }
                Statement::Barrier => {
                    if let Some(barrier) = self.barrier {
                        self.builder.ins().call(barrier, &[]);
                    }
                }
                Statement::Comment(_) => {}
            }
        }
    }

    fn for_loop(&mut self, var: usize, low: &Bound, high: &Bound, step: i64, body: &[Statement]) {
        // What of the addresses inside does not change there is computed now.
        self.prepare(body);
        let (first, end) = match self.shared_range(var, low, high, step) {
            Some(range) => range,
            None => (self.bound(low), self.bound(high)),
        };
        let counter = self.builder.declare_var(types::I64);
        self.builder.def_var(counter, first);
        let pointers = self.pointers(var, first, body);
        let (inside, after) = (self.builder.create_block(), self.builder.create_block());
        // Turns that are left, where their number is known.
        let left = match (low, high) {
            (Bound::Constant(low), Bound::Constant(high)) if !self.is_shared(var) => {
                let left = self.builder.declare_var(types::I64);
                let all = self.builder.ins().iconst(types::I64, turns(*low, *high, step) as i64);
                self.builder.def_var(left, all);
                (low < high).then_some(left)
            }
            _ => None,
        };
        if left.is_some() {
            self.builder.ins().jump(inside, &[]);
        } else {
            let begins = self.builder.ins().icmp(IntCC::SignedLessThan, first, end);
            self.builder.ins().brif(begins, inside, &[], after, &[]);
        }
        self.builder.switch_to_block(inside);
        self.loops[var] = Some(LoopValue::Running(counter));
        self.counted[var] = false;
        self.running.push(var as u32);
        let mut scope = Scope::default();
        for (key, pointer, _) in &pointers {
            scope.addresses.insert(key.clone(), self.builder.use_var(*pointer));
        }
        self.scopes.push(scope);
        self.block(body);
        self.scopes.pop();
        self.running.pop();
        self.loops[var] = None;
        for ((buffer, ..), pointer, coefficient) in pointers {
            let value = self.builder.use_var(pointer);
            let bytes = coefficient * step * self.element_bytes(buffer);
            let next = self.builder.ins().iadd_imm_s(value, bytes);
            self.builder.def_var(pointer, next);
        }
        let goes_on = match left.filter(|_| !self.counted[var]) {
            Some(left) => {
                let value = self.builder.use_var(left);
                let next = self.builder.ins().iadd_imm_s(value, -1);
                self.builder.def_var(left, next);
                next
            }
            None => {
                let value = self.builder.use_var(counter);
                let next = self.builder.ins().iadd_imm_s(value, step);
                self.builder.def_var(counter, next);
                self.builder.ins().icmp(IntCC::SignedLessThan, next, end)
            }
        };
        self.builder.ins().brif(goes_on, inside, &[], after, &[]);
        self.builder.seal_block(inside);
        self.builder.switch_to_block(after);
        self.builder.seal_block(after);
    }

    fn is_shared(&self, var: usize) -> bool {
        self.shared.as_ref().is_some_and(|(split, _)| split.loops.contains(&LoopVar(var as u32)))
    }

    /// The value of a running loop's variable.
    fn count(&mut self, var: LoopVar, counter: cranelift_frontend::Variable) -> Value {
        self.counted[var.0 as usize] = true;
        self.builder.use_var(counter)
    }

    /// First value and end of a loop that threads share; none if it is not shared.
    fn shared_range(&mut self, var: usize, low: &Bound, high: &Bound, step: i64) -> Option<(Value, Value)> {
        let (split, part) = self.shared.as_ref()?;
        let (Bound::Constant(low), Bound::Constant(high)) = (low, high) else { return None };
        let (parts, part) = (split.loops.contains(&LoopVar(var as u32)).then_some(split.parts as i64)?, *part);
        let count = turns(*low, *high, step) as i64;
        let first = self.turn(part, count, parts, step, *low);
        let next = self.builder.ins().iadd_imm_s(part, 1);
        let end = self.turn(next, count, parts, step, *low);
        let last = self.builder.ins().iconst(types::I64, *high);
        let end = self.builder.ins().smin(end, last);
        Some((first, end))
    }

    /// `low + count * part / parts * step`
    fn turn(&mut self, part: Value, count: i64, parts: i64, step: i64, low: i64) -> Value {
        let turn = self.builder.ins().imul_imm_s(part, count);
        let parts = self.builder.ins().iconst(types::I64, parts);
        let turn = self.builder.ins().udiv(turn, parts);
        let offset = self.builder.ins().imul_imm_s(turn, step);
        self.builder.ins().iadd_imm_s(offset, low)
    }

    fn bound(&mut self, bound: &Bound) -> Value {
        match bound {
            Bound::Constant(value) => self.builder.ins().iconst(types::I64, *value),
            Bound::Max(low, affine, divisor) => {
                let value = self.ceil_quotient(affine, *divisor);
                let low = self.builder.ins().iconst(types::I64, *low);
                self.builder.ins().smax(value, low)
            }
            Bound::Min(high, affine, divisor) => {
                let value = self.ceil_quotient(affine, *divisor);
                let high = self.builder.ins().iconst(types::I64, *high);
                self.builder.ins().smin(value, high)
            }
        }
    }

    /// `ceil(affine / divisor)` for a positive divisor: a quotient rounded towards zero, plus one if the rest is positive.
    fn ceil_quotient(&mut self, affine: &Affine, divisor: i64) -> Value {
        let value = self.terms(affine, 1);
        let value = self.builder.ins().iadd_imm_s(value, affine.constant);
        if divisor == 1 {
            return value;
        }
        let by = self.builder.ins().iconst(types::I64, divisor);
        let quotient = self.builder.ins().sdiv(value, by);
        let whole = self.builder.ins().imul(quotient, by);
        let rest = self.builder.ins().isub(value, whole);
        let zero = self.builder.ins().iconst(types::I64, 0);
        let more = self.builder.ins().icmp(IntCC::SignedGreaterThan, rest, zero);
        let more = self.builder.ins().uextend(types::I64, more);
        self.builder.ins().iadd(quotient, more)
    }

    /// The terms of an affine expression that are not known, times `scale`. Known ones are for [`Translator::known`].
    fn terms(&mut self, affine: &Affine, scale: i64) -> Value {
        let mut sum = None;
        for (var, coefficient) in &affine.terms {
            if let Some(LoopValue::Running(counter)) = self.loops[var.0 as usize] {
                let value = self.count(*var, counter);
                let term = self.builder.ins().imul_imm_s(value, coefficient * scale);
                sum = Some(match sum {
                    Some(sum) => self.builder.ins().iadd(sum, term),
                    None => term,
                });
            }
        }
        let known = self.known(affine) * scale;
        match sum {
            Some(sum) if known == 0 => sum,
            Some(sum) => self.builder.ins().iadd_imm_s(sum, known),
            None => self.builder.ins().iconst(types::I64, known),
        }
    }
}
